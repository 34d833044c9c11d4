"""WS /v1/calls/{call_id}/agent: an agent connects to a call, instead of being dialled."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, WebSocket, WebSocketException

from mediaserver.api.agent.manager import AgentManager, AgentTakenError
from mediaserver.api.auth import accepted_subprotocol, authorize_websocket
from mediaserver.api.problems import Problem
from mediaserver.api.sockets import CLOSE_TIMEOUT_S, CONFLICT_CLOSE, NORMAL_CLOSE, NOT_FOUND_CLOSE, AcceptedSocket
from mediaserver.api.state import state_of
from mediaserver.call.control import CallControl, CallEndedError

router = APIRouter()


@router.websocket("/v1/calls/{call_id}/agent")
async def agent(websocket: WebSocket, call_id: str) -> None:
    """Messages of ConversationRelay, from `setup` on. Needs the scope agent; subprotocol chatterline for browsers.

    404 for an unknown call, 409 for one that has ended or has an agent.
    """
    await authorize_websocket(websocket, "agent")
    state = state_of(websocket)
    call = state.calls.find(call_id)
    manager = state.agents
    if call is None or manager is None:
        await _deny(websocket, NOT_FOUND_CLOSE, Problem(404, "not-found", "there is no such call"))
    elif call.over:
        await _deny(websocket, CONFLICT_CLOSE, Problem(409, "call-ended", "the call has ended"))
    elif manager.is_taken(call):
        state.counts["agent_taken"] += 1
        await _deny(websocket, CONFLICT_CLOSE, Problem(409, "agent-taken", "the call has an agent already"))
    else:
        await websocket.accept(subprotocol=accepted_subprotocol(websocket))
        await _serve(manager, call, AcceptedSocket(websocket))


async def _serve(manager: AgentManager, call: CallControl, socket: AcceptedSocket) -> None:
    try:
        manager.attach(call, socket)
    except (AgentTakenError, CallEndedError):  # while the handshake was accepted
        await socket.close(CONFLICT_CLOSE, "the call has ended, or has an agent already")
        return
    over = asyncio.Event()
    stop = call.on_event(lambda event: over.set() if event.type == "call.ended" else None)
    waits = [asyncio.create_task(socket.closed.wait()), asyncio.create_task(over.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(waits[:1], timeout=2 * CLOSE_TIMEOUT_S)  # the agent's own connection closes it
    finally:
        stop()
        for wait in waits:
            wait.cancel()
        await socket.close(NORMAL_CLOSE, "the call has ended")


async def _deny(websocket: WebSocket, code: int, problem: Problem) -> None:
    """Raises WebSocketException where the server cannot answer a handshake with a problem."""
    if "websocket.http.response" not in websocket.scope.get("extensions", {}):
        raise WebSocketException(code, problem.detail)
    await websocket.send_denial_response(problem.response(websocket.url.path))
