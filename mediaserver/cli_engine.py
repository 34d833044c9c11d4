"""The command line's `engine`: build, list, check, prune and export TensorRT engines of a Chatterbox model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mediaserver.cli_support import fail, read_config
from mediaserver.config import Config
from mediaserver.engine_lines import Progress, described, described_plan, table
from mediaserver.engines import engines_directory
from tts_engine.errors import EngineError

if TYPE_CHECKING:
    from tts_engine.tensorrt.flavour import Capability, Flavour
    from tts_engine.tensorrt.manifest import Manifest
    from tts_engine.tensorrt.plan_store import PlanStore, Stored

app = typer.Typer(
    name="engine",
    help="TensorRT engines of a Chatterbox model: for a GPU, ahead or on the spot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Half(StrEnum):
    """What `--precision` takes."""

    FP16 = "fp16"
    BF16 = "bf16"


class Exported(StrEnum):
    """What `--precision` takes of an export."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class FlavourOption(StrEnum):
    """What `--flavour` takes."""

    TENSORRT_RTX = "tensorrt-rtx"
    TENSORRT = "tensorrt"


ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file that names model and engines.")]
WeightsOption = Annotated[
    str | None, typer.Option(help="Directory or Hugging Face repository of the model; by default the configured one.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where engines lie; by default as configured: beside the voices.")
]
StageOption = Annotated[
    list[str] | None,
    typer.Option("--stage", help="t3_prefill, t3_step, flow_encoder, estimator or vocoder; again for more. All."),
]
FlavourChoice = Annotated[
    FlavourOption | None, typer.Option("--flavour", help="By default what is installed.", show_default=False)
]


