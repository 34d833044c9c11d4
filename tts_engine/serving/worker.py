"""A GPU worker: it loads the model, says that it is ready, and speaks what it is told to until it is told to stop.

Its thread alone touches the device. Texts are prepared on a second one, so that a long text keeps nobody waiting, and
reports are sent on a third, so that a slow reader does not. All it knows of the world is one end of a pipe: so it can
be a thread of the server or a process of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

from tts_engine.errors import EngineError
from tts_engine.serving.loading import EnginesLostError, Loaded, load
from tts_engine.serving.messages import Cancel, CannotStart, Deadline, Failed, Order, Ready, Report, Speak, Status, Stop
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.texts import Prepared, Texts

logger = logging.getLogger(__name__)

STATUS_S = 0.1
"Between signs of life."

POLL_S = 0.0005
"How often S3Gen is asked whether it is done, when there is nothing else to do."


class Worker:
    """run() returns when it is told to stop, when the other end of the pipe is gone, or when the device is lost."""

    def __init__(
        self, settings: WorkerSettings, connection: Connection, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._clock = clock
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self._inbox: deque[Order | Prepared | Failed] = deque()
        self._arrived = threading.Event()
        self._stopping = False
        self._last_status = 0.0

    def run(self) -> bool:
        """Whether it ended as it was told to."""
        sender = threading.Thread(target=self._send_reports, name="tts-reports", daemon=True)
        sender.start()
        try:
            return self._load_and_serve()
        finally:
            self._reports.put(None)
            sender.join()

    def report(self, report: Report) -> None:
        """Tell the engine; from any thread, at once."""
        self._reports.put(report)

    def _load_and_serve(self) -> bool:
        try:
            loaded = load(self._settings, self.report)
        except EngineError as error:
            self.report(CannotStart(str(error), engines_failed=isinstance(error, EnginesLostError)))
            return True
        texts = Texts(loaded.tokenizer, self._settings, loaded.watermarker)
        reader = threading.Thread(target=self._read_orders, args=(texts,), name="tts-texts", daemon=True)
        reader.start()
        self.report(Ready(loaded.built_in_voice, loaded.summary))
        return self._serve(loaded)

    def _serve(self, loaded: Loaded) -> bool:
        synthesiser = loaded.synthesiser
        while not self._stopping:
            try:
                self._take_orders(loaded)
                now = self._clock()
                progressed = synthesiser.turn(now)
            except Exception:
                # A CUDA error is final for the process that met it: the engine sees it end, and starts another.
                logger.exception("the worker on %s has failed", self._settings.device)
                return False
            if now - self._last_status >= STATUS_S:
                self._last_status = now
                self.report(Status(loaded.load(now), loaded.snapshot()))
            if not progressed:
                self._rest(synthesiser.idle, synthesiser.next_wake(now))
        return True

    def _rest(self, idle: bool, next_wake: float | None) -> None:
        """Until an order comes, or something under way may be done."""
        if not idle and next_wake is None:
            timeout = POLL_S
        else:
            timeout = STATUS_S if next_wake is None else min(STATUS_S, max(POLL_S, next_wake - self._clock()))
        if self._arrived.wait(timeout):
            self._arrived.clear()

    def _take_orders(self, loaded: Loaded) -> None:
        while self._inbox:
            match self._inbox.popleft():
                case Prepared(order, segments, finish):
                    loaded.synthesiser.speak(order, segments, finish)
                case Deadline(id, deadline):
                    loaded.synthesiser.set_deadline(id, deadline)
                case Cancel(id):
                    loaded.synthesiser.cancel(id)
                case Failed() as failed:
                    loaded.measures.failures["text"].add()
                    self.report(failed)
                case Stop():
                    self._stopping = True

    def _read_orders(self, texts: Texts) -> None:
        """The second thread. Orders keep their order: a Cancel never overtakes its Speak."""
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError, TypeError):  # TypeError: it was closed in between
                order = Stop()  # nobody is left to speak for
            self._inbox.append(self._prepared(texts, order) if isinstance(order, Speak) else order)
            self._arrived.set()
            if isinstance(order, Stop):
                return

    def _prepared(self, texts: Texts, order: Speak) -> Prepared | Failed:
        try:
            return texts.prepare(order)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a text must not end the worker
            # Not its message, nor its traceback: they may quote the text.
            logger.error("a text could not be prepared: %s", type(error).__name__)  # noqa: TRY400
            return Failed(order.id, f"the text could not be prepared: {type(error).__name__}")

    def _send_reports(self) -> None:
        while (report := self._reports.get()) is not None:
            try:
                self._connection.send(report)
            except OSError:
                return  # the engine has gone; the reader sees it too
