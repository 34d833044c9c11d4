"""Webhooks on disk."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from mediaserver.api.webhooks.message import WebhookMessage
from mediaserver.api.webhooks.spool import OVERHEAD, Spool, SpoolError


def message(call_id: str, name: str, size: int = 20, at: float = 100.0) -> WebhookMessage:
    return WebhookMessage(f"EV{name}", call_id, "call.started", at, name.encode().ljust(size, b"."))


def opened(directory: Path, max_bytes: int = 1 << 20) -> Spool:
    spool = Spool(directory, max_bytes)
    spool.open()
    return spool


def test_first_in_first_out_for_each_call(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    a1, b1, a2 = message("a", "a1"), message("b", "b1"), message("a", "a2")
    assert spool.append([a1, b1, a2]) == 0

    assert spool.first("a") == a1
    assert not spool.remove(a1)
    assert spool.first("a") == a2
    assert spool.remove(a2)
    assert spool.first("a") is None
    assert spool.first("b") == b1
    assert (spool.messages, spool.bytes) == (1, 20 + OVERHEAD)
    spool.close()


def test_what_waits_is_there_after_a_restart(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([message("b", "b1"), message("a", "a1"), message("b", "b2")])
    size = spool.bytes
    spool.close()

    again = Spool(tmp_path, 1 << 20)
    assert again.open() == ["b", "a"]  # oldest first
    assert (again.messages, again.bytes) == (3, size)
    assert again.first("b") == message("b", "b1")
    again.close()


def test_what_waits_is_there_after_a_crash(tmp_path: Path) -> None:
    spool = opened(tmp_path / "live")
    spool.append([message("a", f"a{index}") for index in range(50)])
    spool.remove(message("a", "a0"))
    shutil.copytree(tmp_path / "live", tmp_path / "crashed")  # as the disk was, without a close

    crashed = Spool(tmp_path / "crashed", 1 << 20)
    assert crashed.open() == ["a"]
    assert crashed.messages == 49
    assert crashed.first("a") == message("a", "a1")
    crashed.close()
    spool.close()


def test_the_oldest_make_room(tmp_path: Path) -> None:
    cost = 1000 + OVERHEAD
    spool = opened(tmp_path, max_bytes=10 * cost)
    assert spool.append([message("a", f"a{index}", 1000) for index in range(10)]) == 0
    assert spool.append([message("b", "b0", 1000), message("b", "b1", 1000)]) == 2

    assert spool.first("a") == message("a", "a2", 1000)
    assert (spool.messages, spool.bytes) == (10, 10 * cost)
    assert not spool.remove(message("a", "a0", 1000))  # dropped while it was being delivered
    assert spool.messages == 10
    spool.close()


def test_a_message_larger_than_all_room_is_dropped_itself(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=1000)

    assert spool.append([message("a", "a0", 5000)]) == 1
    assert spool.first("a") is None
    assert (spool.messages, spool.bytes) == (0, 0)
    spool.close()


def test_the_file_does_not_grow_with_what_passes_through(tmp_path: Path) -> None:
    limit = 1 << 18
    spool = opened(tmp_path, max_bytes=limit)
    for turn in range(60):
        spool.append([message("a", f"{turn}-{index}", 2000) for index in range(20)])

    assert spool.bytes <= limit
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < limit + (3 << 20)
    spool.close()


def test_old_messages_expire(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([message("a", "old", at=10.0), message("a", "new", at=30.0)])

    assert spool.expire(before=20.0) == 1
    assert spool.expire(before=20.0) == 0
    assert spool.first("a") == message("a", "new", at=30.0)
    assert (spool.messages, spool.bytes) == (1, 20 + OVERHEAD)
    spool.close()


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    spool.append([message("a", "a1")])

    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()} == {0o600}
    spool.close()


def test_two_servers_cannot_share_one(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    with pytest.raises(SpoolError, match="another server uses it"):
        Spool(tmp_path, 1 << 20).open()
    spool.close()
    opened(tmp_path).close()


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "webhooks.db").write_bytes(b"no database" * 1000)
    spool = opened(tmp_path)

    spool.append([message("a", "a1")])
    assert spool.first("a") == message("a", "a1")
    assert (tmp_path / "webhooks.damaged").read_bytes().startswith(b"no database")
    spool.close()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SpoolError, match="file"):
        Spool(tmp_path / "file" / "spool", 1 << 20).open()
    with pytest.raises(SpoolError, match="is not open"):
        Spool(tmp_path, 1 << 20).first("a")


def test_nothing_is_kept_of_a_batch_that_fails(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    bad = WebhookMessage("EVx", "a", None, 1.0, b"x")  # type: ignore[arg-type]

    with pytest.raises(SpoolError):
        spool.append([message("a", "a1"), bad])
    assert spool.first("a") is None
    assert (spool.messages, spool.bytes) == (0, 0)
    spool.close()
