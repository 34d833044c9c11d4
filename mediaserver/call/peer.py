"""What we ask the peer of a call for: to hold, to go on, to call somebody else, to take a digit."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mediaserver.call.hold import CallHold
from mediaserver.call.media import CallMedia
from mediaserver.call.reporter import CallReporter
from mediaserver.negotiation import MediaFormat
from mediaserver.refusal import RefusedError
from mediaserver.trunks import bracketed, target_uri
from sip.address import parse_uri
from sip.info_queue import OnResult
from sip.sdp import CONTENT_TYPE as SDP_TYPE
from sip.session import Session

NO_SESSION = 481


class CallPeer:
    """All methods belong to the event loop."""

    def __init__(
        self,
        media: CallMedia,
        reporter: CallReporter,
        on_format: Callable[[MediaFormat], None],
        on_resumed: Callable[[], None],
        on_transferred: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """on_format is given what a re-INVITE has agreed; on_resumed is called when the peer no longer holds by our
        wish; on_transferred when somebody else has taken the call.
        """
        self.session: Session | None = None
        "None before the INVITE of ours."
        self._media = media
        self._reporter = reporter
        self._on_format = on_format
        self._on_resumed = on_resumed
        self._on_transferred = on_transferred
        self._log = log
        self._hold = CallHold(self._reinvite)
        self._transferring = False
        self._closed = False

    @property
    def holds(self) -> bool:
        """By our wish, and agreed."""
        return self._hold.held

    def send_info(self, body: bytes, content_type: str, on_result: OnResult | None = None) -> None:
        """Raises InfoQueueFullError."""
        if self.session is not None:
            self.session.send_info(body, content_type, on_result)
        elif on_result is not None:
            on_result(NO_SESSION)

    def hold(self, held: bool) -> None:
        """Have the peer hold, or go on. Speech pauses at once, and goes on when the peer has agreed to that."""
        self._hold.want(held)
        self._media.held = self._hold.silent

    def _reinvite(self, held: bool) -> None:
        if self.session is not None:
            self.session.reinvite(lambda: self._media.hold(held), SDP_TYPE, self._answered)

    def _answered(self, code: int, sdp: bytes) -> None:
        if self._closed:
            return
        agreed = 200 <= code <= 299
        if agreed:
            try:
                self._on_format(self._media.take_answer(sdp))
            except RefusedError as error:
                agreed = False
                self._log.warning("answer_unusable", error=error.fault.reason)
        if not agreed:
            self._media.hold_failed(self._hold.held)
            self._log.warning("hold_refused", code=code)
        changed = self._hold.answered(agreed)
        self._media.held = self._hold.silent
        if not changed:
            return
        if self._hold.held:
            self._log.info("held")
            self._reporter.publish("call.held", by="us")
        else:
            self._log.info("resumed")
            self._reporter.publish("call.resumed", by="us")
            self._on_resumed()

    def transfer(self, target: str) -> None:
        """Ask the peer to call a SIP URI, or a user at its own domain (RFC 3515). Raises RefusedError."""
        session = self.session
        if session is None:
            raise RefusedError(491, "Call Is Not Answered Yet")
        if self._transferring:
            raise RefusedError(491, "A Transfer Is Under Way")
        uri = target_uri(target, _domain(session))

        def progress(status: int) -> None:
            if self._closed:
                return
            self._reporter.publish("call.transferred", target=uri, status=status)
            self._log.info("transfer", status=status)
            if status >= 200:
                self._transferring = False
            if 200 <= status <= 299:
                self._on_transferred()

        self._transferring = True
        session.refer(uri, progress, session.local_uri)

    def close(self) -> None:
        """The call is over: what is still answered is told to nobody."""
        self._closed = True
        self._hold.close()
        self._on_format = _unheard
        self._on_resumed = self._on_transferred = _nothing


def _domain(session: Session) -> str:
    """Where the peer is: an anonymous one says no domain of its own (RFC 3323 section 4.1.1.3)."""
    try:
        uri = parse_uri(session.remote_uri)
    except ValueError:
        return bracketed(session.peer_host)
    if not uri.host or uri.host.lower().endswith(".invalid"):
        return bracketed(session.peer_host)
    return uri.host if uri.port is None else f"{uri.host}:{uri.port}"


def _unheard(_format: MediaFormat) -> None:
    pass


def _nothing() -> None:
    pass
