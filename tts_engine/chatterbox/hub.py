"""Models on the Hugging Face hub: found in its cache, or downloaded (`huggingface_hub`, extra `chatterbox`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tts_engine.chatterbox.checkpoint import RELEASED_FILES, REPOSITORIES, missing_files
from tts_engine.errors import EngineError

if TYPE_CHECKING:
    from types import ModuleType


class HubError(EngineError):
    """A model could not be fetched; the message says why and what helps."""


def repository(name: str) -> str:
    """The repository of 'turbo' or 'nano'; any other name is taken as one itself."""
    return REPOSITORIES.get(name, name)


def find_model(name_or_dir: str, *, cache: Path | None = None) -> Path | None:
    """A model on this machine: an existing directory, or a repository that the hub's cache holds whole.

    `name_or_dir`: a path, 'turbo', 'nano' or 'owner/name'. `cache`: instead of the hub's own ($HF_HOME). None if there
    is no such thing, or a download of it was never finished. Never uses the network. Of a directory the files are not
    looked at.
    """
    try:
        directory = Path(name_or_dir).expanduser()
        if name_or_dir and directory.is_dir():
            return directory
        hub = client_of_hub()
    except (OSError, RuntimeError, HubError):  # no name of a file; no home; not installed
        return None
    try:
        found = hub.snapshot_download(
            repository(name_or_dir), cache_dir=cache, local_files_only=True, allow_patterns=list(RELEASED_FILES)
        )
    except hub.errors.LocalEntryNotFoundError as error:
        # Newer versions refuse a snapshot that lacks any file of the repository; we may need fewer.
        found = getattr(error, "snapshot_path", None)
    except hub.errors.HFValidationError:
        return None
    if found is None or missing_files(Path(found)):
        return None
    return Path(found)


def fetch_model(
    repo_id: str,
    *,
    to: Path | None = None,
    progress: bool = True,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download a model's files ('turbo', 'nano' or 'owner/name') and give their directory.

    Into the hub's cache ($HF_HOME), or into the directory `to`. Files that are there already are not fetched again, and
    a connection that breaks is taken up where it broke. A gated repository is opened with $HF_TOKEN. `progress`: bars
    on standard error. `endpoint`: a mirror, instead of $HF_ENDPOINT. Raises HubError.
    """
    hub = client_of_hub()
    repo_id = repository(repo_id)
    if to is not None and to.exists() and not to.is_dir():
        raise HubError(f"{to} is not a directory")
    with explained(hub, repo_id, to), progress_bars(hub, progress):
        found = hub.snapshot_download(
            repo_id,
            cache_dir=cache,
            local_dir=to,
            endpoint=endpoint,
            allow_patterns=list(RELEASED_FILES),
        )
    # Without a network it gives what is there, however little.
    if missing := missing_files(Path(found)):
        raise HubError(f"{repo_id}, as downloaded to {found}, is not a whole Chatterbox model: {'; '.join(missing)}")
    return Path(found)


def client_of_hub() -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415  # an extra
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError:
        raise HubError("huggingface_hub is not installed: `pip install 'chatterline[chatterbox]'`") from None
    return huggingface_hub


@contextmanager
def progress_bars(hub: Any, wanted: bool) -> Iterator[None]:
    if wanted or hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()


@contextmanager
def explained(hub: Any, repo_id: str, to: Path | None) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into one sentence."""
    errors = hub.errors
    try:
        yield
    except errors.HFValidationError:
        raise HubError(f"{repo_id!r} is not the name of a repository: 'turbo', 'nano' or 'owner/name'") from None
    except errors.GatedRepoError:
        raise HubError(
            f"{repo_id} is gated: accept its terms at https://huggingface.co/{repo_id} and set HF_TOKEN to a token "
            f"of that account"
        ) from None
    except errors.RepositoryNotFoundError:
        # The hub answers 401 for both, so as not to tell.
        token = (
            "the token in HF_TOKEN may not read it" if os.environ.get("HF_TOKEN") else "it needs a token in HF_TOKEN"
        )
        raise HubError(f"{repo_id} does not exist on the hub, or is private and {token}") from None
    except errors.HfHubHTTPError as error:
        _explain_status(error, repo_id)
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{_cause(error)}, and {repo_id} is not whole on this machine") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HubError(
                f"no space is left for {repo_id} in {to or 'the cache ($HF_HOME)'}: it needs about 4 GB; files that "
                f"have arrived are kept"
            ) from None
        if error.errno is not None and error.filename is not None:
            raise HubError(f"{error.filename}: {error.strerror}") from None
        raise HubError(f"{repo_id} could not be fetched: {_first_line(error)}") from None
    except Exception as error:
        # The HTTP client is requests up to huggingface_hub 0.x and httpx from 1.0: known by its errors' module only.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        raise HubError(
            f"the connection to the hub failed ({_first_line(error)}); the same command fetches what is missing"
        ) from None


def _explain_status(error: Any, repo_id: str) -> NoReturn:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        raise HubError(f"the hub refuses {repo_id} ({status}): HF_TOKEN is missing, wrong or lacks the right") from None
    if status == 429:
        raise HubError("the hub is answering too many requests from here (429): try again later") from None
    raise HubError(f"the hub answered {status or _first_line(error)} for {repo_id}: try again later") from None


def _cause(error: BaseException) -> str:
    """Why the hub was not asked."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE forbids the network"
    cause = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status is not None:
        return f"the hub answered {status}"
    return "the hub cannot be reached" + (f" ({_first_line(cause)})" if cause else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
