"""The bundle on the Hugging Face hub: found in its cache, or downloaded, in the precisions asked for only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tts_engine.chatterbox import hub
from tts_engine.chatterbox.hub import HubError
from tts_engine.onnx_bundle.files import DEFAULT_VOICE, FOLDER, REPOSITORY, TOKENIZER, graph_names, missing_files


def patterns(precision: str, part_precision: Mapping[str, str] | None = None) -> list[str]:
    """What is downloaded; the whole repository, in all precisions, is several times as large."""
    names = graph_names(precision, part_precision or {}).values()
    graphs = [pattern for name in names for pattern in (f"{FOLDER}/{name}", f"{FOLDER}/{name}_data*")]
    return [TOKENIZER, DEFAULT_VOICE, *graphs]


def find_bundle(name_or_dir: str, precision: str, part_precision: Mapping[str, str] | None = None) -> Path | None:
    """A bundle on this machine: an existing directory (not looked into), or one that the hub's cache holds whole.

    Never uses the network. None if there is none.
    """
    try:
        directory = Path(name_or_dir).expanduser()
        if name_or_dir and directory.is_dir():
            return directory
        client = hub.client_of_hub()
    except (OSError, RuntimeError, HubError):  # no name of a file; no home; not installed
        return None
    try:
        found = client.snapshot_download(
            name_or_dir, local_files_only=True, allow_patterns=patterns(precision, part_precision)
        )
    except client.errors.LocalEntryNotFoundError as error:
        # Newer versions refuse a snapshot that lacks any file of the repository; default_voice.wav may be one.
        found = getattr(error, "snapshot_path", None)
    except client.errors.HFValidationError:
        return None
    if found is None or missing_files(Path(found), precision, part_precision):
        return None
    return Path(found)


def fetch_bundle(
    repository: str = REPOSITORY,
    *,
    precision: str = "q4",
    part_precision: Mapping[str, str] | None = None,
    to: Path | None = None,
    progress: bool = True,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download the bundle and give its directory; as chatterbox.hub.fetch_model. Raises HubError, BundleError."""
    wanted = patterns(precision, part_precision)
    client = hub.client_of_hub()
    if to is not None and to.exists() and not to.is_dir():
        raise HubError(f"{to} is not a directory")
    with hub.explained(client, repository, to), hub.progress_bars(client, progress):
        found = Path(
            client.snapshot_download(
                repository, cache_dir=cache, local_dir=to, endpoint=endpoint, allow_patterns=wanted
            )
        )
    if missing := missing_files(found, precision, part_precision):
        raise HubError(f"{repository}, as downloaded to {found}, is not a whole ONNX bundle: {', '.join(missing)}")
    return found
