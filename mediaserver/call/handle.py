"""What control interfaces hold of a call: it outlives the call, and then only says what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mediaserver.call.control import AudioListener, CallEndedError, SpeechTurn, StreamOrder, Track
from mediaserver.call.digits import check_digits
from mediaserver.call.end import EndReason
from mediaserver.call.events import Listener
from mediaserver.call.leg import CallLeg
from mediaserver.call.summary import view_of
from mediaserver.call.view import CallView
from mediaserver.config import BargeInPolicy
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Script
from mediaserver.speech.utterance import CutSpeech


class CallHandle:
    """A CallControl. All methods belong to the event loop."""

    def __init__(self, leg: CallLeg) -> None:
        self.id = leg.id
        self._leg: CallLeg | None = leg
        self._reporter = leg.reporter
        self._profile = leg.profile
        self._last_view: CallView | None = None

    @property
    def over(self) -> bool:
        return self._leg is None or self._leg.over

    @property
    def idle(self) -> bool:
        return self._leg is None or self._leg.speech.idle

    @property
    def parameters(self) -> Mapping[str, str]:
        return self._profile.parameters

    @property
    def agent_url(self) -> str | None:
        return self._profile.agent_url

    @property
    def streams(self) -> Sequence[StreamOrder]:
        return self._profile.streams

    def view(self) -> CallView:
        """As it is now, or as it was at its end."""
        if self._leg is not None:
            return view_of(self._leg)
        assert self._last_view is not None  # noqa: S101 - let_go() has set it
        return self._last_view

    def let_go(self) -> CallView:
        """The call is over: nothing of its media is held any longer. Its last view."""
        if self._leg is not None:
            self._last_view = view_of(self._leg)
            self._leg = None
        return self.view()

    # What is said:

    def say(
        self,
        script: Script,
        *,
        voice: str | None = None,
        mark: str | None = None,
        barge_in: BargeInPolicy | None = None,
        replace: bool = False,
    ) -> int:
        """See CallControl."""
        leg = self._running()
        known = leg.speech.known(voice) if voice else None
        if replace:  # nothing is cut for what is then refused
            leg.speech.check(script, known or leg.speech.voice, behind_queue=False)
            leg.clear()
        return leg.speech.say(script, known, mark=mark, barge_in=barge_in)

    def open_turn(self, *, voice: str | None = None, barge_in: BargeInPolicy | None = None) -> SpeechTurn:
        """See CallControl."""
        leg = self._running()
        return leg.speech.open_turn(leg.speech.known(voice) if voice else None, barge_in=barge_in)

    def clear(self) -> list[CutSpeech]:
        """See CallControl."""
        return self._running().clear()

    def hang_up_when_said(self) -> None:
        self._running().hang_up_when_said()

    def send_digits(self, digits: str) -> None:
        """See CallControl."""
        leg = self._running()
        check_digits(digits)
        leg.send_digits(digits)

    # The call itself:

    def hold(self) -> None:
        """See CallControl."""
        self._answered().peer.hold(True)

    def resume(self) -> None:
        """See CallControl."""
        self._answered().peer.hold(False)

    def transfer(self, target: str) -> None:
        """See CallControl."""
        self._answered().peer.transfer(target)

    def hang_up(self) -> None:
        self._running().end(EndReason.HUNG_UP)

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """See CallControl."""
        return self._reporter.listen(listener)

    def listen(self, track: Track, listener: AudioListener) -> Callable[[], None]:
        """See CallControl."""
        media = self._running().media
        return media.inbound.listen(listener) if track == "inbound" else media.hearing.listen_outbound(listener)

    def report(
        self, kind: Literal["agent.connected", "agent.disconnected", "stream.started", "stream.stopped"], **data: object
    ) -> None:
        """See CallControl; of a call that is over too."""
        self._reporter.publish(kind, **data)

    def _running(self) -> CallLeg:
        """Raises CallEndedError."""
        if self._leg is None or self._leg.over:
            raise CallEndedError
        return self._leg

    def _answered(self) -> CallLeg:
        """Raises RefusedError."""
        leg = self._running()
        if leg.state == "ringing":
            raise RefusedError(491, "Call Is Not Answered Yet")
        return leg
