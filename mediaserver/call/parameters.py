"""What an INVITE tells an application: its X- headers, as parameters of the call; and those that we put into one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mediaserver.refusal import RefusedError

MAX_PARAMETERS = 32
MAX_NAME_CHARS = 64
MAX_VALUE_CHARS = 256
_OURS = "x-tts-"
_HEADER = re.compile(r"X-[A-Za-z0-9\-.!%*_+`'~]+", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def header_parameters(headers: Iterable[tuple[str, str]]) -> tuple[dict[str, str], int]:
    """The X- headers but for X-TTS-*, and how many more there were that are too many or too long. The first of a name
    counts.
    """
    found: dict[str, str] = {}
    left_out = 0
    for name, value in headers:
        if not name.lower().startswith("x-") or name.lower().startswith(_OURS) or name in found:
            continue
        if len(found) >= MAX_PARAMETERS or len(name) > MAX_NAME_CHARS or len(value) > MAX_VALUE_CHARS:
            left_out += 1
        else:
            found[name] = value.strip()
    return found, left_out


def check_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Headers for an INVITE of ours. Raises RefusedError for what is none, or would be another than an X- header."""
    checked = tuple(headers)
    if len(checked) > MAX_PARAMETERS:
        raise RefusedError(400, f"More Than {MAX_PARAMETERS} Headers")
    for name, value in checked:
        if len(name) > MAX_NAME_CHARS or not _HEADER.fullmatch(name):
            raise RefusedError(400, "Header Is Not An X- Header")
        if len(value) > MAX_VALUE_CHARS or _UNPRINTABLE.search(value):
            raise RefusedError(400, f"Header {name} Is Not Up To {MAX_VALUE_CHARS} Printable Characters")
    return checked


def check_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a call. Raises RefusedError for too many, or too long ones."""
    if len(parameters) > MAX_PARAMETERS:
        raise RefusedError(400, f"More Than {MAX_PARAMETERS} Parameters")
    if any(len(name) > MAX_NAME_CHARS or len(value) > MAX_VALUE_CHARS for name, value in parameters.items()):
        raise RefusedError(400, f"Parameter Is Longer Than {MAX_VALUE_CHARS} Characters")
    return dict(parameters)
