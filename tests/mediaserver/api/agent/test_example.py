"""examples/llm_agent.py against a real manager."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from websockets.asyncio.server import serve

from tests.mediaserver.api.agent.test_manager import Node

EXAMPLE = Path(__file__).parents[4] / "examples" / "llm_agent.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llm_agent", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_conversation_with_the_example(tmp_path: Path) -> None:
    example = load()
    async with serve(example.talk, "127.0.0.1", 0) as server:
        node = Node(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/", tmp_path)
        call = node.arrive()
        assert [said.text for said in await node.says(call)] == [example.REPLIES[""]]
        call.interrupt("digit", "2", heard="Hello, this is")
        call.press("2")
        assert [said.text for said in (await node.says(call, 2))[1:]] == [example.REPLIES["2"]]
        call.press("*")
        await node.until(lambda: "agent.disconnected" in node.types())
        for said in call.said:
            if not said.done:
                call.pass_utterance()
        await node.until(lambda: call.over)
        await node.manager.close()
    assert node.data("agent.disconnected")[0]["reason"] == "ended"
