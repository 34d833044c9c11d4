"""EngineSession over a module that has TensorRT's API and runs PyTorch: what it sets, when, and what it refuses."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tts_engine.tensorrt import fake_trt
from tests.tts_engine.tensorrt.fake_trt import FakeTrt, Made, Strategy
from tts_engine.tensorrt import engine_session
from tts_engine.tensorrt.engine_session import ALIGNMENT, EngineSession, Scratch
from tts_engine.tensorrt.faults import PlanError, TensorRtError
from tts_engine.tensorrt.flavour import TensorRt, TensorRtRtx
from tts_engine.tensorrt.graph_scope import GraphScope
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.profiles import Profile

WIDTH = 8
PROFILES = (
    Profile("short", {"rows": (1, 4, 16), "frames": (2, 4, 8)}),
    Profile("long", {"rows": (1, 1, 2), "frames": (2, 16, 64)}),
)


class Doubled(nn.Module):
    """Each frame twice, scaled by a table and moved by each row's number."""

    def forward(self, x: Tensor, number: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        moved = x * table + number[:, None, None]
        return moved.repeat_interleave(2, 1).float(), moved.sum(2)


def stage_of(module: nn.Module | None = None) -> Stage:
    def example(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        rows = dims["rows"]
        return {
            "x": torch.randn(rows, dims["frames"], WIDTH, generator=generator),
            "number": torch.randint(0, 9, (rows,), generator=generator, dtype=torch.int32),
            "table": torch.randn(WIDTH, generator=generator),
        }

    return Stage(
        "doubled",
        module or Doubled(),
        (
            Port("x", "half", ("rows", "frames", WIDTH)),
            Port("number", "int32", ("rows",)),
            Port("table", "half", (WIDTH,)),
        ),
        (Port("twice", "float32", ("rows", "2*frames", WIDTH)), Port("sums", "half", ("rows", "frames"))),
        example,
    )


def made(**changes: object) -> Made:
    return Made(stage_of(), PROFILES, **changes)  # type: ignore[arg-type]


def session_of(plan: Made, *, rtx: bool = True, scratch: Scratch | None = None, kernels: bytes = b"") -> EngineSession:
    module = FakeTrt("1.7.1.116" if rtx else "10.16.1.11")
    flavour = TensorRtRtx(module) if rtx else TensorRt(module)
    scratch = scratch or Scratch(torch.device("cpu"))
    stage = plan.stage
    return EngineSession(
        "doubled", module.plan(plan), flavour, stage.inputs, stage.outputs, PROFILES, plan.half, scratch, kernels
    )


def inputs(rows: int, frames: int, half: torch.dtype = torch.float32, seed: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    given = stage_of().example({"rows": rows, "frames": frames}, generator)
    # TensorRT is given memory that begins at multiples of 256; the CPU's allocator has 64.
    return {name: aligned(tensor.to(half) if tensor.is_floating_point() else tensor) for name, tensor in given.items()}


def aligned(tensor: Tensor) -> Tensor:
    memory = torch.empty(tensor.nbytes + ALIGNMENT, dtype=torch.uint8)
    offset = -memory.data_ptr() % ALIGNMENT
    return memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


@pytest.fixture(autouse=True)
def aligned_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's allocator for GPUs gives multiples of 512."""

    def empty(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        poisoned = torch.full([shape] if isinstance(shape, int) else shape, 1, dtype=dtype)
        return aligned(poisoned * torch.nan if dtype.is_floating_point else poisoned)

    monkeypatch.setattr(engine_session, "_empty", empty)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Append True to begin a graph."""
    state: list[bool] = []
    monkeypatch.setattr(engine_session, "_capturing", lambda _: bool(state))
    return state


class TestRunning:
    @pytest.mark.parametrize("half", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("rtx", [True, False])
    def test_it_computes_what_the_module_does(self, half: torch.dtype, rtx: bool) -> None:
        plan = made(half=half)
        session = session_of(plan, rtx=rtx)
        for rows, frames in ((1, 2), (16, 8), (2, 64), (3, 5), (16, 8)):
            given = inputs(rows, frames, half)
            expected = plan.stage.module(*given.values())
            results = session.run(given)
            assert list(results) == ["twice", "sums"]
            for result, wanted in zip(results.values(), expected, strict=True):
                assert result.dtype == wanted.dtype
                assert torch.equal(result, wanted)

    def test_a_context_a_profile_and_the_first_that_fits(self) -> None:
        plan = made()
        session = session_of(plan)
        for rows, frames in ((1, 2), (1, 8), (1, 9), (16, 8), (2, 64)):
            session.run(inputs(rows, frames))
        assert [context.profile for context in plan.contexts] == [0, 1]
        assert [sizes[0][:2] for sizes in plan.contexts[0].executed] == [(1, 2), (1, 8), (16, 8)]
        assert [sizes[0][:2] for sizes in plan.contexts[1].executed] == [(1, 9), (2, 64)]

    def test_an_address_is_set_once_while_it_stays(self) -> None:
        plan = made()
        session = session_of(plan)
        given = inputs(2, 4)
        session.run(given)
        (context,) = plan.contexts
        assert sorted(context.set_addresses) == ["number", "sums", "table", "twice", "x"]
        del context.set_addresses[:]
        session.run(given | {"number": aligned(given["number"] + 1)})
        assert "number" in context.set_addresses
        assert not {"x", "table"} & set(context.set_addresses)

    def test_a_slice_that_begins_anywhere_is_moved(self) -> None:
        session, given = session_of(made()), inputs(5, 4)
        later = {name: tensor[1:] if name != "table" else tensor for name, tensor in given.items()}
        assert later["number"].data_ptr() % ALIGNMENT
        moved = {name: aligned(tensor) for name, tensor in later.items()}
        assert torch.equal(session.run(later)["twice"], session.run(moved)["twice"])

    def test_results_belong_to_the_caller(self) -> None:
        session, given = session_of(made()), inputs(2, 4)
        first = session.run(given)["twice"]
        kept = first.clone()
        session.run(given | {"x": aligned(given["x"] + 1)})
        assert torch.equal(first, kept)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"x": None}, "doubled: no tensor for x"),
            ({"x": torch.zeros(2, 4, WIDTH, dtype=torch.float64)}, "x is torch.float64, not torch.float32"),
            ({"x": torch.zeros(2, WIDTH, 4).mT}, "x is not contiguous"),
            ({"number": torch.zeros(2, dtype=torch.int32, device="meta")}, "number is on meta, not on cpu"),
            ({"number": torch.zeros(2)}, "number is torch.float32, not torch.int32"),
            ({"x": torch.zeros(2, 65, WIDTH)}, r"x may be from \(1, 2, 8\) to \(16, 8, 8\) or \(2, 64, 8\)"),
            ({"x": torch.zeros(2, 4, WIDTH + 1)}, r"no profile holds x \[2, 4, 9\]"),
            ({"x": torch.zeros(2, 4)}, r"no profile holds x \[2, 4\]"),
            (
                {"x": torch.zeros(3, 9, WIDTH), "number": torch.zeros(3, dtype=torch.int32)},
                r"no profile holds x \[3, 9",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, change: dict[str, Tensor | None], said: str) -> None:
        given = {name: tensor for name, tensor in (inputs(2, 4) | change).items() if tensor is not None}
        plan = made()
        with pytest.raises(ValueError, match=said):
            session_of(plan).run(given)
        assert not any(context.executed for context in plan.contexts)

    def test_an_engine_that_does_not_run_says_so(self) -> None:
        with pytest.raises(TensorRtError, match="the engine doubled did not run"):
            session_of(made(runs=False)).run(inputs(1, 2))

    @given(st.lists(st.tuples(st.integers(1, 18), st.integers(1, 66)), min_size=1, max_size=6))
    def test_any_sizes_run_or_are_refused(self, sizes: list[tuple[int, int]]) -> None:
        plan = made()
        session = session_of(plan)
        for rows, frames in sizes:
            given = inputs(rows, frames)
            if (rows <= 16 and 2 <= frames <= 8) or (rows <= 2 and 2 <= frames <= 64):
                assert torch.equal(session.run(given)["twice"], plan.stage.module(*given.values())[0])
            else:
                with pytest.raises(ValueError, match="no profile holds"):
                    session.run(given)


class TestGraphs:
    def test_each_call_of_a_graph_keeps_a_context_of_its_own(self, capture: list[bool]) -> None:
        plan = made()
        session = session_of(plan)
        scopes = [captured(session, capture, sizes, sizes) for sizes in ((16, 8), (4, 8), (2, 64))]
        assert [context.profile for context in plan.contexts] == [0, 0, 0, 0, 1, 1]
        assert [len(context.executed) for context in plan.contexts] == [3] * 6, "two calls before, and the captured one"
        session.run(inputs(16, 8))
        session.run(inputs(3, 3))
        assert len(plan.contexts) == 7, "all other calls share one that no graph knows"
        assert [context.shapes["x"][:2] for context in plan.contexts[:6:2]] == [(16, 8), (4, 8), (2, 64)]
        assert [len(context.executed) for context in plan.contexts] == [3] * 6 + [2]
        assert not any(scope.refusal(0) for scope in scopes)

    def test_a_graph_that_cannot_hold_a_call_says_which(self, capture: list[bool]) -> None:
        plan = made(capturable=lambda context: context.shapes["x"][0] < 10)
        session = session_of(plan)
        assert session.capturable, "at the least sizes"
        assert not captured(session, capture, (4, 8)).refusal(0)
        assert captured(session, capture, (4, 8), (16, 8)).refusal(0) == (
            "no graph can hold the engine doubled at [16, 8, 8] [16]"
        )

    @pytest.mark.parametrize("before", [None, (2, 4)])
    def test_a_graph_wants_a_call_of_its_sizes_before(
        self, capture: list[bool], before: tuple[int, int] | None
    ) -> None:
        session: EngineSession = session_of(made())
        scope: GraphScope[Any] = GraphScope()
        with scope:
            if before:
                session.run(inputs(*before))
            scope.begin()
            capture.append(True)
            with pytest.raises(TensorRtError, match=r"a graph of x \[2, 5, 8\], .* needs a call of the same before it"):
                session.run(inputs(2, 5))
        with pytest.raises(TensorRtError, match="is captured outside of a GraphScope"):
            session.run(inputs(2, 5))

    @pytest.mark.parametrize("fault", ["shape", "context"])
    def test_what_tensorrt_refuses_is_its_fault(self, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
        session = session_of(made())
        if fault == "shape":
            monkeypatch.setattr(fake_trt.Context, "set_input_shape", lambda *_: False)
        else:
            monkeypatch.setattr(fake_trt.Engine, "create_execution_context", lambda *_: None)
        with pytest.raises(TensorRtError, match="the engine doubled"):
            session.run(inputs(2, 5))

    @pytest.mark.parametrize("capturable", [True, False])
    def test_the_flavour_says_whether_graphs_can_hold_it(self, capturable: bool) -> None:
        plan = made(capturable=capturable)
        session = session_of(plan)
        assert session.capturable is capturable
        assert session.capturable is capturable
        assert plan.contexts[0].executed == [((1, 2, WIDTH), (1,), (WIDTH,))], "asked after one run, and once"
        assert session_of(made(capturable=False), rtx=False).capturable

    def test_asking_fails_where_running_does(self) -> None:
        with pytest.raises(TensorRtError, match="did not run"):
            _ = session_of(made(runs=False)).capturable

    def test_kernels_are_compiled_at_once_until_it_settles(self) -> None:
        plan = made()
        session = session_of(plan, kernels=b"of yesterday")
        session.run(inputs(2, 4))
        session.settle()
        session.run(inputs(2, 4))
        configs = [context.config for context in plan.contexts]
        assert [each.dynamic_shapes_kernel_specialization_strategy for each in configs] == [
            Strategy.EAGER,
            Strategy.LAZY,
        ]
        assert all(each.strategy is Strategy.USER_MANAGED for each in configs)
        assert session.kernels() == b"of yesterday"

    @pytest.mark.parametrize("capturable", [True, False])
    def test_one_that_graphs_cannot_hold_captures_itself(self, capturable: bool) -> None:
        plan = made(capturable=capturable)
        session = session_of(plan)
        assert session.capturable is capturable
        session.settle()
        session.run(inputs(2, 4))
        strategies = [context.config.cuda_graph_strategy for context in plan.contexts]
        assert strategies == [Strategy.DISABLED, Strategy.DISABLED if capturable else Strategy.WHOLE_GRAPH_CAPTURE]

    def test_what_was_captured_outlives_settling(self, capture: list[bool]) -> None:
        plan = made()
        session = session_of(plan)
        config = weakref.ref(session._contexts)
        scope = captured(session, capture, (2, 4))
        session.settle()
        session.run(inputs(2, 4))
        assert len(plan.contexts) == 2, "a graph's context is for nobody else"
        assert len(plan.contexts[0].executed) == 3
        gc.collect()
        assert config() is not None, "runtime configuration and cache live as long as what was made of them"
        del scope
        gc.collect()
        assert config() is None


def captured(session: EngineSession, capture: list[bool], *sizes: tuple[int, int]) -> GraphScope[Any]:
    """A graph of calls of these sizes, as serving.graphs captures one."""
    scope: GraphScope[Any] = GraphScope()
    with scope:
        for last in (False, False, True):
            scope.begin()
            if last:
                capture.append(True)
            for each in sizes:
                session.run(inputs(*each))
    capture.clear()
    return scope


class TestScratch:
    def test_sessions_of_a_stream_share_as_much_as_the_largest_needs(self) -> None:
        scratch = Scratch(torch.device("cpu"))
        plans = [made(scratch=size) for size in (1000, 5000, 10)]
        sessions = [session_of(plan, scratch=scratch) for plan in plans]
        for session in sessions:
            session.run(inputs(2, 4))
            session.run(inputs(1, 64))
        assert scratch.size == 10000, "two profiles: the second takes twice as much"
        memories = {context.memory for plan in plans for context in plan.contexts}
        assert len(memories) == 1
        assert scratch.memory().nbytes == 10000

    def test_it_does_not_grow_once_it_is_used(self) -> None:
        scratch = Scratch(torch.device("cpu"))
        session_of(made(), scratch=scratch).run(inputs(1, 2))
        session_of(made(), scratch=scratch)
        with pytest.raises(TensorRtError, match="of 2000 bytes is in use and cannot grow to 8000"):
            session_of(made(scratch=4000), scratch=scratch)


class TestLoading:
    @pytest.mark.parametrize("plan", [b"", b"half a pla", b"\0" * 100])
    def test_bad_bytes_are_a_plan_error_in_words(self, plan: bytes, caplog: pytest.LogCaptureFixture) -> None:
        stage, flavour, scratch = stage_of(), TensorRtRtx(FakeTrt()), Scratch(torch.device("cpu"))
        ports = stage.inputs, stage.outputs
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(PlanError, match=r"the plan of doubled cannot be loaded by TensorRT-RTX 1\.7.*magic tag"),
        ):
            EngineSession("doubled", plan, flavour, *ports, PROFILES, torch.float32, scratch)
        assert "magic tag" in caplog.text

    def test_the_second_plan_s_reason_is_its_own(self) -> None:
        """A process has one logger, TensorRT's first."""
        module, stage = FakeTrt(), stage_of()
        flavour, scratch = TensorRtRtx(module), Scratch(torch.device("cpu"))
        given = (flavour, stage.inputs, stage.outputs, PROFILES, torch.float32, scratch)
        for name in ("first", "second"):
            with pytest.raises(PlanError, match=f"the plan of {name} .* does not match$") as raised:
                EngineSession(name, b"bad", *given)
            assert str(raised.value).count("magic tag") == 1
        EngineSession("third", module.plan(made()), *given)

    @pytest.mark.parametrize(
        ("ports", "said"),
        [
            ((Port("x", "half", ("rows", "frames", WIDTH)),), "number, table on one side only"),
            (
                (
                    Port("x", "half", ("rows", "frames", WIDTH)),
                    Port("number", "int64", ("rows",)),
                    Port("table", "half", (WIDTH,)),
                ),
                "has number as input of int32, not input of int64",
            ),
        ],
    )
    def test_ports_of_another_stage(self, ports: tuple[Port, ...], said: str) -> None:
        module = FakeTrt()
        plan, scratch = module.plan(made()), Scratch(torch.device("cpu"))
        with pytest.raises(PlanError, match=said):
            EngineSession(
                "doubled", plan, TensorRtRtx(module), ports, stage_of().outputs, PROFILES, torch.float32, scratch
            )

    def test_another_precision(self) -> None:
        module = FakeTrt()
        plan, scratch, stage = module.plan(made(half=torch.float16)), Scratch(torch.device("cpu")), stage_of()
        with pytest.raises(PlanError, match="has x as input of float16, not input of bfloat16"):
            EngineSession(
                "doubled", plan, TensorRtRtx(module), stage.inputs, stage.outputs, PROFILES, torch.bfloat16, scratch
            )

    @pytest.mark.parametrize(
        ("profiles", "said"),
        [
            (PROFILES[:1], "has 2 profiles, not 1; build it again"),
            (
                (PROFILES[0], Profile("long", {"rows": (1, 1, 2), "frames": (2, 16, 128)})),
                r"takes x as .*\(2, 64, 8\)\] in its profile long .* not as .*\(2, 128, 8\)\]; build",
            ),
        ],
    )
    def test_other_profiles(self, profiles: tuple[Profile, ...], said: str) -> None:
        module, stage = FakeTrt(), stage_of()
        plan, scratch = module.plan(made()), Scratch(torch.device("cpu"))
        with pytest.raises(PlanError, match=said):
            EngineSession(
                "doubled", plan, TensorRtRtx(module), stage.inputs, stage.outputs, profiles, torch.float32, scratch
            )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_real_library_without_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    """It deserialises nothing here, and its reason is in the message."""
    module = pytest.importorskip("tensorrt_rtx")
    stage, scratch = stage_of(), Scratch(torch.device("cpu"))
    with pytest.raises(PlanError, match=r"the plan of doubled cannot be loaded by TensorRT-RTX \d+\..*: \w+"):
        EngineSession(
            "doubled", b"no plan", TensorRtRtx(module), stage.inputs, stage.outputs, PROFILES, torch.float16, scratch
        )
