"""baresip calls the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mediaserver.phone.local_server import LocalServer
from tests.interop import baresip
from tests.interop.server import StartServer


@pytest.mark.parametrize("codec", ["pcmu", "pcma"])
def test_a_call_is_answered_heard_and_ended(codec: str, chatterline_server: StartServer, tmp_path: Path) -> None:
    # baresip cannot set headers of its own: the greeting is what it hears, and the limit ends the call.
    server = chatterline_server(
        CALLS__GREETING="Welcome. This is the greeting of the server, which lasts some seconds.",
        CALLS__MAX_DURATION_S="5",
    )
    call = baresip.call(server.uri, tmp_path, codec=codec)
    assert call.established
    assert call.ended_by_server
    assert f"Set audio decoder: {codec.upper()} 8000Hz" in call.output
    # 50 packets a second, from the answer to the BYE.
    assert 150 <= call.packets_received <= 350
    assert call.heard.audible_s > 1.5
    assert call.heard.first_audible_s is not None
    assert call.heard.first_audible_s < 2.0
    assert -30 < call.heard.peak_dbfs < 0


def test_two_calls_one_after_the_other(chatterline_server: StartServer, tmp_path: Path) -> None:
    server: LocalServer = chatterline_server(CALLS__MAX_CALLS="1", CALLS__MAX_DURATION_S="2")
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        call = baresip.call(server.uri, directory)
        assert call.established
        assert call.heard.audible_s > 0.5
