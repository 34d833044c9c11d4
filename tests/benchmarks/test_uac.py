"""The load generator's SIP: messages, and one call's states and timers."""

from __future__ import annotations

import pytest
import sipmessage
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import sdp, uac
from benchmarks.load.uac import Call, State

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\nm=audio 16400 RTP/AVP 0\r\n"


def make_call(**options: object) -> Call:
    fields = {
        "call_id": "run7@127.0.0.1",
        "text": "Hello Maria, it is 4:15.",
        "local": ("127.0.0.1", 5070),
        "server": ("127.0.0.1", 5060),
        "rtp_port": 24576,
    }
    return Call(**{**fields, **options})  # type: ignore[arg-type]


def answer(request: bytes, status: int = 200, body: str = SDP, contact: str = "<sip:tts@127.0.0.1:5061;ob>") -> bytes:
    message = uac.parse(request)
    lines = [
        f"SIP/2.0 {status} Reason",
        f"Via: {message.header('via')};received=127.0.0.1",
        f"From: {message.header('from')}",
        f"t: {message.header('to')};tag=srv",
        f"Call-ID: {message.header('call-id')}",
        f"CSeq: {message.header('cseq')}",
        f"Contact: {contact}",
        f"l: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def established() -> tuple[Call, bytes]:
    call = make_call()
    [invite] = call.invite(0.0)
    [ack] = call.on_message(uac.parse(answer(invite)), 0.01)
    return call, ack


def start_line(datagram: bytes) -> str:
    return datagram.decode().split("\r\n")[0]


def test_invite_is_sip_to_an_independent_parser() -> None:
    [invite] = make_call().invite(0.0)

    request = sipmessage.Message.parse(invite)

    assert isinstance(request, sipmessage.Request)
    assert request.method == "INVITE"
    assert str(request.uri) == "sip:speech@127.0.0.1:5060"
    assert request.cseq.method == "INVITE"
    assert request.via[0].parameters["branch"].startswith("z9hG4bK")
    assert request.headers.get("X-TTS-Text") == "Hello Maria, it is 4:15."
    assert sdp.media(request.body.decode()).rtp == ("127.0.0.1", 24576)
    assert int(request.headers.get("Content-Length")) == len(request.body)


def test_answer_is_acknowledged_at_the_contact() -> None:
    call, ack = established()

    assert call.state is State.ESTABLISHED
    assert call.media is not None
    assert call.media.rtp == ("127.0.0.2", 16400)
    assert call.due is None
    request = sipmessage.Message.parse(ack)
    assert isinstance(request, sipmessage.Request)
    assert start_line(ack) == "ACK sip:tts@127.0.0.1:5061;ob SIP/2.0"
    assert request.to_address.parameters["tag"] == "srv"
    assert request.cseq.sequence == 1


def test_ack_of_a_200_is_a_transaction_of_its_own_and_of_an_error_is_not() -> None:
    _, ack = established()
    refused = make_call()
    [invite] = refused.invite(0.0)
    [error_ack] = refused.on_message(uac.parse(answer(invite, 486)), 0.1)

    branch = uac.parse(invite).header("via")
    assert uac.parse(ack).header("via") != branch
    assert uac.parse(error_ack).header("via") == branch
    assert refused.state is State.FAILED
    assert refused.failure == "486 Reason"


def test_repeated_200_is_acknowledged_again_at_any_time() -> None:
    call = make_call()
    [invite] = call.invite(0.0)
    response = uac.parse(answer(invite))
    acks = [call.on_message(response, 0.01 * n) for n in range(3)]
    call.hang_up(1.0)
    acks.append(call.on_message(response, 1.1))

    assert len({bytes(a[0]) for a in acks}) == 1


def test_invite_is_retransmitted_at_doubling_intervals_until_given_up() -> None:
    call = make_call(give_up=8.0)
    [invite] = call.invite(100.0)
    sent = []
    while call.due is not None:
        now = call.due
        sent += [(now, datagram) for datagram in call.on_timer(now)]

    assert [now for now, _ in sent] == [100.5, 101.5, 103.5, 107.5]
    assert {datagram for _, datagram in sent} == {invite}
    assert call.state is State.FAILED
    assert call.failure == "INVITE not answered"
    assert call.retransmissions == 4


def test_timer_before_its_time_does_nothing() -> None:
    call = make_call()
    call.invite(0.0)

    assert call.on_timer(0.49) == []
    assert call.retransmissions == 0


def test_provisional_response_stops_retransmission_not_the_deadline() -> None:
    call = make_call(give_up=8.0)
    [invite] = call.invite(0.0)
    call.on_message(uac.parse(answer(invite, 100)), 0.1)

    assert call.due == 8.0
    assert call.on_timer(8.0) == []
    assert call.state is State.FAILED


def test_answer_after_giving_up_is_ended_at_once() -> None:
    call = make_call(give_up=1.0)
    [invite] = call.invite(0.0)
    call.on_timer(1.0)

    ack, bye = call.on_message(uac.parse(answer(invite)), 1.5)

    assert start_line(ack).startswith("ACK ")
    assert start_line(bye).startswith("BYE ")
    assert call.state is State.FAILED


def test_answer_without_audio_is_ended_at_once() -> None:
    call = make_call()
    [invite] = call.invite(0.0)

    ack, bye = call.on_message(uac.parse(answer(invite, body=SDP.replace("16400", "0"))), 0.1)

    assert (start_line(ack)[:3], start_line(bye)[:3]) == ("ACK", "BYE")
    assert call.failure == "SDP answer takes no audio"


def test_hang_up() -> None:
    call, _ = established()

    [bye] = call.hang_up(5.0)
    assert start_line(bye) == "BYE sip:tts@127.0.0.1:5061;ob SIP/2.0"
    assert uac.parse(bye).header("cseq") == "2 BYE"
    assert call.on_timer(5.5) == [bye]
    assert call.on_message(uac.parse(answer(bye, body="")), 5.6) == []

    assert call.state is State.DONE
    assert call.failure == ""
    assert call.due is None


def test_bye_interval_stops_at_t2() -> None:
    call = make_call(give_up=20.0)
    [invite] = call.invite(0.0)
    call.on_message(uac.parse(answer(invite)), 0.0)
    call.hang_up(0.0)
    times = []
    while call.due is not None:
        now = call.due
        if call.on_timer(now):
            times.append(now)

    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5]
    assert call.failure == "BYE not answered"


