"""Tokens: a file of hashes that several processes may change."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.tokens import MAX_TOKENS, SCOPES, Token, TokenError, TokenStore, hash_of, parse_line

NOW = 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens.jsonl")


def test_a_token_is_found_by_its_secret(store: TokenStore) -> None:
    token, secret = store.add("dialler", ["calls:read", "calls:write"], NOW)
    assert secret.startswith("ctl_")
    assert len(secret) == 4 + 43
    assert store.find(secret, NOW) == token
    assert TokenStore(store.path).find(secret, NOW) == token
    assert token.may("calls:read")
    assert not token.may("admin")
    assert not token.may("speech")


def test_admin_may_everything(store: TokenStore) -> None:
    token, _ = store.add("root", ["admin"], NOW)
    assert all(token.may(scope) for scope in SCOPES)


def test_the_secret_is_kept_nowhere(store: TokenStore) -> None:
    token, secret = store.add("dialler", ["speech"], NOW)
    text = store.path.read_text()
    assert secret not in text
    assert secret.removeprefix("ctl_") not in text
    assert json.loads(text)["hash"] == hash_of(secret)
    assert token.hash not in repr(token)


def test_nobody_else_may_read_the_file(store: TokenStore) -> None:
    store.add("a", ["speech"], NOW)
    store.add("b", ["speech"], NOW)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "secret", ["", "ctl_", "ctl_" + "a" * 43, "bearer", "ctl_" + "a" * 1000, "ctl_ü", "ctl_\ud800x"]
)
def test_what_is_no_token(store: TokenStore, secret: str) -> None:
    store.add("a", ["speech"], NOW)
    if "\ud800" in secret:
        secret = secret.encode(errors="replace").decode()
    assert store.find(secret, NOW) is None


def test_a_part_of_a_token_is_none(store: TokenStore) -> None:
    _, secret = store.add("a", ["speech"], NOW)
    assert store.find(secret[:-1], NOW) is None
    assert store.find(secret + "a", NOW) is None
    assert store.find(secret.swapcase(), NOW) is None


def test_a_token_expires(store: TokenStore) -> None:
    token, secret = store.add("a", ["speech"], NOW, expires=NOW + 60)
    assert store.find(secret, NOW + 59.9) == token
    assert store.find(secret, NOW + 60) is None
    assert store.list() == (token,)
    assert store.valid(token, NOW)
    assert not store.valid(token, NOW + 60)


def test_a_token_that_is_removed_holds_no_more_in_other_processes(store: TokenStore) -> None:
    token, secret = store.add("a", ["speech"], NOW)
    _, other = store.add("b", ["speech"], NOW)
    server = TokenStore(store.path)
    assert server.find(secret, NOW) is not None
    assert store.remove(token.id) == token
    assert server.find(secret, NOW) is None
    assert not server.valid(token, NOW)
    assert server.find(other, NOW) is not None
    with pytest.raises(TokenError, match=token.id):
        store.remove(token.id)


def test_a_token_that_is_added_holds_at_once(store: TokenStore) -> None:
    server = TokenStore(store.path)
    assert server.list() == ()
    _, secret = store.add("a", ["speech"], NOW)
    assert server.find(secret, NOW) is not None
    store.path.unlink()
    assert server.find(secret, NOW) is None


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a" * 101, "\x1b[31m"])
def test_names_that_are_none(store: TokenStore, name: str) -> None:
    with pytest.raises(TokenError, match="name"):
        store.add(name, ["speech"], NOW)


def test_a_token_without_a_scope_is_of_no_use(store: TokenStore) -> None:
    with pytest.raises(TokenError, match="scope"):
        store.add("a", [], NOW)


def test_there_are_not_too_many(store: TokenStore) -> None:
    lines = [Token(f"{n:08x}", "a", frozenset({"speech"}), f"{n:064x}", NOW).line() for n in range(MAX_TOKENS)]
    store.path.write_text("\n".join(lines))
    with pytest.raises(TokenError, match="remove some"):
        store.add("b", ["speech"], NOW)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "7",
        "{}",
        '{"id": "a", "name": "b", "scopes": ["speech"], "hash": "00"}',
        '{"id": "a", "name": "b", "scopes": ["speech"], "hash": "' + "é" * 64 + '"}',
        '{"id": "a", "name": "b", "scopes": "speech", "hash": "' + "0" * 64 + '"}',
        '{"id": "a", "name": "b", "scopes": ["root"], "hash": "' + "0" * 64 + '"}',
        '{"id": "a", "name": "b", "scopes": ["speech"], "hash": "' + "0" * 64 + '", "expires": "never"}',
        '{"id": 7, "name": "b", "scopes": ["speech"], "hash": "' + "0" * 64 + '"}',
    ],
)
def test_a_line_that_is_none_leaves_the_others(store: TokenStore, line: str) -> None:
    token, secret = store.add("a", ["speech"], NOW)
    with pytest.raises(ValueError):
        parse_line(line)
    store.path.write_text(line + "\n\n" + store.path.read_text(), encoding="utf-8")
    assert store.list() == (token,)
    assert store.find(secret, NOW) == token


def test_a_line_that_cannot_be_read_is_not_lost_with_a_change(store: TokenStore) -> None:
    """It may be of a later release, or a slip of who edited the file."""
    token, _ = store.add("a", ["speech"], NOW)
    text = store.path.read_text() + token.line().replace("speech", "speech:later") + "\n"
    store.path.write_text(text)
    with pytest.raises(TokenError, match="line 2: unknown scope"):
        store.add("b", ["speech"], NOW)
    with pytest.raises(TokenError, match="line 2"):
        store.remove(token.id)
    assert store.path.read_text() == text


def test_a_file_whose_owner_was_put_right_is_read_again(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo chatterline tokens add`, and then chown: neither its content nor its time has changed."""
    _, secret = store.add("a", ["speech"], NOW)
    server = TokenStore(store.path)
    with monkeypatch.context() as forbidden:
        forbidden.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
        assert server.find(secret, NOW) is None
    assert server.find(secret, NOW) is None
    store.path.chmod(0o640)
    assert server.find(secret, NOW) is not None


def test_root_writes_for_the_owner_of_the_directory(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has a user of its own."""
    given = Mock()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", given)
    store.add("a", ["speech"], NOW)
    owner = store.path.parent.stat()
    assert given.call_args.args[1:] == (owner.st_uid, owner.st_gid)


def test_a_file_that_is_none_lets_nobody_in(store: TokenStore) -> None:
    _, secret = store.add("a", ["speech"], NOW)
    store.path.write_bytes(b"\xff\xfe" + store.path.read_bytes())
    assert store.find(secret, NOW) is None
    store.path.unlink()
    store.path.mkdir()
    assert store.find(secret, NOW) is None


@settings(max_examples=50)
@given(
    st.builds(
        Token,
        id=st.text(),
        name=st.text(),
        scopes=st.frozensets(st.sampled_from(SCOPES)),
        hash=st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"),
        created=st.floats(allow_nan=False, allow_infinity=False),
        expires=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_a_line_is_read_as_it_was_written(token: Token) -> None:
    line = token.line()
    assert "\n" not in line
    assert parse_line(line) == token


@given(
    st.text() | st.dictionaries(st.sampled_from(["id", "name", "scopes", "hash", "expires"]), st.text()).map(json.dumps)
)
def test_any_line_is_a_token_or_an_error(line: str) -> None:
    try:
        parse_line(line)
    except ValueError:
        return
