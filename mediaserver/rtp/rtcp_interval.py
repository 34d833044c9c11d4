"""When to send the next RTCP compound: RFC 3550 sections 6.2 and 6.3, and appendix A.7."""

from __future__ import annotations

import math
import random

MINIMUM_INTERVAL = 5.0
"Seconds between reports at least, before they are randomised; the first comes after half of it."
LOWER_LAYERS = 28
"Octets of IPv4 and UDP in front of a compound, which count as its size (section 6.2)."

_SENDER_SHARE = 0.25
_COMPENSATION = math.e - 1.5  # section 6.3.1: makes up for what reconsideration adds
_SIZE_GAIN = 1 / 16  # section 6.3.3


def deterministic_interval(
    members: int, senders: int, bandwidth: float, *, we_sent: bool, average_size: float, initial: bool
) -> float:
    """Td of section 6.3.1, in seconds. `bandwidth` is what RTCP may use, octets a second; sizes are octets."""
    minimum = MINIMUM_INTERVAL / 2 if initial else MINIMUM_INTERVAL
    share = 1.0
    if senders <= members * _SENDER_SHARE:
        if we_sent:
            share, members = _SENDER_SHARE, senders
        else:
            share, members = 1 - _SENDER_SHARE, members - senders
    return max(minimum, average_size * members / (bandwidth * share))


def randomised(interval: float, rng: random.Random) -> float:
    """T of section 6.3.1: half to one and a half of `interval`, compensated."""
    return interval * (rng.random() + 0.5) / _COMPENSATION


def reconsidered(interval: float, rng: random.Random) -> float:
    """Seconds until the timer has expired and no reconsideration (section 6.3.6) puts the report off.

    At each expiry the rule draws T anew and waits on if it lies ahead. As long as the group does not change between
    setting the timer and its expiry, those draws may as well be made at once: the outcome has the same distribution,
    with a mean of about `interval`, and the media thread has one time to look at.
    """
    wait = randomised(interval, rng)
    while (again := randomised(interval, rng)) > wait:
        wait = again
    return wait


class RtcpTimer:
    """When the reports of a two-party session are due. Times are monotonic seconds.

    Two members stay under the minimum interval unless the peer's compounds are enormous, so that the only thing that
    could change while the timer runs is their average size; it counts from the next report on.
    """

    __slots__ = ("_average_size", "_bandwidth", "_initial", "_rng")

    def __init__(self, rng: random.Random, bandwidth: float, first_size: int) -> None:
        """`first_size`: the probable size of the first compound, octets, without lower layers."""
        self._rng = rng
        self._bandwidth = bandwidth
        self._average_size = float(first_size + LOWER_LAYERS)
        self._initial = True

    def started(self, now: float) -> float:
        """The session begins: when its first report is due."""
        return self._due(now, senders=1, we_sent=False)

    def sent(self, now: float, size: int, *, senders: int, we_sent: bool) -> float:
        """A compound of `size` octets has been sent: when the next is due."""
        self._initial = False
        self.received(size)
        return self._due(now, senders, we_sent)

    def received(self, size: int) -> None:
        """A compound of `size` octets has come (section 6.3.3)."""
        self._average_size += (size + LOWER_LAYERS - self._average_size) * _SIZE_GAIN

    def _due(self, now: float, senders: int, we_sent: bool) -> float:
        interval = deterministic_interval(
            2,
            senders,
            self._bandwidth,
            we_sent=we_sent,
            average_size=self._average_size,
            initial=self._initial,
        )
        return now + reconsidered(interval, self._rng)