def test_refused_bye_is_a_failure() -> None:
    call, _ = established()
    [bye] = call.hang_up(5.0)

    call.on_message(uac.parse(answer(bye, 481, body="")), 5.1)

    assert call.failure == "BYE 481 Reason"


def test_hang_up_of_a_call_that_is_not_up_sends_nothing() -> None:
    call = make_call()

    assert call.hang_up(0.0) == []
    assert call.state is State.IDLE


def server_request(call: Call, method: str) -> uac.Message:
    return uac.parse(
        f"{method} sip:load@127.0.0.1:5070 SIP/2.0\r\nv: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKa\r\n"
        f"Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKb\r\nf: <sip:a@b>;tag=1\r\nt: <sip:c@d>;tag=2\r\n"
        f"i: {call.call_id}\r\nCSeq: 9 {method}\r\n\r\n".encode()
    )


def test_bye_of_the_server_is_answered_and_is_a_failure() -> None:
    call, _ = established()

    [response] = call.on_message(server_request(call, "BYE"), 2.0)

    assert start_line(response) == "SIP/2.0 200 OK"
    parsed = sipmessage.Message.parse(response)
    assert len(parsed.via) == 2
    assert uac.parse(response).header("cseq") == "9 BYE"
    assert call.failure == "ended by the server"


def test_bye_from_both_sides_ends_well() -> None:
    call, _ = established()
    call.hang_up(2.0)

    [response] = call.on_message(server_request(call, "BYE"), 2.0)

    assert start_line(response) == "SIP/2.0 200 OK"
    assert call.state is State.DONE


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", "200 OK"), ("INVITE", "501 Not Implemented")])
def test_other_requests_of_the_server(method: str, status: str) -> None:
    call, _ = established()

    [response] = call.on_message(server_request(call, method), 2.0)

    assert start_line(response) == f"SIP/2.0 {status}"
    assert call.state is State.ESTABLISHED


