"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): a request that is sent twice is done once.

Kept are answers of success only: what failed has done nothing, and may be tried again with the same key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from mediaserver.api.problems import Problem

KEPT_S = 24 * 3600.0
MAX_KEYS = 10_000
MAX_KEYS_EACH = 2_000
"Of one token; beyond them its oldest are forgotten."


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, as it was first given."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    since: float
    answer: Answer | None = None
    "None while the first request runs."


@dataclass(slots=True)
class IdempotencyStore:
    """Which keys were used for what. Time is given; nothing here waits."""

    _entries: dict[str, OrderedDict[str, _Entry]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def begin(self, owner: str, key: str, fingerprint: bytes, now: float) -> Answer | None:
        """The answer that was given, or None: the request is the first with this key, and finish() has to follow.

        Raises Problem: 409 while the first still runs, 422 if it was another request.
        """
        self._forget_old(owner, now)
        keys = self._entries.get(owner)
        entry = None if keys is None else keys.get(key)
        if entry is None:
            self._make_room(owner)
            self._entries.setdefault(owner, OrderedDict())[key] = _Entry(fingerprint, now)
            return None
        if entry.fingerprint != fingerprint:
            raise Problem(422, "idempotency-key-reused", "this Idempotency-Key was used for another request")
        if entry.answer is None:
            raise Problem(
                409, "idempotency-conflict", "the first request with this key still runs", headers={"Retry-After": "1"}
            )
        return entry.answer

    def finish(self, owner: str, key: str, answer: Answer | None) -> None:
        """What the first request was answered; None to forget it."""
        keys = self._entries.get(owner)
        if keys is None or key not in keys:
            return  # forgotten meanwhile
        if answer is None:
            del keys[key]
        else:
            keys[key].answer = answer

    def _forget_old(self, owner: str, now: float) -> None:
        keys = self._entries.get(owner)
        while keys and now - next(iter(keys.values())).since > KEPT_S:
            keys.popitem(last=False)

    def _make_room(self, owner: str) -> None:
        keys = self._entries.get(owner)
        if keys and len(keys) >= MAX_KEYS_EACH:
            keys.popitem(last=False)
        elif len(self) >= MAX_KEYS:
            most = max(self._entries, key=lambda each: len(self._entries[each]))
            self._entries[most].popitem(last=False)
        for other in [each for each, keys in self._entries.items() if not keys]:
            del self._entries[other]
