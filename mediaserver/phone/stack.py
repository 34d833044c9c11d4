"""PJSIP, started for one call and shut down after it: no sound hardware, no threads of Python's.

Its objects must be gone before `libDestroy`, or the process aborts: what uses them lives inside `stack`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pjsua2 as pj

from mediaserver.phone.call import CallPlan, PhoneError

CLOCK_RATE_HZ = 8000
WIDEBAND_HZ = 16000


@contextlib.contextmanager
def stack(plan: CallPlan) -> Iterator[tuple[pj.Endpoint, pj.Account]]:
    """A running endpoint and an account that registers nowhere.

    ValueError for a URI or codec PJSIP does not know, PhoneError when it does not start.
    """
    endpoint = pj.Endpoint()
    account = pj.Account()
    try:
        with _quiet_stdout(plan.log_level == 0):
            endpoint.libCreate()
        _start(endpoint, account, plan)
        yield endpoint, account
    except pj.Error as error:
        raise PhoneError(f"PJSIP: {error.reason}") from None
    finally:
        with contextlib.suppress(pj.Error):
            account.shutdown()
        del account
        with contextlib.suppress(pj.Error):
            # At once: otherwise it listens for another second, for the sake of registrations.
            endpoint.libDestroy(pj.PJSUA_DESTROY_NO_RX_MSG)


def _start(endpoint: pj.Endpoint, account: pj.Account, plan: CallPlan) -> None:
    config = pj.EpConfig()
    config.uaConfig.threadCnt = 0
    config.uaConfig.maxCalls = 1
    config.uaConfig.userAgent = "chatterline-phone"
    config.logConfig.level = config.logConfig.consoleLevel = plan.log_level
    # One rate from the wire to the file: nothing is resampled. No echo canceller, no silence suppression.
    config.medConfig.clockRate = config.medConfig.sndClockRate = _clock_rate(plan.codecs)
    config.medConfig.ecTailLen = 0
    config.medConfig.noVad = True
    endpoint.libInit(config)
    if endpoint.utilVerifySipUri(plan.uri) != 0:
        raise ValueError(f"not a SIP URI: {plan.uri!r}")
    _offer_codecs(endpoint, plan.codecs)
    # PJSIP moves large requests to TCP where it has a TCP transport: only where the URI asks for one.
    wants_tcp = ";transport=tcp" in plan.uri.lower()
    kind = pj.PJSIP_TRANSPORT_TCP if wants_tcp else pj.PJSIP_TRANSPORT_UDP
    endpoint.transportCreate(kind, _transport(plan.local_host))
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    identity = pj.AccountConfig()
    identity.idUri = f"sip:phone@{plan.local_host}"
    identity.mediaConfig.transportConfig = _transport(plan.local_host)
    identity.mediaConfig.rtcpMuxEnabled = plan.media.rtcp_mux
    account.create(identity)


def _clock_rate(codecs: Sequence[str]) -> int:
    return WIDEBAND_HZ if any(name.upper() == "G722" for name in codecs) else CLOCK_RATE_HZ


def _transport(host: str) -> pj.TransportConfig:
    config = pj.TransportConfig()
    config.port = 0
    config.boundAddress = host
    return config


def _offer_codecs(endpoint: pj.Endpoint, names: Sequence[str]) -> None:
    known = {codec.codecId.split("/")[0].upper(): codec.codecId for codec in endpoint.codecEnum2()}
    for name in names:
        if name.upper() not in known:
            raise ValueError(f"the phone has no codec {name!r}; it has {', '.join(sorted(known))}")
    for codec in endpoint.codecEnum2():
        endpoint.codecSetPriority(codec.codecId, 0)
    for place, name in enumerate(names):
        endpoint.codecSetPriority(known[name.upper()], 255 - place)


@contextlib.contextmanager
def _quiet_stdout(quiet: bool) -> Iterator[None]:
    """PJSIP logs to file descriptor 1 until it has read its logging configuration."""
    if not quiet:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
