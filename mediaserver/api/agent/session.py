"""One agent on one call: its messages become what the call says and does, the call's events become messages to it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable

import structlog

from mediaserver.api.agent import protocol
from mediaserver.api.agent.talk import Clock, Talk
from mediaserver.api.urls import UrlNotAllowedError
from mediaserver.api_config import AgentConfig
from mediaserver.call.control import CallControl
from mediaserver.call.events import CallEvent
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Sound

MAX_LOOPS = 100
"Of a sound that is to be played for as long as may be."

MAX_LANGUAGES = 20
"That an agent is told of that there is no voice for: once each."

OpenSound = Callable[[str], Sound]
"Of a URL; raises UrlNotAllowedError, or ValueError where it is none."

VoiceOf = Callable[[str], str | None]
"The voice for a language tag, None for the call's own; raises LookupError if no voice speaks it."


class AgentSession:
    """One connection's messages. Nothing here waits; what the agent does wrong is told to it, and the call goes on."""

    def __init__(
        self,
        call: CallControl,
        config: AgentConfig,
        clock: Clock,
        send: Callable[[str], None],
        *,
        open_sound: OpenSound,
        voice_of: VoiceOf,
        counts: Counter[str],
        on_end: Callable[[str | None], None],
    ) -> None:
        """on_end: told the handoffData of `end`, before the call is to hang up."""
        self.id = "VX" + uuid.uuid4().hex
        self.ended = False
        "The agent has sent `end`."
        self.active = False
        "The agent has sent something that could be taken."
        self.refused = 0
        self._call = call
        self._config = config
        self._clock = clock
        self._send = send
        self._open_sound = open_sound
        self._voice_of = voice_of
        self._counts = counts
        self._on_end = on_end
        self._voice: str | None = None
        "Of the language that the agent chose."
        self._lang = "en-US"
        "That the caller is said to speak, where a recogniser does not say."
        self._unspoken: set[str] = set()
        "Languages that the agent was told there is no voice for."
        self._talk = Talk(call, clock, self._tell_refusal)
        self._log = structlog.get_logger("agent").bind(call=call.id)

    def begin(self, *, reconnected: bool = False) -> None:
        """Tell the agent about the call."""
        self._send(protocol.setup_message(self._call.view(), self.id, reconnected=reconnected))

    # From the agent

    def take(self, text: str) -> None:
        """One message of the agent's."""
        self._counts["agent_messages"] += 1
        try:
            message = protocol.parse_message(text)
        except protocol.InvalidMessageError as error:
            self.refuse(str(error), "invalid")
            return
        if self.ended:
            self.refuse(f"Invalid message received: {message.type} after end", "after_end")
            return
        self.active = True
        try:
            self._do(message)
        except RefusedError as error:
            self._tell_refusal(error)

    def refuse(self, description: str, why: str) -> None:
        """Tell the agent what is wrong; why: a word for the log, which is written once for each."""
        self.refused += 1
        self._counts["agent_messages_refused"] += 1
        if self.refused == 1:
            self._log.warning("agent_message_refused", why=why)
        self._send(protocol.error_message(description))

    def close(self) -> None:
        """The connection is gone, or the agent is done; what was sent is said to its end."""
        try:
            self._talk.end_cycle()
        except RefusedError as error:
            self._log.info("agent_rest_refused", reason=error.fault.reason)
        self._talk.close()

    def hang_up_when_said(self) -> None:
        """The agent wants nothing more of this call."""
        self.ended = True
        self.close()
        try:
            self._call.hang_up_when_said()
        except RefusedError:
            self._hang_up()

    def _do(self, message: protocol.AgentMessage) -> None:
        match message:
            case protocol.TextMessage():
                self._say(message)
            case protocol.PlayMessage():
                self._play(message)
            case protocol.SendDigitsMessage(digits=digits):
                self._talk.end_cycle()
                self._call.send_digits(digits)
            case protocol.LanguageMessage():
                self._set_language(message)
            case protocol.EndMessage(handoffData=handoff):
                self._on_end(handoff)
                self.hang_up_when_said()

    def _say(self, message: protocol.TextMessage) -> None:
        voice = self._voice if message.lang is None else self._voice_for(message.lang)
        self._talk.token(
            message.token,
            last=message.last,
            barge_in=message.barge_in(self._config.barge_in),
            preemptible=message.preemptible,
            voice=voice,
        )

    def _play(self, message: protocol.PlayMessage) -> None:
        try:
            sound = self._open_sound(message.source)
        except (UrlNotAllowedError, ValueError) as error:
            self.refuse(f"Invalid message received: play: {error}", "sound")
            return
        barge_in = message.barge_in(self._config.barge_in)
        times = min(message.loop or MAX_LOOPS, MAX_LOOPS)
        self._talk.play([sound] * times, barge_in=barge_in, preemptible=message.preemptible)

    def _set_language(self, message: protocol.LanguageMessage) -> None:
        if message.transcriptionLanguage:
            self._lang = message.transcriptionLanguage
        if message.ttsLanguage:
            self._voice = self._voice_for(message.ttsLanguage)

    def _voice_for(self, lang: str) -> str | None:
        try:
            return self._voice_of(lang)
        except LookupError:
            if lang not in self._unspoken and len(self._unspoken) < MAX_LANGUAGES:
                self._unspoken.add(lang)
                self.refuse(f"No voice for language {lang}: the text is spoken with the call's own", "language")
            return self._voice

    def _tell_refusal(self, error: RefusedError) -> None:
        self.refuse(f"{error.fault.reason}: not done, nor the rest of that talk cycle", "refused")

    # From the call

    def event(self, event: CallEvent) -> None:
        """Something happened to the call."""
        data = event.data
        match event.type:
            case "speech.interrupted":
                self._talk.cut()
                self._tell_interruption(str(data["heard_text"]), int(data["played_ms"]))
            case "speech.cleared":
                self._talk.cut()
            case "speech.finished":
                self._talk.heard(data["utterance"])
            case "dtmf.received" if not self.ended:
                self._talk.answered()
                self._send(protocol.dtmf_message(data["digit"]))

    def prompt(self, text: str, lang: str | None = None, *, last: bool = True) -> None:
        """A recogniser has heard the caller say this; not last: it may still change."""
        if self.ended:
            return
        if last:
            self._talk.answered()
        self._send(protocol.prompt_message(text, lang or self._lang, last=last))

    def _tell_interruption(self, heard: str, milliseconds: int) -> None:
        if self.ended:  # the caller wanted no more of the goodbye, and nobody is there to say anything else
            self._clock.call_later(0, self._hang_up)  # when all have been told of the interruption
        else:
            self._send(protocol.interrupt_message(heard, milliseconds))

    def _hang_up(self) -> None:
        try:
            self._call.hang_up()
        except RefusedError:
            self._log.debug("agent_hang_up_refused")
