"""What calls that come in are given, by trunk and by what their INVITE says."""

from __future__ import annotations

from typing import Any

import pytest

from mediaserver.call.control import CallControl, PlaceOrder, StreamOrder
from mediaserver.call.plan import CallPlans
from mediaserver.config import Config
from mediaserver.rtp.codec import PCMU
from tests.mediaserver.caller import Caller, running_caller
from tests.mediaserver.fake_engine import pcm_of

AGENT = "wss://agent.example/"
NETWORKS = {"host": "pbx", "networks": ["127.0.0.0/8"]}


async def attached(caller: Caller, **headers: str) -> CallControl:
    """The call of an INVITE, as its agent would be told of it."""
    seen: list[CallControl] = []
    caller.calls.on_call.append(seen.append)
    await caller.call(**headers)
    (call,) = seen
    return call


def as_heard(word: str) -> bytes:
    return PCMU.decode(PCMU.encode(pcm_of(word)))


async def test_a_call_of_nobodys_trunk_gets_the_agent_of_all() -> None:
    async with running_caller(agent={"url": AGENT}, calls={"greeting": "welcome"}) as caller:
        call = await attached(caller)
        assert call.agent_url == AGENT
        assert call.view().trunk is None
        assert call.idle, "its agent has the first word"
        assert not caller.engine.streams


async def test_without_an_agent_the_greeting_is_said() -> None:
    async with running_caller(calls={"greeting": "welcome"}) as caller:
        assert (await attached(caller)).agent_url is None
        assert await caller.speech(0.2) == as_heard("welcome")


async def test_a_trunk_has_its_own() -> None:
    trunk = {
        **NETWORKS,
        "agent_url": "ws://other/",
        "greeting": "moment",
        "stream_url": "ws://ear/",
        "stream_tracks": "both",
        "parameters": {"tenant": "7", "X-Job": "old"},
    }
    async with running_caller(agent={"url": AGENT}, trunks={"pbx": trunk}) as caller:
        call = await attached(caller, X_Job="12", X_TTS_Barge_In="none")
        assert (call.view().trunk, call.agent_url) == ("pbx", "ws://other/")
        assert dict(call.parameters) == {"tenant": "7", "X-Job": "12"}
        assert call.streams == (
            StreamOrder("ws://ear/", ("inbound", "outbound"), parameters={"tenant": "7", "X-Job": "old"}),
        )
        assert await caller.speech(0.2) == as_heard("moment")


async def test_a_trunk_may_have_no_greeting() -> None:
    async with running_caller(trunks={"pbx": {**NETWORKS, "greeting": ""}}) as caller:
        assert (await attached(caller)).idle


async def test_an_invite_with_text_is_said_whoever_the_agent_is() -> None:
    async with running_caller(agent={"url": AGENT}) as caller:
        await attached(caller, X_TTS_Text="one")
        assert await caller.speech(0.2) == as_heard("one")


async def test_a_wish_to_hang_up_leaves_an_agent_its_call() -> None:
    async with running_caller(agent={"url": AGENT}) as caller:
        call = await attached(caller, X_TTS_Hangup="yes")
        await caller.packets(5)
        assert not call.over


@pytest.mark.parametrize(
    ("order", "agent"),
    [
        ({}, "ws://other/"),
        ({"agent_url": ""}, None),
        ({"agent_url": "ws://mine/"}, "ws://mine/"),
        ({"trunk": "plain"}, AGENT),
        ({"trunk": "self"}, None),
    ],
)
def test_the_agent_of_a_call_of_ours(order: dict[str, Any], agent: str | None) -> None:
    trunks = {"pbx": {"host": "pbx", "agent_url": "ws://other/"}, "plain": {"host": "plain"}}
    plans = CallPlans(Config(agent={"url": AGENT}, trunks=trunks))  # type: ignore[arg-type]
    plan = plans.outgoing(PlaceOrder(**{"to": "bob", "trunk": "pbx", **order}), ("0.0.0.0", 5060))
    assert plan.profile.agent_url == agent


def test_to_call_ourselves_we_need_an_address() -> None:
    plans = CallPlans(Config())
    assert plans.outgoing(PlaceOrder("me", "self"), ("0.0.0.0", 5099)).target == "sip:me@127.0.0.1:5099"
    assert plans.outgoing(PlaceOrder("me", "self"), ("::", 5099)).target == "sip:me@[::1]:5099"
    assert plans.outgoing(PlaceOrder("me", "self"), ("192.0.2.1", 5060)).target == "sip:me@192.0.2.1"


def test_the_streams_of_an_order_go_before_the_trunks() -> None:
    trunks = {"pbx": {"host": "pbx", "stream_url": "ws://ear/"}}
    plans = CallPlans(Config(trunks=trunks))  # type: ignore[arg-type]
    own = ("127.0.0.1", 5060)
    assert plans.outgoing(PlaceOrder("bob", "pbx"), own).profile.streams == (StreamOrder("ws://ear/", ("inbound",)),)
    streams = (StreamOrder("ws://mine/"),)
    assert plans.outgoing(PlaceOrder("bob", "pbx", streams=streams), own).profile.streams == streams
