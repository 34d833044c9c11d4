"""Placing a call and reporting on it."""

from __future__ import annotations

import dataclasses
import errno
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from mediaserver.phone.actions import Action
from mediaserver.phone.media import ORDINARY_MEDIA, MediaOptions
from mediaserver.phone.recording import measure, read_wav
from mediaserver.phone.report import CallReport

# PJSIP is one instance a process.
_one_call = threading.Lock()


class PhoneError(Exception):
    """The phone could not place the call."""


class PhoneUnavailableError(PhoneError):
    """PJSIP is not installed."""


@dataclasses.dataclass(frozen=True)
class CallPlan:
    """What the phone is to do: see `place_call`."""

    uri: str
    headers: Mapping[str, str]
    codecs: Sequence[str]
    actions: Sequence[Action]
    local_host: str
    answer_timeout: float
    max_seconds: float
    hangup_after_silence: float | None
    log_level: int
    media: MediaOptions


def place_call(
    uri: str,
    *,
    say: str | None = None,
    headers: Mapping[str, str] | None = None,
    server_hangs_up: bool = True,
    record: Path | None = None,
    actions: Sequence[Action] = (),
    codecs: Sequence[str] = ("PCMU", "PCMA"),
    local_host: str = "127.0.0.1",
    answer_timeout: float = 10.0,
    max_seconds: float = 60.0,
    hangup_after_silence: float | None = None,
    media: MediaOptions = ORDINARY_MEDIA,
    log_level: int = 0,
) -> CallReport:
    """Call `uri` (`sip:user@host[:port]`) from `local_host` and stay until either side hangs up.

    `say` travels in the INVITE as `X-TTS-Text`, with `X-TTS-Hangup: yes` unless `server_hangs_up` is false.
    `record` is written as 16-bit mono WAV, as the phone would have played it, at 8 kHz, or at 16 kHz where `codecs`
    has G722. Times are in seconds: `answer_timeout` from the INVITE, `max_seconds` from the answer,
    `hangup_after_silence` of silence after something was audible; the phone then cancels or hangs up. `log_level` is
    PJSIP's, 0 to 6.

    A call that is refused or not answered is a report, not an error. Blocks the calling thread; one call at
    a time in a process, further callers wait. ValueError for arguments no call can be made of, OSError when
    the recording cannot be written, PhoneError when PJSIP fails, PhoneUnavailableError without PJSIP.
    """
    all_headers = dict(headers or {})
    if say is not None:
        # A header is one line (RFC 3261 section 7.3.1).
        all_headers["X-TTS-Text"] = " ".join(say.split())
        if server_hangs_up:
            all_headers["X-TTS-Hangup"] = "yes"
    for name, value in all_headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"header {name} holds a line break")
    plan = CallPlan(
        uri=uri,
        headers=all_headers,
        codecs=codecs,
        actions=sorted(actions, key=lambda action: action.at),
        local_host=local_host,
        answer_timeout=answer_timeout,
        max_seconds=max_seconds,
        hangup_after_silence=hangup_after_silence,
        log_level=log_level,
        media=media,
    )
    if record is not None and not record.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(record.parent))
    with _one_call, tempfile.TemporaryDirectory(prefix="chatterline-phone-") as scratch:
        wav = record if record is not None else Path(scratch) / "heard.wav"
        return _run(plan, wav, keep=record is not None)


def _run(plan: CallPlan, wav: Path, *, keep: bool) -> CallReport:
    try:
        from mediaserver.phone.softphone import SoftPhone  # noqa: PLC0415  PJSIP is optional
        from mediaserver.phone.stack import stack  # noqa: PLC0415
    except ImportError as error:
        raise PhoneUnavailableError(
            f"the phone needs PJSIP ({error}): pip install 'chatterline[phone]', Python 3.11 or 3.12"
        ) from error
    with stack(plan) as (endpoint, account):
        phone = SoftPhone(endpoint, account, plan, wav)
        try:
            phone.run()
        finally:
            phone.close()
            del endpoint, account
    return _with_recording(phone.report(), phone.observed.recording_delay_s, wav, keep=keep)


def _with_recording(report: CallReport, delay_s: float | None, wav: Path, *, keep: bool) -> CallReport:
    """`report` with what was heard; `delay_s` is from the answer to the recording's first sample."""
    if delay_s is None:
        return report
    heard = measure(*read_wav(wav))
    first_audio_ms = None if heard.first_audible_s is None else 1000 * (delay_s + heard.first_audible_s)
    return dataclasses.replace(
        report,
        first_audio_ms=first_audio_ms,
        heard_s=heard.duration_s,
        audible_s=heard.audible_s,
        recording=wav if keep else None,
    )
