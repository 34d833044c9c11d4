"""Bursts and gaps of packet loss (RFC 3611 section 4.7.2), counted as losses happen."""

from __future__ import annotations

from mediaserver.rtp.rtcp_xr import VoipMetricsBlock

GMIN = 16
"Packets that must be received between two losses to part them: the value RFC 3611 section 4.7.2 recommends."


class VoipMetrics:
    """Loss of one inbound stream.

    A burst is the longest stretch that begins and ends with a lost packet and has no GMIN or more received ones in
    a row inside it; a loss alone belongs to the gap round it. Appendix A.2 counts transitions for each packet
    received; here only losses cost anything, and lengths follow from their sequence numbers.
    """

    __slots__ = (
        "_burst_losses",
        "_burst_packets",
        "_bursts",
        "_cluster_first",
        "_cluster_losses",
        "_last",
        "_runs",
        "discarded",
        "lost",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new stream."""
        self.lost = 0
        "Packets missing when first looked for; those that came late after all are not taken back."
        self.discarded = 0
        "Packets received too late to be played, as `note_discard` was told."
        self._runs = 0  # of consecutive losses
        self._bursts = self._burst_packets = self._burst_losses = 0  # those that are over
        # The losses since the last GMIN packets in a row that were received: a burst if more than one.
        self._cluster_first = self._cluster_losses = 0
        self._last: int | None = None  # sequence number of the last lost packet, unwrapped

    def note_loss(self, first: int, count: int) -> None:
        """`count` packets from unwrapped sequence number `first` on are missing: ReceiverStats.on_loss."""
        if self._last is None or first - self._last > GMIN:
            self._end_cluster()
            self._cluster_first = first
            self._cluster_losses = 0
        if self._last is None or first != self._last + 1:
            self._runs += 1
        self._cluster_losses += count
        self._last = first + count - 1
        self.lost += count

    def note_discard(self, count: int = 1) -> None:
        """Packets came too late for the jitter buffer. As losses they were counted when they were missed."""
        self.discarded += count

    def _end_cluster(self) -> None:
        if self._cluster_losses > 1 and self._last is not None:
            self._bursts += 1
            self._burst_packets += self._last - self._cluster_first + 1
            self._burst_losses += self._cluster_losses

    def totals(self) -> tuple[int, int, int]:
        """Bursts, packets in them, losses in them; the session's end counts as GMIN received packets."""
        if self._cluster_losses < 2 or self._last is None:
            return self._bursts, self._burst_packets, self._burst_losses
        packets = self._last - self._cluster_first + 1
        return self._bursts + 1, self._burst_packets + packets, self._burst_losses + self._cluster_losses

    def burst_ratio(self, expected: int) -> float:
        """BurstR of ITU-T G.107: mean run of losses over that of random loss at the same rate; 1 or more."""
        if self._runs == 0 or self.lost >= expected:
            return 1.0
        return max(1.0, self.lost / self._runs * (1 - self.lost / expected))

    def block(self, ssrc: int, *, expected: int, lost: int, packet_ms: int) -> VoipMetricsBlock:
        """Loss, discard, bursts and gaps of the stream so far; the block's other fields are left unknown.

        `expected` and `lost` are the stream's, as receiver reports count them; `packet_ms` is its packet time.
        """
        bursts, burst_packets, burst_losses = self.totals()
        # A burst that begins and one that ends the session have no gap outside; that is too rare to matter.
        gaps = bursts + 1
        gap_packets = max(0, expected - burst_packets)
        return VoipMetricsBlock(
            ssrc=ssrc,
            loss_rate=_rate(lost, expected),
            discard_rate=_rate(self.discarded, expected),
            burst_density=_rate(burst_losses, burst_packets),
            gap_density=_rate(self.lost - burst_losses, gap_packets),
            burst_duration=min(0xFFFF, burst_packets * packet_ms // bursts) if bursts else 0,
            gap_duration=min(0xFFFF, gap_packets * packet_ms // gaps),
            gmin=GMIN,
        )


def _rate(part: int, whole: int) -> int:
    """256ths, in 8 bits."""
    if part <= 0 or whole <= 0:
        return 0
    return min(255, (part << 8) // whole)
