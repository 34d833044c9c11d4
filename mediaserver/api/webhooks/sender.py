"""Posts the events of all calls to the application that [webhooks] names."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import httpx
import structlog

from mediaserver.api.urls import UrlNotAllowedError
from mediaserver.api.webhooks.counts import DropReason, WebhookCollector, WebhookCounts
from mediaserver.api.webhooks.message import WebhookMessage, headers_of, message_of
from mediaserver.api.webhooks.outcome import Outcome, outcome_of
from mediaserver.api.webhooks.schedule import DeliverySchedule
from mediaserver.api.webhooks.spool import Spool, SpoolError
from mediaserver.call.events import CallEvent, matching_types
from mediaserver.engines import data_directory

if TYPE_CHECKING:
    from mediaserver.api.state import ApiState

_log = structlog.get_logger("webhooks")
_T = TypeVar("_T")

SLOTS = 16
"Requests at once."
MAX_UNWRITTEN = 10_000
"Events on their way to the disk; beyond them the oldest are lost, and counted."
MAX_BATCH = 500
MAX_ANSWER_BYTES = 65_536
"Of a response's body, which is not looked at: reading it lets the connection be used again."
CLOSING_S = 3.0
"How long close() goes on delivering; the rest is delivered after the next start."
EXPIRY_S = 600.0
"Between two looks for messages that are too old."
SPOOL_RETRY_S = 5.0
"After the disk has failed."


class WebhookSender:
    """Takes events from the hub to the spool, and from there to the application. Does nothing without a URL.

    In the order of each call's events, at least once each. Everything belongs to the event loop; the disk is touched by
    a thread of its own.
    """

    def __init__(self, state: ApiState) -> None:
        config = state.config.webhooks
        self._config = config
        self._hub = state.calls.hub
        self._urls = state.urls
        self._registry = state.registry
        self._wanted = matching_types(config.events)
        self._secret = config.secret.get_secret_value().encode()
        self._spool = Spool(Path(config.spool_dir or data_directory() / "webhooks").expanduser(), config.spool_mb << 20)
        self._disk = ThreadPoolExecutor(1, "webhook-spool")
        self._schedule = DeliverySchedule(SLOTS)
        self._unwritten: deque[CallEvent] = deque()
        self._news = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._stop_listening: Callable[[], None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None
        self._closing = self._closed = False
        self._spool_retry_at = 0.0
        self.counts = WebhookCounts()

    async def start(self) -> None:
        """Open the spool and go on where the last run stopped. Raises OSError for a spool that cannot be used."""
        if not self._config.url:
            return
        for call_id in await self._on_disk(self._spool.open):
            self._schedule.add(call_id, time.monotonic())
        if self._spool.messages:
            _log.info("webhooks_left", events=self._spool.messages, calls=self._schedule.waiting)
        self._registry.register(WebhookCollector(self.counts, self._spool))
        self._client = self._urls.http_client(self._config.timeout_s)
        self._stop_listening = self._hub.listen(self._keep)
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="webhooks")
        self._worker.add_done_callback(_log_failure)

    async def close(self) -> None:
        """Deliver what can be delivered at once; the rest stays in the spool. Idempotent."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        if self._worker is not None:
            self._closing = True
            self._news.set()
            await asyncio.wait({self._worker}, timeout=CLOSING_S)
            await _cancel({self._worker, *self._deliveries})
            self._worker = None
            if self._unwritten:
                with suppress(SpoolError):  # logged
                    await self._write()
            if self._spool.messages:
                _log.warning("webhooks_undelivered", events=self._spool.messages)
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if not self._closed:
            self._closed = True
            await self._on_disk(self._spool.close)
            self._disk.shutdown()

    def _keep(self, event: CallEvent) -> None:
        if self._wanted and event.type not in self._wanted:
            return
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._unwritten.popleft()
            self.counts.dropped["disk"] += 1
        self._unwritten.append(event)
        self._news.set()

    async def _work(self) -> None:
        expiry = time.monotonic()
        while True:
            self._news.clear()
            now = time.monotonic()
            if now >= expiry:
                expiry = now + EXPIRY_S
                await self._expire()
            if self._unwritten and now >= self._spool_retry_at:
                with suppress(SpoolError):  # logged, and tried again
                    await self._write()
            for call_id in self._schedule.take(time.monotonic()):
                self._begin(call_id)
            if self._closing and self._nothing_to_do():
                return
            await self._wait(expiry)

    def _nothing_to_do(self) -> bool:
        """Nothing is under way, and nothing is due now."""
        due = self._schedule.next_due()
        return not self._deliveries and not self._unwritten and (due is None or due > time.monotonic())

    async def _wait(self, expiry: float) -> None:
        """For an event, the end of a delivery, or the time for another."""
        times = [expiry, self._schedule.next_due() or expiry]
        if self._unwritten:
            times.append(self._spool_retry_at)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + min(times) - time.monotonic()):
                await self._news.wait()

    def _begin(self, call_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(call_id), name=f"webhook {call_id}")
        self._deliveries.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._news.set()

    async def _write(self) -> None:
        """Raises SpoolError, logged; the events are then kept in memory."""
        batch = [self._unwritten.popleft() for _ in range(min(len(self._unwritten), MAX_BATCH))]
        messages = [message for event in batch if (message := self._message(event)) is not None]
        try:
            lost = await self._on_disk(lambda: self._spool.append(messages))
        except SpoolError as error:
            _log.error("webhook_spool_failed", error=str(error))
            self._spool_retry_at = time.monotonic() + SPOOL_RETRY_S
            self._unwritten.extendleft(reversed(batch))
            raise
        now = time.monotonic()
        for message in messages:
            self._schedule.add(message.call_id, now)
        if self._unwritten:
            self._news.set()
        if lost:
            self.counts.dropped["no_room"] += lost
            _log.warning("webhooks_dropped", reason="no_room", events=lost)

    def _message(self, event: CallEvent) -> WebhookMessage | None:
        try:
            return message_of(event)
        except (TypeError, ValueError) as error:
            self.counts.dropped["not_json"] += 1
            _log.error("webhook_not_json", event_type=event.type, error=type(error).__name__)
            return None

    async def _expire(self) -> None:
        with suppress(SpoolError):
            before = time.time() - self._config.retry_hours * 3600 if self._config.retry_hours else 0.0
            if old := await self._on_disk(lambda: self._spool.expire(before)):
                self.counts.dropped["too_old"] += old
                _log.warning("webhooks_dropped", reason="too_old", events=old)

    async def _deliver(self, call_id: str) -> None:
        """One attempt at the oldest event of a call."""
        try:
            message = await self._on_disk(lambda: self._spool.first(call_id))
            if message is None:
                self._schedule.skipped(call_id, time.monotonic(), empty=True)
                return
            outcome = await self._post(message)
            await self._conclude(message, outcome)
        except SpoolError as error:
            _log.error("webhook_spool_failed", error=str(error))
            self._schedule.failed(call_id, time.monotonic(), away=False)
        except Exception:  # noqa: BLE001 - whatever it is, the other events of this call must not be stuck behind it
            _log.exception("webhook_delivery_failed", call_id=call_id)
            self._schedule.failed(call_id, time.monotonic(), away=False)

    async def _conclude(self, message: WebhookMessage, outcome: Outcome) -> None:
        """Raises SpoolError, with the call still in flight."""
        match outcome.verdict:
            case "delivered" | "refused":
                empty = await self._on_disk(lambda: self._spool.remove(message))
                if outcome.verdict == "refused":
                    self._drop(message, "refused", outcome)
                else:
                    self.counts.delivered += 1
                was_away = self._schedule.away
                self._schedule.delivered(message.call_id, time.monotonic(), empty=empty)
                if was_away:
                    _log.info("webhooks_back", host=self._host, events=self._spool.messages)
            case "failed" | "away":
                self.counts.failed += 1
                if time.time() - message.at >= self._config.retry_hours * 3600:
                    empty = await self._on_disk(lambda: self._spool.remove(message))
                    self._drop(message, "too_old", outcome)
                    self._schedule.skipped(message.call_id, time.monotonic(), empty=empty)
                else:
                    self._retry(message, outcome)

    def _retry(self, message: WebhookMessage, outcome: Outcome) -> None:
        was_away = self._schedule.away
        away = outcome.verdict == "away"
        self._schedule.failed(message.call_id, time.monotonic(), away=away, retry_after_s=outcome.retry_after_s)
        # Once for all events, not for each: thousands may wait.
        if self._schedule.away and not was_away:
            _log.warning("webhooks_away", host=self._host, reason=outcome.reason)
        elif not away:
            _log.warning(
                "webhook_failed",
                host=self._host,
                reason=outcome.reason,
                event_type=message.type,
                call_id=message.call_id,
            )

    def _drop(self, message: WebhookMessage, reason: DropReason, outcome: Outcome) -> None:
        self.counts.dropped[reason] += 1
        _log.warning(
            "webhook_dropped", reason=reason, answer=outcome.reason, event_type=message.type, call_id=message.call_id
        )

    async def _post(self, message: WebhookMessage) -> Outcome:
        if self._client is None:
            raise RuntimeError("not started")
        headers = headers_of(message, self._secret, time.time())
        try:
            # httpx's own time limits are of each step: a body that drips would never end.
            async with asyncio.timeout(self._config.timeout_s):
                async with self._client.stream(
                    "POST", self._config.url, content=message.body, headers=headers
                ) as response:
                    status, retry_after = response.status_code, response.headers.get("Retry-After")
                    await _read_away(response)
        except TimeoutError:
            return Outcome("away", "timeout")
        except httpx.TimeoutException:
            return Outcome("away", "timeout")
        except UrlNotAllowedError as error:
            return Outcome("away", str(error))
        except (httpx.HTTPError, OSError) as error:
            return Outcome("away", type(error).__name__)
        return outcome_of(status, retry_after, time.time())

    @property
    def _host(self) -> str | None:
        # Not the URL: it may have a secret in its path or query.
        return urlsplit(self._config.url).hostname

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


async def _read_away(response: httpx.Response) -> None:
    """The status has been given: whatever happens to the body no longer matters."""
    read = 0
    with suppress(httpx.HTTPError):
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > MAX_ANSWER_BYTES:
                return


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("webhooks_stopped", exc_info=error)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
