"""Places the calls: a process of its own, so that its work does not mix with the server's or the analysis.

One loop: every TICK it reads what RTP has come (stamped by the kernel, so a late read costs nothing) and sends the
uplink frames that are due; between ticks it waits on the SIP socket alone. All its calls share one RTP port and one
RTCP port; where it sends is what the server's SDP says.

Run as `python -m benchmarks.load.generator DIRECTORY [SHARE SHARES]`, with a plan in DIRECTORY/plan.json, of which it
places each SHARES-th call; it leaves records-SHARE.bin (or minutes.jsonl) and calls-SHARE.json there.
"""

from __future__ import annotations

import gc
import heapq
import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import caller_sound, uac
from benchmarks.load.analysis import CLOCK_RATE
from benchmarks.load.downlink import Downlink, open_pair
from benchmarks.load.minutes import Minutes
from benchmarks.load.plan import LINGER, Plan
from benchmarks.load.receiver import enable_stamps, stamp_ns
from benchmarks.load.reduction import Reduction
from benchmarks.load.reports import Reports
from benchmarks.load.shortfall import Expected
from benchmarks.load.texts import CHARACTERS_A_SECOND
from benchmarks.load.uplink import Sent, Uplink

TICK = 0.002
SETTLE = 0.25
"Seconds between two looks at what has come: reports tell of it."
RTP_PORTS = range(24576, 32768, 2)
REFUSED_WAIT = 5.0
"Seconds to say no more after an INFO was refused, as where the server has enough queued."
OVER = (uac.State.DONE, uac.State.FAILED)


@dataclass(slots=True)
class Stamps:
    """Times of one call in ns since the epoch; 0 for what did not happen."""

    invite: int = 0
    answer: int = 0
    "The 200 OK, stamped by the kernel."
    ack: int = 0
    bye: int = 0
    closed: int = 0
    "The response to BYE, or the server's own BYE, stamped by the kernel."


