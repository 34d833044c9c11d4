"""What a call gets whose agent is lost for good: some words, and then its end or somebody else. Never silence."""

from __future__ import annotations

import asyncio

import structlog

from mediaserver.api_config import AgentConfig
from mediaserver.call.control import CallControl
from mediaserver.call.events import CallEvent
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Words

LOOK_S = 1.0
"How often is looked whether there is anything that is still being said."

TRANSFER_S = 60.0
"A transfer that nothing is heard of for so long has failed."


class Fallback:
    """Of one call: fed its events, and run once."""

    def __init__(self, call: CallControl, config: AgentConfig) -> None:
        self._call = call
        self._config = config
        self._words: int | None = None
        self._said = asyncio.Event()
        self._failed = asyncio.Event()
        self._log = structlog.get_logger("agent").bind(call=call.id)

    def event(self, event: CallEvent) -> None:
        """Something happened to the call."""
        match event.type:
            case "call.ended":
                self._said.set()
                self._failed.set()
            case "speech.finished" if event.data["utterance"] == self._words:
                self._said.set()
            case "speech.interrupted" | "speech.cleared" if self._words is not None:
                self._said.set()
            case "call.transferred" if event.data["status"] >= 300:
                self._failed.set()

    async def run(self) -> None:
        """Until the call has ended, or is about to."""
        try:
            if self._call.view().state != "ringing":
                await self._apologise()
                if self._config.fallback_transfer and not self._call.over:
                    await self._transfer(self._config.fallback_transfer)
            if not self._call.over:
                self._call.hang_up()
        except RefusedError as error:
            self._log.info("agent_fallback_refused", reason=error.fault.reason)

    async def _apologise(self) -> None:
        if not self._config.fallback:
            self._call.clear()
            return
        words = (Words(self._config.fallback),)
        try:
            self._words = self._call.say(words, barge_in="none")
        except RefusedError:  # the queue may be full of what the agent has left
            self._call.clear()
            try:
                self._words = self._call.say(words, barge_in="none")
            except RefusedError as error:
                self._log.warning("agent_fallback_unspoken", reason=error.fault.reason)
                return
        while not self._said.is_set() and not self._call.idle:
            try:
                await asyncio.wait_for(self._said.wait(), LOOK_S)
            except TimeoutError:
                continue

    async def _transfer(self, target: str) -> None:
        try:
            self._call.transfer(target)
            await asyncio.wait_for(self._failed.wait(), TRANSFER_S)
        except RefusedError as error:
            self._log.warning("agent_fallback_transfer_refused", reason=error.fault.reason)
        except TimeoutError:
            self._log.warning("agent_fallback_transfer_timed_out")
        else:
            if not self._call.over:
                self._log.warning("agent_fallback_transfer_failed")
