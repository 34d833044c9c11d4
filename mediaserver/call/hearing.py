"""Who listens on one call, and what they make of it: barge-in, digits, those who were asked to hear it."""

from __future__ import annotations

import time
from collections.abc import Callable

from mediaserver.config import BargeInConfig, BargeInPolicy
from mediaserver.rtp.barge_in import BargeIn, BargeInSettings, Interruption
from mediaserver.rtp.dtmf import DtmfEvent
from mediaserver.rtp.dtmf_gate import WINDOW_S
from mediaserver.rtp.dtmf_tones import ToneDetector
from mediaserver.rtp.look_budget import LookBudget
from mediaserver.rtp.outbound import Consumer, OutboundAudio
from mediaserver.rtp.session import RtpSession


class CallHearing:
    """All methods belong to the event loop, but for those that say otherwise."""

    def __init__(
        self,
        rtp: RtpSession,
        playout_rate: int,
        barge_in: BargeInConfig,
        budget: LookBudget,
        report: Callable[[DtmfEvent | Interruption], None],
    ) -> None:
        """Report is called on the media thread."""
        self.last_digit = ""
        "The one that was pressed last."
        self.mid_utterance = False
        "An utterance has begun to be heard, and is not over: silence in it is a pause. Set by the event loop."
        self._rtp = rtp
        self._report = report
        self._outbound = OutboundAudio(playout_rate, lambda: rtp.interval_ms)
        self._told = ("", 0.0)  # the digit told last by INFO, and when
        self._stop_hearing: list[Callable[[], None]] = []
        self._stop_detecting: Callable[[], None] | None = None
        self._barge_in = BargeIn(
            _settings(barge_in), report, playing=lambda: self.speaking, halt=rtp.playout.halt, budget=budget
        )
        rtp.receiving.on_digit = self._digit
        self.set_barge_in(barge_in.policy)

    @property
    def barge_in_policy(self) -> BargeInPolicy:
        return self._barge_in.policy

    def set_barge_in(self, policy: BargeInPolicy) -> None:
        """What interrupts the speech from now on; where that is not speech, nothing listens."""
        barge_in = self._barge_in
        barge_in.policy = policy
        self._rtp.prompt = policy == "digit"
        if barge_in.wants_audio and not self._stop_hearing:
            sent = self._outbound.listen_to_packets(barge_in.sent)  # as the phone may return it
            self._stop_hearing = [self._rtp.inbound.listen(barge_in.heard), sent]
            self._tap()
        elif not barge_in.wants_audio:
            self._stop_barge_in()

    def listen_outbound(self, consumer: Consumer) -> Callable[[], None]:
        """Call `consumer` with each 20 ms of what the peer is sent: see OutboundAudio.listen()."""
        stop_listening = self._outbound.listen(consumer)
        self._tap()

        def stop() -> None:
            stop_listening()
            self._tap()

        return stop

    def detect_tones(self, wanted: bool) -> None:
        """Listen for digits sent as tones, where the peer sends none as events."""
        if wanted and self._stop_detecting is None:
            self._stop_detecting = self._rtp.inbound.listen(ToneDetector(self._digit).heard)
        elif not wanted and self._stop_detecting is not None:
            self._stop_detecting()
            self._stop_detecting = None

    def told_by_info(self, digit: str) -> None:
        """The peer has told a digit by INFO; the same press may yet come in the audio."""
        self.last_digit = digit
        self._told = (digit, time.monotonic())

    @property
    def speaking(self) -> bool:
        """Whether the peer is being spoken to right now: not on hold, whoever holds, nor while a digit is sent instead.

        For either thread. A pause within an utterance, as between two clauses of a slow agent, is part of it. What
        comes back as our own is nobody's interruption.
        """
        sending = self._rtp.sending
        silent = sending.paused or sending.held or sending.dtmf.active
        return (sending.playout.playing or self._pauses) and not silent and not self._returned()

    @property
    def _pauses(self) -> bool:
        """Within an utterance, but not halted: what was interrupted once is not interrupted again."""
        return self.mid_utterance and not self._rtp.playout.halted

    def close(self) -> None:
        """The call is over, and its leg has left the pacer."""
        self._report = _unheard
        self._barge_in.close()
        self.detect_tones(False)
        self._outbound.close()
        self._stop_barge_in()

    def _stop_barge_in(self) -> None:
        for stop in self._stop_hearing:
            stop()
        self._stop_hearing.clear()
        self._tap()

    def _tap(self) -> None:
        """What is sent is looked at only while somebody listens to it."""
        self._rtp.sending.on_frame = self._outbound.sent if self._outbound.listening else None

    def _is_told(self, digit: str) -> bool:
        return digit == self._told[0] and time.monotonic() - self._told[1] < WINDOW_S["info"]

    def _returned(self) -> bool:
        """On the media thread: whether the peer sends back our own packets (RFC 3550 section 8.2), which nobody says.

        A new SSRC of ours comes back too, and the stream that changes has a gap, which no echo guard understands.
        """
        return self._rtp.stats.ssrc == self._rtp.ssrc

    def _digit(self, event: DtmfEvent) -> None:
        """On the media thread: the next frame can be silent already."""
        if self._returned():
            return  # ours
        if event.kind == "started":
            self.last_digit = event.digit
            if not self._is_told(event.digit):  # else it has interrupted already
                self._barge_in.digit(self._rtp.now_ms)
        self._report(event)


def _settings(config: BargeInConfig) -> BargeInSettings:
    return BargeInSettings(
        policy=config.policy,
        min_speech_ms=config.min_speech_ms,
        energy_floor_dbov=config.energy_floor_db,
        hold_off_ms=config.hold_off_ms,
        aggressiveness=config.aggressiveness,
        echo_guard=config.echo_guard,
    )


def _unheard(_event: DtmfEvent | Interruption) -> None:
    """The call is over."""
