"""Calls people up with a reminder each, and asks them to press a key to confirm it.

    pip install httpx
    python reminder_dialler.py appointments.csv --trunk pbx --token-file token --results results.csv

The CSV file has the columns `number` and `text`, and any others, which are copied into the results: `status`, `detail`,
`attempts` and `call_id` are added. A row that has been confirmed or declined in an earlier run is not called again, as
long as --results names the same file. The token needs the scopes calls:write and events:

    chatterline tokens add dialler --scope calls:write --scope events
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import sys
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import httpx

QUESTION = "Press one to confirm, or two if you cannot come."
ANSWERS = {"1": ("confirmed", "Thank you. Goodbye."), "2": ("declined", "We will call you back. Goodbye.")}
DONE = {status for status, _ in ANSWERS.values()}
TRY_AGAIN = {"busy", "no_answer", "unreachable"}
COLUMNS = ["status", "detail", "attempts", "call_id"]
MAX_UNKNOWN = 1000

Event = dict[str, Any]


class EventFeed:
    """GET /v1/events for all calls, read by one task; each call has a queue of its own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._queues: dict[str, asyncio.Queue[Event]] = {}
        self._unknown: OrderedDict[str, list[Event]] = OrderedDict()
        self._last_id = ""
        self.connected = asyncio.Event()

    def queue(self, call: str) -> asyncio.Queue[Event]:
        """Of a call's events, those that came before the answer to its order included."""
        queue = self._queues[call] = asyncio.Queue()
        for event in self._unknown.pop(call, []):
            queue.put_nowait(event)
        return queue

    def forget(self, call: str) -> None:
        self._queues.pop(call, None)

    def _take(self, event: Event) -> None:
        call = event["call_id"]
        if call in self._queues:
            self._queues[call].put_nowait(event)
            return
        self._unknown.setdefault(call, []).append(event)  # another's call, or one of which we are about to be told
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)

    async def run(self) -> None:
        """Connect again whenever the connection is lost; Last-Event-ID has the server repeat what was missed."""
        while True:
            try:
                await self._read()
            except httpx.TransportError as error:
                if not self.connected.is_set():
                    raise  # that it never worked is no interruption
                print(f"events: {error or type(error).__name__}; connecting again", file=sys.stderr)
            await asyncio.sleep(1)

    async def _read(self) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        params = {"types": "call.*,dtmf.received,speech.*"}
        timeout = httpx.Timeout(10, read=60)  # the server sends a comment every 15 s
        async with self._client.stream("GET", "/v1/events", params=params, headers=headers, timeout=timeout) as stream:
            if stream.is_error:
                await stream.aread()
                stream.raise_for_status()
            self.connected.set()
            async for event in self._events(stream):
                self._take(event)

    async def _events(self, stream: httpx.Response) -> AsyncIterator[Event]:
        async for line in stream.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                self._last_id = value
            elif field == "data" and "call_id" in (event := json.loads(value)):
                yield event


class Dialler:
    """Places the calls, `limit` at once."""

    def __init__(self, client: httpx.AsyncClient, feed: EventFeed, options: argparse.Namespace) -> None:
        self._client = client
        self._feed = feed
        self._options = options
        self._places = asyncio.Semaphore(options.limit)
        self._run = uuid.uuid4().hex

    async def remind(self, row: dict[str, str], place: int) -> dict[str, str]:
        """The row with what came of it; place: its own, of all rows."""
        result = dict(row)
        for attempt in range(1, self._options.attempts + 1):
            async with self._places:
                status, detail, call = await self._call(row, f"{self._run}-{place}-{attempt}")
            result |= {"status": status, "detail": detail, "attempts": str(attempt), "call_id": call}
            if detail not in TRY_AGAIN or attempt == self._options.attempts:
                break
            await asyncio.sleep(self._options.retry_s)
        print(f"{result['number']}: {result['status']} {result['detail']}".rstrip())
        return result

    async def _call(self, row: dict[str, str], key: str) -> tuple[str, str, str]:
        """Status, detail, and the call's id."""
        order = {
            "to": row["number"],
            "trunk": self._options.trunk,
            "text": f"{row['text']} {QUESTION}",
            "answer_timeout_s": self._options.answer_timeout_s,
            "barge_in": "digit",
            "agent_url": "",  # this program is the agent
        }
        try:
            placed = await self._post("/v1/calls", order, key)
        except httpx.HTTPStatusError as error:
            return "failed", detail_of(error.response), ""
        except httpx.TransportError as error:
            return "failed", type(error).__name__, ""
        call = placed["id"]
        try:
            return *await self._follow(call), call
        finally:
            self._feed.forget(call)

    async def _follow(self, call: str) -> tuple[str, str]:
        """Status and detail."""
        answer = ("unanswered", "")
        said_at: float | None = None
        loop = asyncio.get_running_loop()
        queue = self._feed.queue(call)
        while True:
            patience = 3600.0 if said_at is None else max(0.0, said_at + self._options.wait_s - loop.time())
            try:
                event = await asyncio.wait_for(queue.get(), patience)
            except TimeoutError:  # the caller has heard the question, and pressed nothing
                answer, said_at = ("no key", ""), None
                await self._say_goodbye(call, "Goodbye.")
                continue
            data = event["data"]
            match event["type"]:
                case "call.answered":
                    answer = ("hung up", "")
                case "speech.finished" if answer[0] == "hung up":
                    said_at = loop.time()
                case "speech.finished":
                    await self._hang_up(call)  # the goodbye has been heard
                case "dtmf.received" if answer[0] == "hung up" and data["digit"] in ANSWERS:
                    status, goodbye = ANSWERS[data["digit"]]
                    answer, said_at = (status, ""), None
                    await self._say_goodbye(call, goodbye)
                case "call.ended":
                    return answer if answer[0] != "unanswered" else ("unanswered", data["reason"])

    async def _say_goodbye(self, call: str, text: str) -> None:
        order = {"text": text, "mode": "replace", "interruptible": False}
        await self._ignoring_its_end(self._post(f"/v1/calls/{call}/say", order))

    async def _hang_up(self, call: str) -> None:
        await self._ignoring_its_end(self._client.delete(f"/v1/calls/{call}"))

    async def _ignoring_its_end(self, request: Coroutine[Any, Any, Any]) -> None:
        """The other side may hang up at any time; its event tells."""
        try:
            await request
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (404, 409):
                raise

    async def _post(self, path: str, body: dict[str, Any], key: str | None = None) -> Any:
        """The response's JSON. Waits where the server asks to: 429 and 503, as Retry-After says.

        key: has the server do it once only, so that the request may be repeated when the connection is lost.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        for remaining in reversed(range(self._options.patience)):
            try:
                response = await self._client.post(path, json=body, headers=headers)
            except httpx.TransportError:
                if key is None or not remaining:
                    raise
                await asyncio.sleep(1)
                continue
            if response.status_code not in (409, 429, 503) or "Retry-After" not in response.headers or not remaining:
                break
            await asyncio.sleep(float(response.headers["Retry-After"]))
        response.raise_for_status()
        return response.json()


def detail_of(response: httpx.Response) -> str:
    """Of a problem (RFC 9457)."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"number", "text"} <= rows[0].keys():
        sys.exit(f"{path}: needs the columns number and text")
    return rows


