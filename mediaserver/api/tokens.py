"""Bearer tokens: who may use the control interfaces, and for what. Only hashes of them are kept.

The file has a JSON object a line: {"id", "name", "scopes", "hash", "created", "expires"}. A token is 256 random bits:
its plain SHA-256 is enough, for there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from mediaserver.config import Config
from mediaserver.engines import data_directory

_log = structlog.get_logger("tokens")

Scope = Literal["calls:read", "calls:write", "speech", "voices:write", "events", "agent", "admin"]
SCOPES: tuple[Scope, ...] = Scope.__args__  # type: ignore[attr-defined]
"""calls:read: see calls and the node's state. calls:write: place and control them. speech: speech without a call.
voices:write: enrol voices. events: the stream of events. agent: attach an agent or a media stream to a call.
admin: all of these, and drain."""

PREFIX = "ctl_"
RANDOM_BYTES = 32
MAX_TOKENS = 1000
MAX_NAME = 100
MODE = 0o600
_DIGEST = re.compile(r"[0-9a-f]{64}")


class TokenError(Exception):
    """What is wrong, for the person who asked."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token allows; not the token itself."""

    id: str
    "Names it in logs and to `chatterline tokens remove`; no secret."
    name: str
    scopes: frozenset[Scope]
    hash: str = field(repr=False)
    "SHA-256 of the token, hexadecimal."
    created: float
    "Seconds since 1970, UTC."
    expires: float | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def line(self) -> str:
        """As in the file."""
        return json.dumps(
            {
                "id": self.id,
                "name": self.name,
                "scopes": sorted(self.scopes),
                "hash": self.hash,
                "created": self.created,
                "expires": self.expires,
            }
        )


def parse_line(line: str) -> Token:
    """A token of the file. Raises ValueError."""
    data: Any = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - as all that is wrong with a line
    unknown = set(_list(data, "scopes")) - set(SCOPES)
    if unknown:
        raise ValueError(f"unknown scope {min(map(str, unknown))!r}")
    digest, expires = data.get("hash"), data.get("expires")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("no SHA-256 in hash")
    if not isinstance(data.get("id"), str) or not isinstance(data.get("name"), str):
        raise ValueError("no id or no name")  # noqa: TRY004
    if expires is not None and not isinstance(expires, int | float):
        raise ValueError("expires is no time")
    created = data.get("created")
    return Token(
        id=data["id"],
        name=data["name"],
        scopes=frozenset(data["scopes"]),
        hash=digest,
        created=float(created) if isinstance(created, int | float) else 0.0,
        expires=expires,
    )


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"no list of {key}")
    return value


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def tokens_path(config: Config) -> Path:
    """Where tokens lie: as configured, else below the data directory."""
    return Path(config.api.tokens_file or data_directory() / "tokens.jsonl").expanduser()


class TokenStore:
    """The tokens of a file, read again whenever it has changed. Everything belongs to one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._tokens: tuple[Token, ...] = ()

    def list(self) -> tuple[Token, ...]:
        """All of them, oldest first, expired ones too; none if the file cannot be read, which is logged."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        except OSError as error:
            _log.error("tokens_unreadable", path=str(self.path), error=error.strerror)
            return ()
        # The time of the last change to the inode, too: its owner may have been put right.
        seen = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
        if seen != self._seen:
            self._tokens = self._legible()
            self._seen = seen
            if stat.S_IMODE(status.st_mode) & 0o077:
                _log.warning("tokens_file_is_open", path=str(self.path), text="others than its owner may use it")
        return self._tokens

    def find(self, secret: str, now: float) -> Token | None:
        """The token, unless it is unknown or has expired at `now`, in seconds since 1970."""
        if not secret.startswith(PREFIX) or len(secret) > 100:
            return None
        wanted = hash_of(secret)
        found = None
        for token in self.list():  # all of them, whichever it is: the time taken tells nothing
            if hmac.compare_digest(token.hash, wanted):
                found = token
        return None if found is None or found.expired(now) else found

    def valid(self, token: Token, now: float) -> bool:
        """Whether one that was found before still holds."""
        return token in self.list() and not token.expired(now)

    def add(self, name: str, scopes: Iterable[Scope], now: float, expires: float | None = None) -> tuple[Token, str]:
        """Make a token; the second of what is returned is it, and is known nowhere else. Raises TokenError, OSError."""
        wanted = frozenset(scopes)
        if not wanted:
            raise TokenError("a token needs at least one scope")
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise TokenError(f"a token's name is 1 to {MAX_NAME} printable characters")
        secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        with self._changing() as tokens:
            if len(tokens) >= MAX_TOKENS:
                raise TokenError(f"there are {MAX_TOKENS} tokens: remove some first")
            token = Token(secrets.token_hex(4), name, wanted, hash_of(secret), now, expires)
            self._write([*tokens, token])
        return token, secret

    def remove(self, token_id: str) -> Token:
        """Take a token back, at once for servers that run. Raises TokenError if there is none of that id, OSError."""
        with self._changing() as tokens:
            for token in tokens:
                if token.id == token_id:
                    self._write([kept for kept in tokens if kept is not token])
                    return token
        raise TokenError(f"there is no token {token_id!r}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Sequence[Token]]:
        """Keep other processes from changing the file meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            tokens, faults = self._read()
            if faults:  # the file is written anew: such lines would be gone
                raise TokenError(f"{self.path}: {faults[0]}; mend or remove that line first")
            yield tokens
        finally:
            os.close(descriptor)

    def _legible(self) -> tuple[Token, ...]:
        """As many as can be read; what cannot is logged."""
        try:
            tokens, faults = self._read()
        except OSError as error:
            _log.error("tokens_unreadable", path=str(self.path), error=error.strerror)
            return ()
        for fault in faults:
            _log.error("token_unreadable", path=str(self.path), error=fault)
        return tuple(tokens)

    def _read(self) -> tuple[Sequence[Token], Sequence[str]]:
        """The tokens of the file, and what is wrong with its other lines. Raises OSError."""
        try:
            lines = self.path.read_bytes().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return (), ()
        tokens, faults = [], []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                tokens.append(parse_line(line))
            except ValueError as error:
                faults.append(f"line {number}: {error}")
        return tokens, faults

    def _write(self, tokens: Iterable[Token]) -> None:
        """The whole file anew, in one step: a reader sees the old or the new one."""
        fresh = self.path.with_name(self.path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:  # for a service with a user of its own, whose directory it is
                owner = self.path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.writelines(token.line() + "\n" for token in tokens)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        self._seen = None