@pytest.mark.parametrize("text", ["two\r\nContact: <sip:evil@x>", "tab\there", "nul\0"])
def test_text_cannot_break_out_of_its_header(text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        make_call(text=text)


@pytest.mark.parametrize(
    "datagram",
    [b"", b"HELLO", b"SIP/2.0 99 Low\r\n\r\n", b"SIP/2.0 200 OK\r\nno colon\r\n\r\n", b"invite sip:a SIP/2.0\r\n\r\n"],
)
def test_malformed_messages(datagram: bytes) -> None:
    with pytest.raises(ValueError, match="SIP"):
        uac.parse(datagram)


@given(st.binary(max_size=300))
def test_parse_raises_nothing_but_value_error(datagram: bytes) -> None:
    try:
        message = uac.parse(datagram)
    except ValueError:
        return
    assert message.method or message.status


def test_status_line_without_reason() -> None:
    assert uac.parse(b"SIP/2.0 180\r\nCSeq: 1 INVITE\r\n\r\n").status == 180


def test_more_text_goes_into_the_dialog_and_the_bye_comes_after_it() -> None:
    call, _ = established()

    [info] = call.say("And it is raining.", 2.0)
    assert start_line(info) == "INFO sip:tts@127.0.0.1:5061;ob SIP/2.0"
    request = sipmessage.Message.parse(info)
    assert request.headers.get("X-TTS-Text") == "And it is raining."
    assert uac.parse(info).header("cseq") == "2 INFO"
    assert call.say("One at a time.", 2.1) == []
    assert call.on_timer(2.5) == [info]
    call.on_message(uac.parse(answer(info, body="")), 2.6)

    assert (call.said, call.refused, call.due) == (1, 0, None)
    [second] = call.say("Goodbye.", 3.0)
    assert uac.parse(second).header("cseq") == "3 INFO"
    [bye] = call.hang_up(3.1)
    assert uac.parse(bye).header("cseq") == "4 BYE"
    call.on_message(uac.parse(answer(second, body="")), 3.2)  # too late to matter
    assert call.state is State.CLOSING


def test_refused_and_unanswered_texts_are_counted_and_end_no_call() -> None:
    call, _ = established()
    [info] = call.say("Too much.", 1.0)
    call.on_message(uac.parse(answer(info, 413, body="")), 1.1)
    assert (call.said, call.refused) == (0, 1)

    call.say("Into the void.", 2.0)
    while call.due is not None:
        call.on_timer(call.due)

    assert (call.said, call.refused) == (0, 2)
    assert call.state is State.ESTABLISHED
    assert call.failure == ""


def test_answer_to_an_earlier_text_is_none_to_this_one() -> None:
    call, _ = established()
    [first] = call.say("One.", 1.0)
    call.on_message(uac.parse(answer(first, body="")), 1.1)
    call.say("Two.", 2.0)

    call.on_message(uac.parse(answer(first, body="")), 2.1)

    assert call.said == 1
    assert call.due is not None


def test_nothing_is_said_before_the_call_stands() -> None:
    assert make_call().say("Hello?", 0.0) == []


OPERATIONS = st.lists(
    st.sampled_from(["timer", "hang up", "100", "200", "486", "bye 200", "server bye", "options"]), max_size=30
)


@given(OPERATIONS)
def test_call_never_leaves_its_end_and_never_waits_without_a_timer(operations: list[str]) -> None:
    call = make_call()
    [invite] = call.invite(0.0)
    now = 0.0
    for operation in operations:
        over = call.state in (State.DONE, State.FAILED)
        now = max(now + 0.1, call.due or 0.0)
        if operation == "timer":
            call.on_timer(now)
        elif operation == "hang up":
            call.hang_up(now)
        elif operation == "bye 200":
            bye = invite.replace(b"INVITE", b"BYE").replace(b"CSeq: 1", b"CSeq: 2")
            call.on_message(uac.parse(answer(bye, body="")), now)
        elif operation == "server bye":
            assert call.on_message(server_request(call, "BYE"), now)
        elif operation == "options":
            assert call.on_message(server_request(call, "OPTIONS"), now)
        else:
            call.on_message(uac.parse(answer(invite, int(operation))), now)
        if over:
            assert call.state in (State.DONE, State.FAILED)
            assert call.due is None
        assert (call.due is not None) == (call.state in (State.INVITING, State.CLOSING))
        assert bool(call.failure) == (call.state is State.FAILED)