def write_results(path: Path, rows: list[dict[str, str]]) -> None:
    columns = list(dict.fromkeys([*(name for row in rows for name in row if name not in COLUMNS), *COLUMNS]))
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    scratch.replace(path)  # never half of it


async def run(options: argparse.Namespace) -> int:
    """The exit code: 0 if all have confirmed or declined."""
    rows = read_rows(options.csv)
    before = read_rows(options.results) if options.results.exists() else []
    known = {(row["number"], row["text"]): row for row in before if row.get("status") in DONE}
    results = [known.get((row["number"], row["text"]), row) for row in rows]
    headers = {"Authorization": f"Bearer {token_of(options)}"}
    async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=30) as client:
        feed = EventFeed(client)
        reading = asyncio.create_task(feed.run())
        connected = asyncio.create_task(feed.connected.wait())
        await asyncio.wait((reading, connected), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        dialler = Dialler(client, feed, options)

        async def work(place: int) -> None:
            results[place] = await dialler.remind(results[place], place)
            write_results(options.results, results)

        try:
            async with asyncio.TaskGroup() as calls:
                for place, row in enumerate(results):
                    if row.get("status") not in DONE:
                        calls.create_task(work(place))
        finally:
            reading.cancel()
            connected.cancel()
    write_results(options.results, results)
    return 0 if all(row.get("status") in DONE for row in results) else 1


def token_of(options: argparse.Namespace) -> str:
    token = os.environ.get("CHATTERLINE_TOKEN", "")
    if options.token_file is not None:
        token = options.token_file.read_text(encoding="utf-8").strip()
    return token or sys.exit("no token: give --token-file, or set CHATTERLINE_TOKEN")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="whom to call, and what to say")
    parser.add_argument("--results", type=Path, default=Path("results.csv"), help="default: %(default)s")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server; default: %(default)s")
    parser.add_argument("--trunk", required=True, help="a name from [trunks] of the server")
    parser.add_argument("--token-file", type=Path, help="holds the token; default: the environment's CHATTERLINE_TOKEN")
    parser.add_argument("--limit", type=int, default=4, help="calls at once; default: %(default)s")
    parser.add_argument("--attempts", type=int, default=2, help="when busy or not answered; default: %(default)s")
    parser.add_argument("--retry-s", type=float, default=300, help="before the next attempt; default: %(default)s")
    parser.add_argument("--answer-timeout-s", type=float, default=30, help="of ringing; default: %(default)s")
    parser.add_argument("--wait-s", type=float, default=8, help="for a key, after the question; default: %(default)s")
    parser.add_argument(
        "--patience", type=int, default=10, help="times to wait for a busy server; default: %(default)s"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(run(parse())))
    except httpx.HTTPStatusError as refusal:
        status = refusal.response.status_code
        sys.exit(f"reminder_dialler: {refusal.request.url}: {status}: {detail_of(refusal.response)}")
    except httpx.HTTPError as failure:
        sys.exit(f"reminder_dialler: {failure.request.url}: {failure or type(failure).__name__}")
