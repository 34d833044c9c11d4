"""Webhooks that wait for delivery, on disk: an SQLite database, so that neither a crash nor a restart loses them.

What is kept says as much as the calls did: directory and file are for their owner only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from mediaserver.api.webhooks.message import WebhookMessage

_log = structlog.get_logger("webhooks")

FILE_NAME = "webhooks.db"
OVERHEAD = 300
"Bytes that a message takes beside its body: row, index, page slack."
_WAL_PAGES = 256

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery TEXT NOT NULL,
    call_id TEXT NOT NULL,
    type TEXT NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting_by_call ON waiting (call_id, number);
"""
_COST: Final = f"length(body) + {OVERHEAD}"


class SpoolError(OSError):
    """The spool cannot be read or written; the message says where and why."""


class Spool:
    """One directory, one process. Used by one thread at a time, whichever. Every method raises SpoolError.

    What was appended survives the end of this process, however it ends; a power cut may cost the last moments.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """max_bytes: of what waits. The file may be a few megabytes larger."""
        self.path = directory / FILE_NAME
        self.bytes = 0
        "Of what waits, by estimate. May be read by any thread."
        self.messages = 0
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None

    def open(self) -> list[str]:
        """Make or open it; the calls that have messages waiting. A damaged file is put aside, and said so."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._open()
        except sqlite3.OperationalError as error:
            self.close()
            if "locked" in str(error):
                raise SpoolError(f"{self.path}: another server uses it ([webhooks] spool_dir)") from None
            raise SpoolError(f"{self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            self.close()
            return self._begin_anew(error)
        except OSError as error:
            raise SpoolError(f"{error.filename or self.path}: {error.strerror}") from None

    def append(self, messages: Sequence[WebhookMessage]) -> int:
        """Keep them, all or none; how many of the oldest had to make room, these not excepted."""
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO waiting (delivery, call_id, type, at, body) VALUES (?, ?, ?, ?, ?)",
                [(message.delivery, message.call_id, message.type, message.at, message.body) for message in messages],
            )
            added = sum(len(message.body) + OVERHEAD for message in messages)
            dropped, freed = _make_room(database, self.bytes + added - self._max_bytes)
        self.bytes += added - freed
        self.messages += len(messages) - dropped
        return dropped

    def first(self, call_id: str) -> WebhookMessage | None:
        """The oldest message of a call; None when none waits."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT delivery, call_id, type, at, body FROM waiting WHERE call_id = ? ORDER BY number LIMIT 1",
                (call_id,),
            ).fetchone()
        return None if row is None else WebhookMessage(*row)

    def remove(self, message: WebhookMessage) -> bool:
        """It is done with, whether or not it had to make room meanwhile; whether its call has no other."""
        with self._transaction() as database:
            deleted = database.execute(
                "DELETE FROM waiting WHERE call_id = ? AND delivery = ?", (message.call_id, message.delivery)
            ).rowcount
            more = database.execute(
                "SELECT EXISTS (SELECT 1 FROM waiting WHERE call_id = ?)", (message.call_id,)
            ).fetchone()[0]
        self.messages -= deleted
        self.bytes -= deleted * (len(message.body) + OVERHEAD)
        return not more

    def expire(self, before: float) -> int:
        """Drop what happened before that time, in seconds since 1970; how many."""
        with self._transaction() as database:
            freed = database.execute(f"SELECT total({_COST}) FROM waiting WHERE at < ?", (before,)).fetchone()[0]  # noqa: S608 - a constant
            dropped = database.execute("DELETE FROM waiting WHERE at < ?", (before,)).rowcount
        self.messages -= dropped
        self.bytes -= int(freed)
        return dropped

    def close(self) -> None:
        """What waits stays on disk. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> list[str]:
        self.path.touch(mode=0o600)  # SQLite gives its other files the same mode
        # isolation_level None: transactions are begun here. check_same_thread: one at a time is enough for SQLite.
        database = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        self._connection = database
        # Exclusive, and taken by the write that follows: two servers would post everything twice.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        database.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        total, self.messages = database.execute(f"SELECT total({_COST}), count(*) FROM waiting").fetchone()  # noqa: S608 - a constant
        self.bytes = int(total)
        calls = [
            str(row[0]) for row in database.execute("SELECT call_id FROM waiting GROUP BY call_id ORDER BY min(number)")
        ]
        database.execute("COMMIT")
        return calls

    def _begin_anew(self, error: sqlite3.DatabaseError) -> list[str]:
        aside = self.path.with_suffix(".damaged")
        _log.error("webhook_spool_damaged", path=str(self.path), error=str(error), kept_as=str(aside))
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
            return self._open()
        except OSError as problem:
            raise SpoolError(f"{self.path}: {problem.strerror}") from None
        except sqlite3.Error as problem:
            self.close()
            raise SpoolError(f"{self.path}: {problem}") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done within, or nothing."""
        database = self._connection
        if database is None:
            raise SpoolError(f"{self.path}: is not open")
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path}: {error}") from None


def _make_room(database: sqlite3.Connection, excess: int) -> tuple[int, int]:
    """Drop the oldest until so many bytes are free; (messages, bytes) that were dropped."""
    dropped, freed, last = 0, 0, None
    if excess <= 0:
        return 0, 0
    for number, cost in database.execute(f"SELECT number, {_COST} FROM waiting ORDER BY number"):  # noqa: S608 - a constant
        dropped, freed, last = dropped + 1, freed + cost, number
        if freed >= excess:
            break
    database.execute("DELETE FROM waiting WHERE number <= ?", (last,))
    return dropped, freed
