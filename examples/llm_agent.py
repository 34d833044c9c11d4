"""A voice agent in forty lines: `pip install websockets`, `python llm_agent.py`, and [agent] url = "ws://127.0.0.1:8765".

It speaks ConversationRelay, so it runs on Twilio and Telnyx as well. Put your model's client into `llm()`.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from websockets.asyncio.server import ServerConnection, serve

REPLIES = {
    "": "Hello, this is the example agent. Press one for the time of day, two for a joke, or star to hang up.",
    "1": "It is high time, as my clock has no hands. Anything else?",
    "2": "I would tell you a joke about UDP, but you might not get it. Anything else?",
    "*": "Good bye, and thank you for calling.",
}


async def llm(heard: str) -> AsyncIterator[str]:
    """A scripted model: streams its reply token by token, as a real one would."""
    for word in REPLIES.get(heard, f"You said: {heard}. I know nothing about that.").split(" "):
        await asyncio.sleep(0.02)
        yield word + " "


async def speak(call: ServerConnection, heard: str) -> None:
    async for token in llm(heard):
        await call.send(json.dumps({"type": "text", "token": token, "last": False}))
    await call.send(json.dumps({"type": "text", "token": "", "last": True}))
    if heard == "*":
        await call.send(json.dumps({"type": "end", "handoffData": json.dumps({"reason": "caller is done"})}))


async def talk(call: ServerConnection) -> None:
    reply: asyncio.Task[None] | None = None
    async for message in call:
        event = json.loads(message)
        heard = {"setup": "", "dtmf": event.get("digit"), "prompt": event.get("voicePrompt")}.get(event["type"])
        if reply and not reply.done() and (event["type"] == "interrupt" or heard is not None):
            reply.cancel()  # the caller has heard enough of it
        if heard is not None and event.get("last", True):
            reply = asyncio.create_task(speak(call, heard))


async def main(port: int = 8765) -> None:
    async with serve(talk, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
