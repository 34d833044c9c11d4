"""What an engine's sound depends on, from its configuration: so that no prompt is played that was made otherwise.

Part of it are: the engine's kind, this program's version, every setting that is not known to leave the sound alone, the
content of model files and of the voice's own. Not part of it are what Chatterbox finds out for itself on a machine
(`backend`, `precision` and `devices` count as configured: "auto" is "auto") and versions of numeric libraries: those
change samples, not the voice. Code that is changed without a new version needs `chatterline prompts clear`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from mediaserver import __version__
from mediaserver.config import ChatterboxConfig, TtsConfig
from mediaserver.engines import Kind, voices_directory
from mediaserver.onnx_engine import OnnxConfig
from tts_engine.errors import EngineError
from tts_engine.prompts.fingerprint import Fingerprints, fingerprint

_SILENT_CHATTERBOX = frozenset(
    {
        "model",  # its files are taken instead, wherever they lie
        "nano_model",
        "engines_dir",
        "voices_dir",
        "default_voice",
        "max_streams",
        "max_first_audio_ms",
        "kv_memory_mb",
        "ahead_s",
        "voices_at_once",
    }
)
_SILENT_ONNX = frozenset(
    {"model", "workers", "threads", "max_streams", "max_first_audio_ms", "voices", "default_voice"}
)
"Keys that no sample depends on. A key that is new counts until it is named here."

VoiceIdentity = Callable[[str], str | None]


class EngineIdentity:
    """An Identity (tts_engine.prompts): of the engine that a configuration means."""

    def __init__(self, config: TtsConfig, kind: Kind) -> None:
        self._config = config
        self._kind = kind
        self._common = ""
        self._voice: VoiceIdentity = lambda name: None

    def load(self) -> None:
        """Read the files: some 100 MB of them at most. Raises OSError, EngineError."""
        if self._kind == "embedded":
            settings, self._voice = _embedded(self._config)
        elif self._kind == "chatterbox-onnx":
            settings, self._voice = _onnx(self._config.onnx)
        else:
            settings, self._voice = _chatterbox(self._config, self._kind)
        common = {"kind": self._kind, "version": __version__, "seed": self._config.seed, **settings}
        self._common = _hash(common)

    def of(self, voice: str) -> str | None:
        """None before load(), and for a voice that is not there."""
        if not self._common:
            return None
        own = self._voice(voice)
        return None if own is None else f"{self._common}:{own}"


def _hash(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _embedded(config: TtsConfig) -> tuple[dict[str, object], VoiceIdentity]:
    # The package: its dictionaries and rules decide how words are read.
    from hibari.voices import voice_path  # noqa: PLC0415

    read = Fingerprints()
    voices = {}
    for name, voice in config.voices.items():
        try:
            model = read.of(Path(voice_path(voice.model, download_missing=False)))
        except ValueError as error:
            raise EngineError(str(error)) from None
        voices[name] = _hash([voice.model, model, voice.speed])
    return {"hibari": importlib.metadata.version("hibari-tts")}, voices.get


def _chatterbox(config: TtsConfig, kind: Kind) -> tuple[dict[str, object], VoiceIdentity]:
    from tts_engine.chatterbox.cfg import cfg_scale  # noqa: PLC0415
    from tts_engine.chatterbox.checkpoint import RELEASED_FILES, VOICE_ENCODER_FILE  # noqa: PLC0415
    from tts_engine.chatterbox.hub import find_model  # noqa: PLC0415

    given: ChatterboxConfig = config.chatterbox
    model = given.model if kind == "chatterbox" else given.nano_model
    directory = find_model(model)
    if directory is None:
        raise EngineError(f"the weights of {model} are not here")
    from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE, VoiceStore  # noqa: PLC0415 - torch

    files = _fingerprints(directory / name for name in RELEASED_FILES if name != VOICE_ENCODER_FILE)
    store = VoiceStore(voices_directory(config))
    read = Fingerprints()

    def voice(name: str) -> str | None:
        """Voices may be replaced while the server runs."""
        if name == BUILT_IN_VOICE:
            return "built-in"  # a file of the model's
        try:
            return read.of(store.path(name))
        except (OSError, EngineError):
            return None

    return {
        **given.model_dump(mode="json", exclude=set(_SILENT_CHATTERBOX)),
        "files": files,
        "cfg": cfg_scale(),
    }, voice


def _onnx(given: OnnxConfig) -> tuple[dict[str, object], VoiceIdentity]:
    # Imported here: only this engine needs it.
    from tts_engine.chatterbox.cfg import cfg_scale  # noqa: PLC0415
    from tts_engine.onnx_bundle.files import external_data, find_files  # noqa: PLC0415
    from tts_engine.onnx_bundle.hub import find_bundle  # noqa: PLC0415

    parts = {str(part): str(precision) for part, precision in given.part_precision.items()}
    directory = find_bundle(given.model, given.precision, parts)
    if directory is None:
        raise EngineError(f"the ONNX bundle {given.model} is not here")
    bundle = find_files(directory, given.precision, parts)
    graphs = [path for graph in bundle.graphs.values() for path in (graph, *map(graph.with_name, external_data(graph)))]
    # The engine listens to its recordings once, when it loads.
    recordings = {name: path.expanduser() for name, path in given.voices.items()}
    if bundle.default_voice is not None:
        recordings.setdefault("default", bundle.default_voice)
    voices = {name: fingerprint(path) for name, path in recordings.items()}
    return {
        **given.model_dump(mode="json", exclude=set(_SILENT_ONNX)),
        "files": _fingerprints((*graphs, bundle.tokenizer)),
        "cfg": cfg_scale(),
    }, voices.get


def _fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """By name, of those that are there. Raises OSError."""
    return {path.name: fingerprint(path) for path in paths if path.is_file()}
