"""An in-memory network that loses, delays, duplicates and reorders, and an RTP sender to feed it.

Time is an argument in seconds; equal seeds give equal networks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Impairment:
    """What a network does to each packet, as tc-netem names it."""

    loss: float = 0.0
    "Probability that a packet is lost; with `burst` on average."
    burst: float = 1.0
    "Mean number of packets lost in a row (Gilbert's model)."
    delay: float = 0.02
    "Seconds."
    jitter: float = 0.0
    "Standard deviation of the delay, seconds; it is cut at nought and at three of these."
    in_order: bool = False
    "Packets do not overtake one another, as in one queue."
    reorder: float = 0.0
    "Probability that a packet is held back by `reorder_by`."
    reorder_by: float = 0.03
    duplicate: float = 0.0
    "Probability that a packet comes twice, the second after up to `duplicate_after`."
    duplicate_after: float = 0.03


class Network(Generic[T]):
    """One direction of a path. send() puts in, receive() takes out what has arrived by a time."""

    def __init__(self, impairment: Impairment = Impairment(), seed: int = 1) -> None:
        self.impairment = impairment
        "May be changed at any time, for what is sent from then on."
        self.lost = self.duplicated = self.reordered = 0
        self._random = random.Random(seed)
        self._number = count()
        self._under_way: list[tuple[float, int, T]] = []
        self._losing = False
        self._last_arrival = 0.0

    def send(self, data: T, now: float) -> None:
        impairment, rng = self.impairment, self._random
        if self._loses():
            self.lost += 1
            return
        jitter = impairment.jitter
        delay = impairment.delay + max(-impairment.delay, -3 * jitter, min(3 * jitter, rng.gauss(0, jitter)))
        if impairment.reorder and rng.random() < impairment.reorder:
            self.reordered += 1
            delay += impairment.reorder_by
        arrival = now + delay
        if impairment.in_order:
            arrival = max(arrival, self._last_arrival)
        self._last_arrival = arrival
        self._put(arrival, data)
        if impairment.duplicate and rng.random() < impairment.duplicate:
            self.duplicated += 1
            self._put(arrival + rng.random() * impairment.duplicate_after, data)

    def receive(self, until: float) -> Iterator[tuple[float, T]]:
        """(arrival, data) of all that has arrived by `until` and was not taken before, in the order of arriving."""
        under_way = self._under_way
        while under_way and under_way[0][0] <= until:
            arrival, _, data = heapq.heappop(under_way)
            yield arrival, data

    def _put(self, arrival: float, data: T) -> None:
        heapq.heappush(self._under_way, (arrival, next(self._number), data))

    def _loses(self) -> bool:
        loss, burst = self.impairment.loss, self.impairment.burst
        if not loss:
            return False
        if burst <= 1:
            return self._random.random() < loss
        leave = 1 / burst
        enter = leave * loss / (1 - loss)
        self._losing = self._random.random() < (1 - leave if self._losing else enter)
        return self._losing


class Sent(NamedTuple):
    """An RTP packet without its header's other fields."""

    sequence: int
    timestamp: int
    payload: bytes


@dataclass
class Sender:
    """Packets of one stream: octet n of the audio goes into the packet of that time, at 8000 octets a second."""

    ptime_ms: int = 20
    sequence: int = 65500
    "Of the next packet. Near its wrap-around, as is the timestamp, unless told otherwise."
    timestamp: int = 2**32 - 16000
    drift_ppm: float = 0.0
    "By how much the sender's clock is too fast."
    at: float = 0.0
    "When the next packet leaves, on the true clock."

    def send(self, payload: bytes) -> Sent:
        sent = Sent(self.sequence, self.timestamp, payload)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.timestamp = (self.timestamp + len(payload)) & 0xFFFFFFFF
        self.at += len(payload) / 8000 / (1 + self.drift_ppm * 1e-6)
        return sent

    def pause(self, seconds: float) -> None:
        """Send nothing for a while; timestamps go on (RFC 3550 section 5.1)."""
        self.timestamp = (self.timestamp + round(seconds * 8000)) & 0xFFFFFFFF
        self.at += seconds


def packets_of(audio: bytes, ptime_ms: int) -> Iterable[bytes]:
    """The payloads that carry an audio of one octet a sample."""
    size = 8 * ptime_ms
    return (audio[start : start + size] for start in range(0, len(audio), size))


def transmit(
    payloads: Iterable[bytes],
    network: Network[Sent],
    sender: Sender,
    put: Callable[[int, int, bytes], object],
    tick: Callable[[float], object],
    *,
    tick_seconds: float = 0.02,
    start: float = 0.007,
    linger: float = 0.4,
) -> float:
    """Send payloads through a network to a receiver that, every tick, reads its socket and then plays.

    start: time of the receiver's first tick; returned is that of the next, when the last payload was sent and
    `linger` has passed.
    """
    waiting = iter(payloads)
    payload = next(waiting, None)
    now = start
    end = None
    while end is None or now < end:
        while payload is not None and sender.at <= now:
            leaves = sender.at
            network.send(sender.send(payload), leaves)
            payload = next(waiting, None)
        if payload is None and end is None:
            end = now + linger
        for _, packet in network.receive(now):
            put(*packet)
        tick(now)
        now += tick_seconds
    return now
