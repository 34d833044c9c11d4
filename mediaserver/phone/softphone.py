"""One call with PJSIP, driven from the calling thread.

PJSIP's callbacks run inside `libHandleEvents`, and an exception must not leave them: they only note what
happened, and the loop in `SoftPhone.run` acts on it. In them, what a getter returns is kept in a variable
while its members are read: pjsua2 frees it with its last Python name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pjsua2 as pj

from mediaserver.phone.actions import Action, DigitMethod, Dtmf, HangUp, Hold, Play, Resume, SendInfo
from mediaserver.phone.call import CallPlan, PhoneError
from mediaserver.phone.media import MediaOptions, shape_sdp
from mediaserver.phone.parameters import call_parameters, digits_request, info_request
from mediaserver.phone.report import CallReport, EndedBy, FarReport, PressedDigit, Reply, StreamCounts

POLL_MS = 10
# What a BYE or CANCEL gets to be answered in, before the phone leaves anyway.
GOODBYE_S = 2.0
# The scale of PJSIP's meter is nowhere written down. By trial: sines of 100, 150 and 8000 of 32768 give
# 7, 14 and 31, so this is about -53 dBFS.
AUDIBLE_LEVEL = 7
_METHODS: dict[int, DigitMethod] = {pj.PJSUA_DTMF_METHOD_RFC2833: "rfc4733", pj.PJSUA_DTMF_METHOD_SIP_INFO: "info"}


@dataclass
class Observed:
    """What PJSIP told of a call. Times are seconds of the monotonic clock."""

    answered_at: float | None = None
    recording_at: float | None = None
    ended_at: float | None = None
    ended_by: EndedBy = "nobody"
    status: int = 0
    reason: str = ""
    codec: str | None = None
    received: StreamCounts = field(default_factory=StreamCounts)
    sent_packets: int = 0
    far: FarReport = field(default_factory=FarReport)
    digits: list[tuple[float, str, int]] = field(default_factory=list)
    playing: list[float] = field(default_factory=list)
    replies: list[tuple[float, str, int]] = field(default_factory=list)
    failure: str | None = None

    @property
    def recording_delay_s(self) -> float | None:
        """From the answer to the first sample of the recording; None when nothing was recorded."""
        if self.answered_at is None or self.recording_at is None:
            return None
        return self.recording_at - self.answered_at


class _Call(pj.Call):  # type: ignore[misc]  # pjsua2 carries no types
    """Notes PJSIP's callbacks in `observed`; connects the far end's audio to `recorder`."""

    def __init__(
        self, account: pj.Account, recorder: pj.AudioMediaRecorder, options: MediaOptions, observed: Observed
    ) -> None:
        super().__init__(account)
        self.recorder = recorder
        self.options = options
        self.observed = observed

    def onCallState(self, _prm: pj.OnCallStateParam) -> None:  # noqa: N802
        now = time.monotonic()
        info = self.getInfo()
        seen = self.observed
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            seen.ended_at = now
        if seen.answered_at is not None:
            return
        seen.status, seen.reason = info.lastStatusCode, info.lastReason
        if info.state in (pj.PJSIP_INV_STATE_CONNECTING, pj.PJSIP_INV_STATE_CONFIRMED):
            seen.answered_at = now

    def onCallTsxState(self, prm: pj.OnCallTsxStateParam) -> None:  # noqa: N802
        event = prm.e.body.tsxState
        method, status = event.tsx.method, event.tsx.statusCode
        if event.tsx.role == pj.PJSIP_ROLE_UAS:
            if method == "BYE" and self.observed.ended_by == "nobody":
                self.observed.ended_by = "server"
            return
        if method == "BYE" and self.observed.ended_by == "nobody":
            self.observed.ended_by = "phone"  # of PJSIP's own accord: it could not accept the answer
        if event.type == pj.PJSIP_EVENT_RX_MSG and status >= 200:
            self.observed.replies.append((time.monotonic(), method, status))

    def onCallMediaState(self, _prm: pj.OnCallMediaStateParam) -> None:  # noqa: N802
        try:
            info = self.getInfo()
            if not any(media.status == pj.PJSUA_CALL_MEDIA_ACTIVE for media in info.media):
                return
            audio = self.getAudioMedia(-1)
            audio.startTransmit(self.recorder)
            if self.options.echo_db is not None:
                level = pj.AudioMediaTransmitParam()
                level.level = 10 ** (self.options.echo_db / 20)
                audio.startTransmit2(audio, level)
            if self.observed.recording_at is None:
                self.observed.recording_at = time.monotonic()
            stream = self.getStreamInfo(0)
            self.observed.codec = stream.codecName
        except pj.Error as error:
            self.observed.failure = f"media: {error.reason}"

    def onCallSdpCreated(self, prm: pj.OnCallSdpCreatedParam) -> None:  # noqa: N802
        prm.sdp.wholeSdp = shape_sdp(prm.sdp.wholeSdp, self.options)

    def onDtmfDigit(self, prm: pj.OnDtmfDigitParam) -> None:  # noqa: N802
        self.observed.digits.append((time.monotonic(), prm.digit, prm.method))

    def onStreamDestroyed(self, prm: pj.OnStreamDestroyedParam) -> None:  # noqa: N802
        # The last moment at which the counts can be read: at the end, and before the media of a re-INVITE.
        try:
            stream = self.getStreamStat(prm.streamIdx)
        except pj.Error as error:
            self.observed.failure = f"stream statistics: {error.reason}"
            return
        stat = stream.rtcp.rxStat
        self.observed.received += StreamCounts(
            packets=stat.pkt,
            bytes=stat.bytes,
            lost=stat.loss,
            duplicated=stat.dup,
            discarded=stat.discard,
            jitter_mean_ms=stat.jitterUsec.mean / 1000,
            jitter_max_ms=stat.jitterUsec.max / 1000,
        )
        sent, trip = stream.rtcp.txStat, stream.rtcp.rttUsec
        self.observed.sent_packets += sent.pkt
        self.observed.far += FarReport(
            reports=sent.updateCount,
            lost=sent.loss,
            jitter_ms=sent.jitterUsec.last / 1000,
            round_trip_ms=trip.mean / 1000 if trip.n else None,
        )


class SoftPhone:
    """One call. `run` once, `close` before the stack is shut down, and look at `observed` and `report`."""

    def __init__(self, endpoint: pj.Endpoint, account: pj.Account, plan: CallPlan, wav: Path) -> None:
        self.plan = plan
        self.observed = Observed()
        self.invited_at = 0.0
        self._endpoint = endpoint
        recorder = pj.AudioMediaRecorder()
        recorder.createRecorder(str(wav))
        self._call = _Call(account, recorder, plan.media, self.observed)
        self._players: list[pj.AudioMediaPlayer] = []
        self._silent_since: float | None = None

    def close(self) -> None:
        """Let go of PJSIP's objects; it completes the recording when it is shut down."""
        self._call.recorder = None
        self._players.clear()
        del self._call, self._endpoint

    def run(self) -> None:
        """Call, do what the plan says, and return when the call is over. PhoneError when PJSIP fails."""
        self.invited_at = time.monotonic()
        failed = _attempt(self._call.makeCall, self.plan.uri, call_parameters(self.plan.headers))
        if failed:
            raise PhoneError(f"call to {self.plan.uri} failed: {failed}")
        actions = deque(self.plan.actions)
        while self._poll():
            now = time.monotonic()
            if self.observed.answered_at is None:
                if now - self.invited_at > self.plan.answer_timeout:
                    break
                continue
            elapsed = now - self.observed.answered_at
            while actions and actions[0].at <= elapsed:
                self._act(actions.popleft())
            if elapsed > self.plan.max_seconds or self._silent(now):
                break
        self._hang_up()
        give_up_at = time.monotonic() + GOODBYE_S
        while self._poll() and time.monotonic() < give_up_at:
            pass
        if self.observed.failure is not None:
            raise PhoneError(self.observed.failure)

    def report(self) -> CallReport:
        """What is known of the call without listening to the recording."""
        seen, plan = self.observed, self.plan
        if seen.answered_at is None:
            status, reason = seen.status, seen.reason
            if seen.ended_by == "phone":
                status, reason = 408, f"no answer within {plan.answer_timeout:g} s"
            return CallReport(plan.uri, status, reason, answered=False, ended_by=seen.ended_by)
        answered_at = seen.answered_at
        return CallReport(
            uri=plan.uri,
            status=seen.status,
            reason=seen.reason,
            answered=True,
            ended_by=seen.ended_by,
            setup_ms=1000 * (answered_at - self.invited_at),
            duration_s=(seen.ended_at or time.monotonic()) - answered_at,
            codec=seen.codec,
            received=seen.received,
            sent_packets=seen.sent_packets,
            far=seen.far,
            digits=tuple(PressedDigit(at - answered_at, digit, _METHODS[how]) for at, digit, how in seen.digits),
            recording_at=seen.recording_delay_s,
            playing_at=tuple(at - answered_at for at in seen.playing),
            replies=tuple(Reply(at - answered_at, method, status) for at, method, status in seen.replies),
        )

    def _poll(self) -> bool:
        """Let PJSIP work for up to 10 ms; whether the call goes on."""
        self._endpoint.libHandleEvents(POLL_MS)
        return self.observed.ended_at is None

    def _act(self, action: Action) -> None:
        match action:
            case SendInfo():
                failed = _attempt(self._call.sendRequest, info_request(action))
            case Dtmf():
                failed = _attempt(self._call.sendDtmf, digits_request(action))
            case Play(path=path):
                failed = _attempt(self._play, path)
            case Hold():
                failed = _attempt(self._call.setHold, pj.CallOpParam(True))
            case Resume():
                parameters = pj.CallOpParam(True)
                parameters.opt.flag = pj.PJSUA_CALL_UNHOLD
                failed = _attempt(self._call.reinvite, parameters)
            case HangUp():
                failed = None
                self._hang_up()
        # A request that crosses the far end's BYE cannot be sent, and need not be.
        if failed and self.observed.ended_at is None:
            raise PhoneError(f"{action} failed: {failed}")

    def _play(self, path: Path) -> None:
        player = pj.AudioMediaPlayer()
        player.createPlayer(str(path), pj.PJMEDIA_FILE_NO_LOOP)
        player.startTransmit(self._call.getAudioMedia(-1))
        self.observed.playing.append(time.monotonic())
        self._players.append(player)

    def _hang_up(self) -> None:
        """CANCEL or BYE, whichever the call's state asks for; nothing when it is already over."""
        if self.observed.ended_at is not None or self.observed.ended_by != "nobody":
            return
        self.observed.ended_by = "phone"
        # The far end may have been quicker by a moment; the loop is about to see its BYE.
        _attempt(self._call.hangup, pj.CallOpParam(True))

    def _silent(self, now: float) -> bool:
        """Whether the far end has been silent for as long as the plan waits, after being heard."""
        limit = self.plan.hangup_after_silence
        if limit is None or self.observed.recording_at is None:
            return False
        if self._level() > AUDIBLE_LEVEL:
            self._silent_since = now
        return self._silent_since is not None and now - self._silent_since > limit

    def _level(self) -> float:
        """PJSIP's meter for the last frame received."""
        if not self._call.hasMedia():
            return 0.0  # as between the two halves of a re-INVITE
        media = self._call.getAudioMedia(-1)
        return float(media.getTxLevel())  # towards the recorder


def _attempt(operation: Callable[..., object], *arguments: object) -> str | None:
    """Why PJSIP refused `operation`, or None.

    Its exception is not passed on: the traceback would keep the call's object alive past the shutdown.
    """
    try:
        operation(*arguments)
    except pj.Error as error:
        return str(error.reason)
    return None