@app.command("build")
def build_command(
    target: Annotated[
        str | None, typer.Option(help="GPU that the engines are for: sm86 (A10G), sm89 (L4) ...; by default this one.")
    ] = None,
    precision: Annotated[Half, typer.Option(help="What products are computed in.")] = Half.FP16,
    weights: WeightsOption = None,
    out: OutOption = None,
    stage: StageOption = None,
    flavour: FlavourChoice = None,
    workspace_mb: Annotated[int, typer.Option(min=1, help="Scratch memory that an engine may take.")] = 2048,
    level: Annotated[int, typer.Option(min=0, max=5, help="How hard the builder searches.")] = 3,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="TensorRT: engines for every GPU from sm80 on.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Build engines; what is there already for the same weights, GPU and TensorRT is not built again."""
    settings = read_config(config)
    with _told():
        from tts_engine.tensorrt.build_all import STAGES, Order, build_all, check_stages  # noqa: PLC0415 - torch
        from tts_engine.tensorrt.builder import Options  # noqa: PLC0415
        from tts_engine.tensorrt.flavour import find_flavour, present_gpu, target_name  # noqa: PLC0415
        from tts_engine.tensorrt.plan_store import PlanStore  # noqa: PLC0415

        # What is quick to refuse is refused first.
        check_stages(stage or ())
        gpu = present_gpu()
        aimed = _target(target, gpu)
        found = find_flavour(flavour, gpu)
        found.check_target(aimed, gpu, hardware_compatible=hardware_compatible)
        model = weights or _configured(settings)
        directory = _weights(model)
        options = Options(
            target=aimed,
            gpu=gpu,
            hardware_compatible=hardware_compatible,
            level=level,
            workspace_bytes=workspace_mb << 20,
        )
        order = Order(directory, model, precision.value, options, stage or STAGES)
        store = PlanStore(_out(out, settings))
        typer.echo(f"{found}, {precision.value} for {target_name(aimed)}, weights of {directory}")
        with Progress(order.stages) as progress:
            outcomes = build_all(order, found, store, progress.report)
    for line in table(outcomes):
        typer.echo(line)
    typer.echo(f"in {store.directory}")


@app.command("list")
def list_command(out: OutOption = None, weights: WeightsOption = None, config: ConfigOption = None) -> None:
    """Show what engines there are, for which GPU, and whether they fit the weights and the TensorRT at hand."""
    settings = read_config(config)
    with _told():
        from tts_engine.tensorrt.plan_store import PlanStore  # noqa: PLC0415 - torch

        store = PlanStore(_out(out, settings))
        stored = store.list()
        if not stored:
            typer.echo(f"no engines in {store.directory}: `chatterline engine build` makes them")
            return
        digest = _digest(weights, settings)
        outdated = False
        for entry in stored:
            if entry.manifest is None:
                typer.echo(f"{entry.folder.name}: unusable: {entry.problem}")
                continue
            typer.echo(described(entry.manifest))
            fitness, stale = _fitness(entry.manifest, entry.folder, digest)
            outdated |= stale
            typer.echo(f"  {fitness}")
            if absent := _absent(entry.manifest):
                typer.echo(f"  incomplete: no engine for {', '.join(absent)}")
            for plan in entry.manifest.plans.values():
                typer.echo(f"  {described_plan(plan)}")
        if outdated:
            typer.echo("`chatterline engine prune` removes what is outdated")


@app.command("check")
def check_command(
    run: Annotated[bool, typer.Option("--run", help="Run every engine on this GPU: parity and speed.")] = False,
    out: OutOption = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
) -> None:
    """Read every plan and compare it with its manifest, the weights, the GPU and TensorRT.

    Exit code 1 if a plan is damaged or missing, or no set of engines fits what is here.
    """
    settings = read_config(config)
    with _told():
        from tts_engine.tensorrt.plan_store import PlanStore  # noqa: PLC0415 - torch

        store = PlanStore(_out(out, settings))
        directory = _weights(weights or _configured(settings))
        if run:
            good = _run_checks(store.directory, directory)
            raise typer.Exit(0 if good else 1)
        stored = store.list()
        if not stored:
            raise EngineError(f"there are no engines in {store.directory}: `chatterline engine build` makes them")
        good = _check_all(store, stored, str(directory))
    raise typer.Exit(0 if good else 1)


@app.command("prune")
def prune_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
    out: OutOption = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove engines of other weights, or of another version of TensorRT or Chatterline, than are here.

    Engines for other GPUs and precisions stay, and so do those of a TensorRT that is not installed here.
    """
    settings = read_config(config)
    with _told():
        from tts_engine.tensorrt.manifest import weights_digest  # noqa: PLC0415 - torch
        from tts_engine.tensorrt.plan_store import PlanStore  # noqa: PLC0415

        store = PlanStore(_out(out, settings))
        if not store.list():
            typer.echo(f"no engines in {store.directory}")
            return
        digest = weights_digest(_weights(weights or _configured(settings)))
        with store.locked():
            for entry in store.list():
                if entry.manifest is None:
                    typer.echo(f"{entry.folder.name}: stays, remove it by hand: {entry.problem}")
                elif (why := _outdated(entry.manifest, entry.folder, digest)) is not None:
                    if not dry_run:
                        store.remove(entry.folder.name)
                    typer.echo(f"{entry.folder.name}: {'would be removed' if dry_run else 'removed'}: {why}")
                else:
                    typer.echo(f"{entry.folder.name}: stays")


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Option("--out", help="Directory for the ONNX files.")],
    precision: Annotated[Exported, typer.Option(help="fp32, or as engines are built of them.")] = Exported.FP32,
    weights: WeightsOption = None,
    stage: StageOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the ONNX files alone, checked: for trtexec, tensorrt_rtx or ONNX Runtime."""
    settings = read_config(config)
    with _told():
        from tts_engine.tensorrt.build_all import STAGES, check_stages, export_all  # noqa: PLC0415 - torch

        check_stages(stage or ())
        directory = _weights(weights or _configured(settings))
        with Progress(stage or STAGES) as progress:
            paths = export_all(directory, out, stage or STAGES, precision.value, progress.report)
    for path in paths:
        typer.echo(path)


@contextmanager
def _told() -> Iterator[None]:
    """Errors as one message. PyTorch and the rest are extras, imported only inside."""
    try:
        yield
    except EngineError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(
            f"engines need the extras `chatterbox` and `tensorrt-rtx` (or `tensorrt`): "
            f"pip install 'chatterline[chatterbox,tensorrt-rtx]' ({error})"
        )
    except KeyboardInterrupt:
        typer.secho("chatterline: interrupted; the same command goes on where it was", err=True)
        raise typer.Exit(130) from None


def _target(name: str | None, gpu: Capability | None) -> Capability:
    from tts_engine.tensorrt.flavour import parse_target  # noqa: PLC0415 - torch

    if name is not None:
        return parse_target(name)
    if gpu is None:
        raise EngineError("there is no GPU here to build for: --target names one, sm86 for an A10G")
    return gpu


def _configured(settings: Config) -> str:
    """The model of the engine that the configuration names."""
    given = settings.tts.chatterbox
    return given.nano_model if settings.tts.engine == "chatterbox-nano" else given.model


def _weights(model: str) -> Path:
    from tts_engine.chatterbox.checkpoint import CheckpointError, missing_files  # noqa: PLC0415
    from tts_engine.chatterbox.hub import find_model  # noqa: PLC0415

    directory = find_model(model)
    if directory is None:
        raise EngineError(f"the model {model} is not here: `chatterline fetch-model` fetches it")
    if missing := missing_files(directory):
        raise CheckpointError(directory, missing)
    return directory


def _out(out: Path | None, settings: Config) -> Path:
    return out.expanduser() if out is not None else engines_directory(settings.tts)


def _digest(weights: str | None, settings: Config) -> str | None:
    """None if the configured model is not here to compare with; one that was named must be."""
    from tts_engine.tensorrt.manifest import weights_digest  # noqa: PLC0415 - torch

    if weights is not None:
        return weights_digest(_weights(weights))
    try:
        return weights_digest(_weights(_configured(settings)))
    except EngineError:
        return None


def _fit(manifest: Manifest, folder: Path, digest: str | None, *, gpu: Capability | None) -> None:
    """Raises PlanError, NotInstalledError."""
    from tts_engine.tensorrt.flavour import find_flavour  # noqa: PLC0415 - torch

    installed: Flavour = find_flavour(manifest.flavour)
    manifest.check_fit(folder, weights=digest or manifest.weights, flavour=installed, gpu=gpu)


def _outdated(manifest: Manifest, folder: Path, digest: str | None) -> str | None:
    """Why no GPU could run these engines with the weights and the TensorRT at hand; None if one could, or if their
    TensorRT is not installed, so that it is not known.
    """
    from tts_engine.tensorrt.faults import NotInstalledError, PlanError  # noqa: PLC0415 - torch

    try:
        _fit(manifest, folder, digest, gpu=None)
    except NotInstalledError:
        return None
    except PlanError as fault:
        return str(fault)
    return None


def _absent(manifest: Manifest) -> list[str]:
    from tts_engine.tensorrt.build_all import STAGES  # noqa: PLC0415 - torch

    return [stage for stage in STAGES if stage not in manifest.plans]


def _fitness(manifest: Manifest, folder: Path, digest: str | None) -> tuple[str, bool]:
    """In words, and whether they are outdated."""
    from tts_engine.tensorrt.flavour import present_gpu  # noqa: PLC0415 - torch

    if (why := _outdated(manifest, folder, digest)) is not None:
        return f"outdated: {why}", True
    gpu = present_gpu()
    try:
        _fit(manifest, folder, digest, gpu=gpu)
    except EngineError as fault:
        return f"does not fit: {fault}", False
    known = ["the weights"] * (digest is not None) + ["the TensorRT"] + ["the GPU"] * (gpu is not None)
    return f"fits {' and '.join((', '.join(known[:-1]), known[-1])) if known[1:] else known[0]} at hand", False


def _check_all(store: PlanStore, stored: Sequence[Stored], weights: str) -> bool:
    """Say what each set of engines is. Whether one fits what is here and nothing is damaged or missing."""
    from tts_engine.tensorrt.flavour import present_gpu  # noqa: PLC0415 - torch
    from tts_engine.tensorrt.manifest import weights_digest  # noqa: PLC0415

    digest, gpu, good, fitting = weights_digest(Path(weights)), present_gpu(), True, 0
    if gpu is None:
        typer.echo("there is no GPU here: for which GPU the engines are was not compared")
    for entry in stored:
        if entry.manifest is None:
            _red(f"{entry.folder.name}: {entry.problem}")
            good = False
            continue
        try:
            _fit(entry.manifest, entry.folder, digest, gpu=gpu)
        except EngineError as fault:  # it stays beside those that fit, and is not taken
            typer.secho(f"{entry.folder.name}: not for here: {fault}", err=True, fg=typer.colors.YELLOW)
            continue
        fitting += 1
        for stage in (*entry.manifest.plans, *_absent(entry.manifest)):
            good &= _checked(store, entry.manifest, stage)
    if not fitting:
        _red(f"none of the engines in {store.directory} fits what is here: `chatterline engine build` makes some")
    return good and fitting > 0


def _checked(store: PlanStore, manifest: Manifest, stage: str) -> bool:
    """Say what a plan is; False if something is wrong with it."""
    try:
        plan = manifest.plan(stage, store.directory / manifest.folder)
        store.read(manifest.folder, plan)
    except EngineError as fault:
        _red(f"{manifest.folder} {stage}: {fault}")
        return False
    typer.echo(f"{manifest.folder} {stage}: whole, {plan.bytes / 1e6:.0f} MB")
    return True


def _red(line: str) -> None:
    typer.secho(line, err=True, fg=typer.colors.RED)


def _run_checks(engines: Path, weights: Path) -> bool:
    """All engines for this GPU and these weights, run. Whether nothing was wrong."""
    from tts_engine.tensorrt.engine_check import run_checks  # noqa: PLC0415 - torch

    return run_checks(engines, weights, typer.echo)
