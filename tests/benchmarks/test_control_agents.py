"""The agents of the control benchmark: tokens, clauses, and what they note."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from websockets.asyncio.client import connect

from benchmarks.load.control_agents import TOKEN_SECONDS, Agents, first_clause_end, tokens_of
from benchmarks.load.texts import speeches


@pytest.mark.parametrize("text", speeches(30, 60, 3))
def test_tokens_are_the_text(text: str) -> None:
    tokens = tokens_of(text)

    assert "".join(tokens) == text
    assert all(len(token.strip()) <= 5 for token in tokens)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("Please have invoice 62898 at hand, then call us.", "hand,"),
        ("Hello Mei. This is the library calling.", "Mei. This is the library calling."),  # too short by itself
        ("Your appointment is on Friday. Please come early.", "Friday."),
        ("One sentence and no more than that.", "that."),
    ],
)
def test_first_clause_ends_with_its_last_character(text: str, until: str) -> None:
    tokens = tokens_of(text)

    said = "".join(tokens[: first_clause_end(tokens) + 1])

    assert said == text[: text.index(until) + len(until)]


def introduced(call: str) -> str:
    return json.dumps({"type": "setup", "callSid": call})


async def until_known(agents: Agents, call: str) -> None:
    async with asyncio.timeout(5):
        while call not in agents.sockets:
            await asyncio.sleep(0.001)


async def test_tokens_come_fifty_a_second_and_the_clause_is_stamped() -> None:
    agents = Agents()
    text = "Please have invoice 62898 at hand, then call us."
    async with agents.listening() as url, connect(url) as call:
        await call.send(introduced("CA1"))
        await until_known(agents, "CA1")
        begin = time.time_ns()

        stamp = await agents.stream("CA1", text)

        messages = [json.loads(await call.recv()) for _ in tokens_of(text)]
        agents.expect_end()
    number = first_clause_end(tokens_of(text))
    assert "".join(message["token"] for message in messages) == text
    assert [message["last"] for message in messages] == [False] * (len(messages) - 1) + [True]
    assert stamp - begin >= number * TOKEN_SECONDS * 0.9e9
    assert agents.sent == len(messages)
    assert agents.lost == 0


async def test_interruptions_and_complaints_are_noted_with_their_call() -> None:
    agents = Agents()
    async with agents.listening() as url, connect(url) as one, connect(url) as other:
        for name, call in (("CA1", one), ("CA2", other)):
            await call.send(introduced(name))
            await until_known(agents, name)
        before = time.time_ns()
        await other.send(
            json.dumps({"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": 1})
        )
        await other.send(json.dumps({"type": "error", "description": "no"}))
        async with asyncio.timeout(5):
            while not agents.errors:
                await asyncio.sleep(0.001)
    assert [call for call, _ in agents.interrupts] == ["CA2"]
    assert before <= agents.interrupts[0][1] <= time.time_ns()
    assert agents.errors == ["no"]


async def test_a_connection_that_ends_early_is_lost() -> None:
    agents = Agents()
    async with agents.listening() as url:
        for name, expected in (("CA1", False), ("CA2", True)):
            async with connect(url) as call:
                await call.send(introduced(name))
                await until_known(agents, name)
                if expected:
                    agents.expect_end()
            async with asyncio.timeout(5):
                while name in agents.sockets:
                    await asyncio.sleep(0.001)
    assert agents.lost == 1
