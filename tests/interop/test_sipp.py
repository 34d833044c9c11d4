"""SIPp calls the server: the cases a phone does not bring about at will."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mediaserver.phone.local_server import LocalServer
from tests.interop.server import StartServer
from tests.interop.sipp import Message, SippRun, run_sipp

# The server's T1 in these tests (fixture `server`), 50 ms, and what a shared machine may add to a wait.
T1_S = 0.050
LATE_S = 0.15


def gaps(messages: list[Message]) -> list[float]:
    """Seconds from each message to the next."""
    return [later.at - earlier.at for earlier, later in itertools.pairwise(messages)]


def assert_retransmitted(answers: list[Message], expected: list[float]) -> None:
    """The same response again and again, at `expected` intervals in seconds."""
    assert len({answer.text for answer in answers}) == 1
    found = gaps(answers)
    assert len(found) == len(expected), found
    for gap, wanted in zip(found, expected, strict=True):
        assert wanted - 0.01 <= gap <= wanted + LATE_S, found


def answered_sdp(run: SippRun) -> str:
    """The SDP of the answer to the INVITE."""
    answer = run.answers("INVITE")[0]
    assert answer.header("Content-Type").lower() == "application/sdp"
    return answer.body


def test_basic_calls(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "uac", tmp_path, calls=20, rate=10, arguments=("-d", "500"))
    assert len(run.answers("BYE")) == 20
    tags = {answer.header("To").partition(";tag=")[2] for answer in run.answers("INVITE")}
    assert len(tags) == 20
    ports = [line.split()[1] for a in run.answers("INVITE") for line in a.body.splitlines() if line.startswith("m=")]
    assert all(int(port) % 2 == 0 for port in ports)
    assert "a=rtpmap:0 PCMU/8000" in answered_sdp(run)


def test_cancel_before_the_answer(chatterline_server: StartServer, tmp_path: Path) -> None:
    server = chatterline_server(CALLS__ANSWER_DELAY_MS="5000", CALLS__MAX_CALLS="1", SIP__T1_MS="50")
    # Twice with room for one call: the cancelled one gave its place back.
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        run = run_sipp(server, "cancel_ringing", directory)
        assert len(run.received(180)) == 1
        assert len(run.received(487)) == 1
        assert not run.answers("INVITE", 200)


def test_cancel_crossing_the_answer(chatterline_server: StartServer, tmp_path: Path) -> None:
    server = chatterline_server(CALLS__ANSWER_DELAY_MS="1", SIP__T1_MS="50")
    run = run_sipp(server, "cancel_race", tmp_path, calls=40, rate=20)
    # Each INVITE has one outcome, never both.
    answered = {message.header("Call-ID") for message in run.answers("INVITE", 200)}
    cancelled = {message.header("Call-ID") for message in run.received(487)}
    assert len(answered) + len(cancelled) == 40
    assert not answered & cancelled


def test_cancel_after_the_answer_changes_nothing(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "cancel_answered", tmp_path)
    assert not run.received(487)
    assert len(run.answers("BYE")) == 1


def test_a_lost_ack_brings_the_200_again(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "lost_ack", tmp_path, arguments=("-nr",))
    assert_retransmitted(run.answers("INVITE"), [T1_S, 2 * T1_S, 4 * T1_S])


def test_a_call_never_acknowledged_is_given_up(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "never_acked", tmp_path, arguments=("-nr",))
    answers = run.answers("INVITE")
    assert len(answers) >= 6
    assert_retransmitted(answers[:5], [T1_S * 2**i for i in range(4)])
    bye = run.received("BYE")[0]
    assert bye.at - answers[0].at == pytest.approx(64 * T1_S, abs=0.3)


def test_an_invite_sent_twice_is_one_call(chatterline_server: StartServer, tmp_path: Path) -> None:
    server = chatterline_server(CALLS__MAX_CALLS="1")
    run = run_sipp(server, "retransmitted_invite", tmp_path, arguments=("-nr",))
    first, second = run.answers("INVITE")
    assert first.text == second.text


def test_both_hang_up(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "bye_glare", tmp_path)
    assert len(run.received("BYE")) >= 1
    assert len([message for message in run.messages if message.sent and message.method == "BYE"]) >= 1


def test_an_invite_without_an_offer(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "late_offer", tmp_path)
    offer = answered_sdp(run)
    assert "m=audio" in offer
    assert "PCMU/8000" in offer
    assert "PCMA/8000" in offer


def test_an_unknown_method(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "unknown_method", tmp_path)
    for refusal in run.received(405):
        assert "INVITE" in refusal.header("Allow")


def test_info(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "info", tmp_path)
    assert len(run.answers("INFO")) == 2


def test_bye_without_a_call(server: LocalServer, tmp_path: Path) -> None:
    assert len(run_sipp(server, "unknown_dialog", tmp_path).received(481)) == 1


@pytest.mark.parametrize("scenario", ["no_from", "no_contact"])
def test_a_missing_header(scenario: str, server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, scenario, tmp_path)
    refusal = run.received(400)[0]
    assert scenario.removeprefix("no_") in refusal.start_line.lower(), refusal.start_line


@pytest.mark.parametrize(
    ("status", "keys", "mention"),
    [
        (488, {"payload_type": "18", "rtpmap": "18 G729/8000", "extra": "Subject: test"}, ""),
        (400, {"extra": "X-TTS-Voice: nobody"}, "nobody"),
        (413, {"extra": f"X-TTS-Text: {'Too long. ' * 40}"}, ""),
        (420, {"extra": "Require: teleportation"}, "teleportation"),
    ],
    ids=["no common codec", "unknown voice", "text too long", "unknown extension"],
)
def test_refusals(
    status: int, keys: dict[str, str], mention: str, chatterline_server: StartServer, tmp_path: Path
) -> None:
    server = chatterline_server(CALLS__MAX_TEXT_CHARS="200", SIP__T1_MS="50")
    run = run_sipp(server, "refused", tmp_path, keys={"payload_type": "0", "rtpmap": "0 PCMU/8000", **keys})
    refusals = [message for message in run.messages if not message.sent and (message.status or 0) >= 200]
    assert {refusal.status for refusal in refusals} == {status}, run.transcript()
    assert mention in refusals[0].text
    assert ";tag=" in refusals[0].header("To")


def test_the_limit_of_calls(chatterline_server: StartServer, tmp_path: Path) -> None:
    server = chatterline_server(CALLS__MAX_CALLS="1", CALLS__RETRY_AFTER_S="7", SIP__T1_MS="50")
    run = run_sipp(server, "call_or_503", tmp_path, calls=4, rate=20)
    assert len({answer.header("Call-ID") for answer in run.answers("INVITE")}) == 1
    refusals = run.received(503)
    assert len({refusal.header("Call-ID") for refusal in refusals}) == 3
    assert {refusal.header("Retry-After") for refusal in refusals} == {"7"}


def test_options(server: LocalServer, tmp_path: Path) -> None:
    answer = run_sipp(server, "options", tmp_path).received(200)[0]
    allowed = {method.strip() for method in answer.header("Allow").split(",")}
    assert {"INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO"} <= allowed
    assert "application/sdp" in answer.header("Accept")
    assert answer.headers("Supported")


def test_options_during_a_call(server: LocalServer, tmp_path: Path) -> None:
    assert len(run_sipp(server, "options_in_call", tmp_path).answers("OPTIONS")) == 1


def test_hold_and_resume(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "hold_resume", tmp_path)
    first, held, resumed = run.answers("INVITE")
    for answer in (first, resumed):
        assert "a=recvonly" not in answer.body
        assert "a=inactive" not in answer.body
    # RFC 3264 section 8: the same session, its version one higher for each change.
    origins = [line for answer in (first, held) for line in answer.body.splitlines() if line.startswith("o=")]
    ids, versions = zip(*((origin.split()[1], int(origin.split()[2])) for origin in origins), strict=True)
    assert len(set(ids)) == 1
    assert versions[1] == versions[0] + 1
    tags = {answer.header("To") for answer in (first, held, resumed)}
    assert len(tags) == 1


def test_record_route(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "record_route", tmp_path)
    recorded = run.answers("INVITE")[0].headers("Record-Route")
    bye = run.received("BYE")[0]
    routes = [route.strip() for value in bye.headers("Route") for route in value.split(",")]
    assert [route.split("@")[0] for route in routes] == ["<sip:first", "<sip:second"]
    assert [value.strip() for value in ",".join(recorded).split(",")] == routes
    # RFC 3261 section 12.2.1.1: with a loose router the Request-URI stays the caller's contact.
    assert bye.start_line.split()[1].startswith("sip:sipp@")


def test_text_in_the_body(server: LocalServer, tmp_path: Path) -> None:
    run = run_sipp(server, "multipart", tmp_path)
    call_s = run.received("BYE")[0].at - run.answers("INVITE")[0].at
    assert 1.0 < call_s < 10.0
