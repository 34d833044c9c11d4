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
from mediaserver.call.control import CallControl, StreamOrder
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import CallEvent
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
        # On a busy machine some frames are late, and concealed.
        frames = [spoken[at : at + FRAME] for at in range(0, len(spoken), FRAME)]
        async with asyncio.timeout(10):
            while not any(frame in audio_of(peer, "inbound") for frame in frames):
                await peer.until("media")

        calls[0].hang_up()
        assert await peer.closed() == 1000
        assert peer.events[-1] == "stop"
        await streams.close()
        assert [event.data for event in ended] == [{"stream_id": fork.id, "reason": "call_ended", "lost": 0}]


async def test_who_else_clears_the_call_sends_the_marks_back(receiver: Receiver, tmp_path: Path):
    config = Config(
        api={
            "allow_urls": [receiver.url],
            "allow_networks": ["127.0.0.0/8"],
            "tokens_file": str(tmp_path / "tokens.jsonl"),
        }
    )
    async with running_caller() as caller:
        streams = StreamManager(make_state(config, caller.calls, CallEngines(FakeEngine())))
        calls: list[CallControl] = []
        caller.calls.on_call.append(calls.append)
        await caller.call("")
        streams.fork(calls[0], StreamOrder(receiver.url))
        peer = await receiver.peer()
        await peer.until("start")
        await peer.play(noise(80_000, 2))
        await peer.send("mark", mark={"name": "cut"})
        while calls[0].idle or calls[0].view().speech[0].state == "queued":
            await asyncio.sleep(0.01)
        assert len(calls[0].clear()) == 1
        assert (await peer.until("mark"))["mark"] == {"name": "cut"}
        assert calls[0].idle
        calls[0].hang_up()
        await peer.closed()
        await streams.close()
