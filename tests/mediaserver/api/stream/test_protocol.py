from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.stream.protocol import (
    ACCOUNT,
    ClearMessage,
    MarkMessage,
    MediaMessage,
    ProtocolError,
    StreamWriter,
    TranscriptMessage,
    parse,
)

STREAM = "MZ" + 32 * "5"
CALL = "CA" + 32 * "a"


def written(*messages: str) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages]


class TestWriter:
    """The examples of Twilio's page, with our identifiers."""

    def test_connected(self):
        assert written(StreamWriter(STREAM, CALL).connected()) == [
            {"event": "connected", "protocol": "Call", "version": "1.0.0"}
        ]

    def test_start(self):
        assert written(StreamWriter(STREAM, CALL).start(["inbound"], {"FirstName": "Jane", "RemoteParty": "Bob"})) == [
            {
                "event": "start",
                "sequenceNumber": "1",
                "start": {
                    "accountSid": ACCOUNT,
                    "streamSid": STREAM,
                    "callSid": CALL,
                    "tracks": ["inbound"],
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                    "customParameters": {"FirstName": "Jane", "RemoteParty": "Bob"},
                },
                "streamSid": STREAM,
            }
        ]

    def test_media_counts_chunks_of_each_track(self):
        writer = StreamWriter(STREAM, CALL)
        messages = written(
            writer.media("inbound", 0, b"\xff\x00"),
            writer.media("outbound", 5, b""),
            writer.media("inbound", 20, b"\x7f"),
        )
        assert messages[0] == {
            "event": "media",
            "sequenceNumber": "1",
            "media": {"track": "inbound", "chunk": "1", "timestamp": "0", "payload": "/wA="},
            "streamSid": STREAM,
        }
        assert [(message["sequenceNumber"], message["media"]["chunk"]) for message in messages] == [
            ("1", "1"),
            ("2", "1"),
            ("3", "2"),
        ]

    def test_dtmf_mark_stop_and_error(self):
        writer = StreamWriter(STREAM, CALL)
        assert written(writer.dtmf("#"), writer.mark("my label"), writer.error("x" * 999), writer.stop()) == [
            {
                "event": "dtmf",
                "sequenceNumber": "1",
                "dtmf": {"track": "inbound_track", "digit": "#"},
                "streamSid": STREAM,
            },
            {"event": "mark", "sequenceNumber": "2", "mark": {"name": "my label"}, "streamSid": STREAM},
            {"event": "error", "sequenceNumber": "3", "error": {"message": "x" * 300}, "streamSid": STREAM},
            {
                "event": "stop",
                "sequenceNumber": "4",
                "stop": {"accountSid": ACCOUNT, "callSid": CALL},
                "streamSid": STREAM,
            },
        ]


class TestParse:
    def test_media(self):
        message = parse(json.dumps({"event": "media", "streamSid": STREAM, "media": {"payload": "/wB/"}}), STREAM)
        assert isinstance(message, MediaMessage)
        assert message.media.payload == b"\xff\x00\x7f"

    def test_mark(self):
        message = parse(json.dumps({"event": "mark", "streamSid": STREAM, "mark": {"name": "my label"}}), STREAM)
        assert isinstance(message, MarkMessage)
        assert message.mark.name == "my label"

    def test_clear_and_what_twilio_adds_some_day(self):
        assert isinstance(parse(json.dumps({"event": "clear", "streamSid": STREAM, "new": 1}), STREAM), ClearMessage)

    def test_the_stream_may_be_left_out_but_not_be_another(self):
        assert isinstance(parse('{"event": "clear"}', STREAM), ClearMessage)
        with pytest.raises(ProtocolError, match=STREAM):
            parse('{"event": "clear", "streamSid": "MZ0"}', STREAM)

    def test_transcript(self):
        message = parse('{"event": "transcript", "transcript": {"text": "hello", "final": false}}', STREAM)
        assert isinstance(message, TranscriptMessage)
        assert (message.transcript.text, message.transcript.lang, message.transcript.final) == ("hello", None, False)
        assert "hello" not in repr(message)

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "dictionary|object"),
            ("{}", "event"),
            ('{"event": "start"}', "start"),
            ('{"event": 7}', "event"),
            ('{"event": "media"}', "media: Field required"),
            ('{"event": "media", "media": {}}', "media.payload: Field required"),
            ('{"event": "media", "media": {"payload": 7}}', "media.payload: must be a string"),
            ('{"event": "media", "media": {"payload": "!!!"}}', "not valid base64"),
            ('{"event": "media", "media": {"payload": "/wB"}}', "not valid base64"),
            ('{"event": "media", "media": {"payload": "ä"}}', "not valid base64"),
            ('{"event": "mark", "mark": {"name": ""}}', "mark.name: .* at least 1"),
            ('{"event": "mark", "mark": {"name": "' + "x" * 257 + '"}}', "mark.name: .* at most 256"),
            ('{"event": "clear", "streamSid": 7}', "streamSid"),
            ('{"event": "transcript", "transcript": {"text": "' + "x" * 9000 + '"}}', "at most 8000"),
            (b"\x00\x01", "binary"),
        ],
    )
    def test_errors_say_what_is_wrong(self, message: str | bytes, why: str):
        with pytest.raises(ProtocolError, match=why):
            parse(message, STREAM)

    def test_errors_do_not_repeat_what_was_said(self):
        with pytest.raises(ProtocolError) as caught:
            parse('{"event": "transcript", "transcript": {"text": "secret", "final": "secret"}}', STREAM)
        assert "secret" not in str(caught.value)

    @settings(max_examples=100, deadline=None)
    @given(
        st.text(max_size=50)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.dictionaries(
                    st.sampled_from(["event", "media", "mark", "payload", "name", "streamSid", "transcript", "text"]),
                    inner,
                )
                | st.lists(inner, max_size=3)
            ),
            max_leaves=8,
        ).map(json.dumps)
    )
    def test_whatever_comes_is_a_message_or_a_protocol_error(self, message: str):
        try:
            parse(message, STREAM)
        except ProtocolError as error:
            assert str(error)

    @pytest.mark.parametrize("bomb", ["[" * 100_000, '{"event":' * 50_000, '{"event": "clear", "x": ' + "[" * 100_000])
    def test_depth(self, bomb: str):
        with pytest.raises(ProtocolError):
            parse(bomb, STREAM)

    def test_a_lone_surrogate(self):
        with pytest.raises(ProtocolError):
            parse('{"event": "mark", "mark": {"name": "\ud800"}}', STREAM)

    @given(st.binary(max_size=500))
    @settings(max_examples=50, deadline=None)
    def test_audio_comes_as_it_was_sent(self, ulaw: bytes):
        payload = base64.b64encode(ulaw).decode()
        message = parse(json.dumps({"event": "media", "media": {"payload": payload}}), STREAM)
        assert isinstance(message, MediaMessage)
        assert message.media.payload == ulaw
        sent = json.loads(StreamWriter(STREAM, CALL).media("inbound", 0, ulaw))
        assert sent["media"]["payload"] == payload