class Generator:
    """The calls of one share of a run."""

    def __init__(self, plan: Plan, directory: Path, share: int = 0, shares: int = 1) -> None:
        self.plan = plan
        self._directory, self._share = directory, share
        mine = slice(share, None, shares)
        self._arrivals, self._scripts = plan.arrivals()[mine], plan.scripts[mine]
        count = len(self._scripts)
        host = plan.server[0]
        self._sip = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sip.bind((host, 0))
        self._sip.setblocking(False)
        self._sip.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        enable_stamps(self._sip)
        self._rtp, self._rtcp = open_pair(host, RTP_PORTS)
        self.downlink = Downlink(self._rtp, plan.capacity(count))
        self.reduction = Reduction(count)
        self.uplink: Uplink | None = None
        if plan.sound != "none":
            sound = caller_sound.frames(plan.sound, plan.seed)
            self.uplink = Uplink(self._rtp, sound, count, plan.start, plan.seed + share)
        self.reports = Reports(self._rtcp, host, plan.seed + share, self._sent, self.reduction.reception)
        self.expected = Expected(count)
        self.minutes = None
        if not plan.keep:
            self.minutes = Minutes(self.reduction, directory / "minutes.jsonl", plan.window, self.expected)
        self.calls = [self._call(i) for i in range(count)]
        self.stamps = [Stamps() for _ in self.calls]
        self.malformed = 0
        "SIP datagrams that could not be parsed, or belong to no call."
        self._by_id = {call.call_id: i for i, call in enumerate(self.calls)}
        self._agenda: list[tuple[float, int]] = []
        "When to look at which call again: its arrival, a timer, its end."
        self._speech: list[tuple[float, int, int]] = []
        "When which call is to be given its next text, and which that is."
        self._hang_up = [arrival + plan.hold for arrival in self._arrivals]
        self._open = count
        self.cpu_percent: float | None = None

    def _call(self, index: int) -> uac.Call:
        host, port = self._sip.getsockname()
        return uac.Call(
            call_id=f"{self.plan.token}s{self._share}c{index}@{host}",
            text=self._scripts[index][0],
            local=(host, port),
            server=self.plan.server,
            rtp_port=self._rtp.getsockname()[1],
            rtcp_mux=self.plan.rtcp_mux,
            give_up=self.plan.give_up,
        )

    def _sent(self, call: int, now: float) -> Sent | None:
        return self.uplink.state(call, now) if self.uplink else None

    def run(self) -> None:
        plan = self.plan
        self._agenda = [(arrival, i) for i, arrival in enumerate(self._arrivals)]
        cpu: list[float] = []
        stop = plan.end
        now = time.monotonic()
        tick, settle = max(now, plan.start), plan.start
        while now < stop:
            self._wait_for_sip(tick - now)
            now = time.monotonic()
            if now < tick:
                continue
            tick = max(tick + TICK, now)
            self.downlink.drain()
            if self.uplink:
                self.uplink.send(now)
            self._look_at_due_calls(now)
            self._speak(now)
            if plan.rtcp:
                self.reports.tick(now)
            if now >= settle:
                settle = now + SETTLE
                self._settle(now)
            if len(cpu) < 2 and now >= plan.window[len(cpu)]:
                cpu.append(time.process_time())
            if not self._open:
                stop = min(stop, now + LINGER)
                self._open = -1
        self.downlink.drain()
        self._settle(now)
        if len(cpu) == 2:
            self.cpu_percent = 100.0 * (cpu[1] - cpu[0]) / plan.seconds

    def _settle(self, now: float) -> None:
        records, reports = self.downlink.settle()
        self.reduction.add(records)
        for stamp, datagram in reports:
            self.reports.take(datagram, stamp)
        if self.minutes:
            self.minutes.tick(now)
            self.downlink.forget()

    def _wait_for_sip(self, seconds: float) -> None:
        readable, _, _ = select.select([self._sip], [], [], max(0.0, seconds))
        if not readable:
            return
        try:
            datagram, ancillary, _, source = self._sip.recvmsg(65535, 64)
        except BlockingIOError:
            return
        if not datagram.strip():
            return  # keep-alive (RFC 5626 4.4.1)
        try:
            message = uac.parse(datagram)
        except ValueError:
            self.malformed += 1
            return
        index = self._by_id.get(message.header("call-id"))
        if index is None:
            self.malformed += 1
            return
        self._take(index, message, stamp_ns(ancillary), source)

    def _take(self, index: int, message: uac.Message, stamp: int, source: tuple[str, int]) -> None:
        call, stamps = self.calls[index], self.stamps[index]
        before = call.state
        now = time.monotonic()
        replies = call.on_message(message, now)
        # A request of the server's is answered to where it came from (RFC 3581).
        target = call.server if message.status else source
        if call.state is uac.State.ESTABLISHED and before is uac.State.INVITING:
            stamps.answer = stamp
            stamps.ack = time.time_ns()
            self._send(replies, target)
            self._begin_media(index, now)
            return
        self._send(replies, target)
        self._note_end(index, before, stamp)

    def _begin_media(self, index: int, now: float) -> None:
        media = self.calls[index].media
        assert media is not None
        self.expected.begin(index, now)
        self.downlink.expect(media.rtp[1], index)
        if self.uplink:
            self.uplink.add(index, media.rtp)
        if self.plan.rtcp:
            shared = media.rtcp == media.rtp
            self.reports.add(index, media.rtcp, now, self._rtp if shared else None)
        heapq.heappush(self._agenda, (self._hang_up[index], index))
        if len(self._scripts[index]) > 1 or self.plan.repeat:
            heapq.heappush(self._speech, (now + 1.0, index, 1))  # a text ahead of what is being said

    def _speak(self, now: float) -> None:
        """Give calls their next text: as fast as text is said, or a little faster, so that speech never ends."""
        while self._speech and self._speech[0][0] <= now:
            _, index, number = heapq.heappop(self._speech)
            call, script = self.calls[index], self._scripts[index]
            if call.state is not uac.State.ESTABLISHED or (number >= len(script) and not self.plan.repeat):
                continue
            refused = call.refused
            request = call.say(script[number % len(script)], now)
            if not request:  # another is under way
                heapq.heappush(self._speech, (now + 0.5, index, number))
                continue
            self._send(request, call.server)
            assert call.due is not None
            heapq.heappush(self._agenda, (call.due, index))
            said = len(script[(number - 1) % len(script)]) / CHARACTERS_A_SECOND
            wait = said + (REFUSED_WAIT if refused else 0.0)
            heapq.heappush(self._speech, (now + wait, index, number + 1))

    def _look_at_due_calls(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            _, index = heapq.heappop(self._agenda)
            call, stamps = self.calls[index], self.stamps[index]
            before = call.state
            if before is uac.State.IDLE:
                request = call.invite(now)
                stamps.invite = time.time_ns()
            elif before is uac.State.ESTABLISHED and now >= self._hang_up[index]:
                self._end_media(index, now)
                request = call.hang_up(now)
                stamps.bye = time.time_ns()
            else:
                request = call.on_timer(now)
            self._send(request, call.server)
            self._note_end(index, before, time.time_ns())
            if call.due is not None:
                heapq.heappush(self._agenda, (call.due, index))

    def _end_media(self, index: int, now: float) -> None:
        self.expected.end(index, now)
        self.reports.remove(index, now)
        if self.uplink:
            self.uplink.remove(index)

    def _note_end(self, index: int, before: uac.State, stamp: int) -> None:
        if self.calls[index].state in OVER and before not in OVER:
            self.stamps[index].closed = stamp
            self._end_media(index, time.monotonic())
            self._open -= 1

    def _send(self, datagrams: list[bytes], target: tuple[str, int]) -> None:
        for datagram in datagrams:
            self._sip.sendto(datagram, target)

    def save(self) -> None:
        if self.plan.keep:
            self.downlink.save(self._directory / f"records-{self._share}.bin")
        report = {"calls": [self._outcome(i) for i in range(len(self.calls))], "generator": self._figures()}
        report["rtp"] = asdict(self.reduction.totals())
        report["rtcp"] = self.reports.figures() if self.plan.rtcp else {}
        (self._directory / f"calls-{self._share}.json").write_text(json.dumps(report), encoding="utf-8")

    def _outcome(self, index: int) -> dict[str, Any]:
        call, reduction = self.calls[index], self.reduction
        return {
            "state": call.state.value,
            "failure": call.failure,
            "retransmissions": call.retransmissions,
            "said": call.said,
            "refused": call.refused,
            **asdict(self.stamps[index]),
            "received": int(reduction.received_ever[index]),
            "lost": int(reduction.lost_by_call()[index]),
            "jitter_ms": float(reduction.jitter[index]) * 1000.0 / CLOCK_RATE,
        }

    def _figures(self) -> dict[str, Any]:
        uplink = self.uplink
        return {
            "cpu_percent": self.cpu_percent,
            "kernel_drops": self.downlink.kernel_drops(),
            "overflowed": self.downlink.overflowed,
            "strangers": self.downlink.strangers,
            "sip_malformed": self.malformed,
            "uplink_sent": uplink.sent if uplink else 0,
            "uplink_refused": uplink.refused if uplink else 0,
            "uplink_skipped": uplink.skipped if uplink else 0,
        }

    def close(self) -> None:
        for sock in (self._sip, self._rtp, self._rtcp):
            sock.close()


def main(directory: Path, share: int = 0, shares: int = 1) -> None:
    generator = Generator(Plan.read(directory / "plan.json"), directory, share, shares)
    gc.collect()
    gc.disable()
    try:
        generator.run()
        generator.save()
    finally:
        generator.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(value) for value in sys.argv[2:4]))
