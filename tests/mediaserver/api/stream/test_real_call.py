"""A media stream of a real call: SIP in memory, RTP over loopback, and an application that knows Twilio's page only."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path
from typing import Any

from aiortc.rtp import RtpPacket

from mediaserver.api.state import make_state
from mediaserver.api.stream.manager import StreamManager
from mediaserver.call_control import CallControl, StreamOrder
from mediaserver.call_engines import CallEngines
from mediaserver.call_events import CallEvent
from mediaserver.config import Config
from tests.mediaserver.api.stream.receiver import Peer, Receiver
from tests.mediaserver.caller import Caller, running_caller
from tests.mediaserver.fake_engine import FakeEngine

FRAME = 160


def noise(samples: int, seed: int) -> bytes:
    """Mu-law without silence."""
    return random.Random(seed).randbytes(samples).replace(b"\x7f", b"\x01").replace(b"\xff", b"\x02")


def audio_of(peer: Peer, track: str) -> bytes:
    media = [message["media"] for message in peer.messages if message["event"] == "media"]
    return b"".join(base64.b64decode(one["payload"]) for one in media if one["track"] == track)


async def talk(caller: Caller, ulaw: bytes) -> None:
    """Send this as the caller's voice, in real time."""
    for number in range(len(ulaw) // FRAME):
        packet: Any = RtpPacket(payload_type=0, sequence_number=100 + number, timestamp=FRAME * number, ssrc=7)
        packet.payload = ulaw[FRAME * number : FRAME * (number + 1)]
        caller.rtp.sendto(packet.serialize(), caller.server_rtp())
        await asyncio.sleep(0.02)


async def test_both_ways(receiver: Receiver, tmp_path: Path):
    config = Config(
        api={
            "allow_urls": [receiver.url],
            "allow_networks": ["127.0.0.0/8"],
            "tokens_file": str(tmp_path / "tokens.jsonl"),
        }
    )
    async with running_caller() as caller:
        streams = StreamManager(make_state(config, caller.calls, CallEngines(FakeEngine())))
        streams.start()
        calls: list[CallControl] = []
        caller.calls.on_call.append(calls.append)
        ended: list[CallEvent] = []
        caller.calls.hub.listen(lambda event: ended.append(event) if event.type == "stream.stopped" else None)
        await caller.call("")
        fork = streams.fork(calls[0], StreamOrder(receiver.url, ("inbound", "outbound")))
        peer = await receiver.peer()
        start = await peer.until("start")
        assert start["start"]["callSid"] == calls[0].id

        spoken, played = noise(30 * FRAME, 1), noise(4000, 2)
        talking = asyncio.create_task(talk(caller, spoken))
        await peer.play(played)
        await peer.send("mark", mark={"name": "played"})
        assert (await peer.until("mark"))["mark"] == {"name": "played"}
        assert played in audio_of(peer, "outbound")
        await talking
        middle = spoken[10 * FRAME : 15 * FRAME]
        while middle not in audio_of(peer, "inbound"):
            await peer.until("media")

        calls[0].hang_up()
        assert await peer.closed() == 1000
        assert peer.events[-1] == "stop"
        await streams.close()
        assert [event.data for event in ended] == [{"stream_id": fork.id, "reason": "call_ended", "lost": 0}]
