"""`chatterline tokens`: the secret is shown once, and kept nowhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from mediaserver.api.tokens import TokenError, TokenStore
from mediaserver.cli import app
from mediaserver.cli_tokens import MAX_EXPIRY_S, parse_span


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    path = tmp_path / "secret" / "tokens.jsonl"
    monkeypatch.setenv("CHATTERLINE_API__TOKENS_FILE", str(path))
    return TokenStore(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tokens", *arguments])


def test_a_token_is_made_and_printed_alone(store: TokenStore) -> None:
    """On standard output only the token, so that a script can take it."""
    result = run("add", "dialler", "--scope", "calls:write", "-s", "calls:read", "--expires", "30d")
    assert result.exit_code == 0, result.output
    secret = result.stdout.strip()
    token = store.find(secret, time.time())
    assert token is not None
    assert (token.name, token.scopes) == ("dialler", {"calls:read", "calls:write"})
    assert token.expires is not None
    assert abs(token.expires - time.time() - 30 * 86_400) < 60
    assert token.id in result.stderr
    assert secret not in result.stderr


def test_tokens_are_listed_without_secrets(store: TokenStore) -> None:
    assert "no tokens in" in run("list").stdout
    secret = run("add", "page", "-s", "admin").stdout.strip()
    store.add("old", ["speech"], 1_700_000_000, expires=1_700_000_060)
    listed = run("list").stdout
    assert "page: admin; made 20" in listed
    assert "old: speech; made 2023-11-14 22:13 UTC; EXPIRED 2023-11-14 22:14 UTC" in listed
    assert secret not in listed
    assert all(token.hash not in listed for token in store.list())


def test_a_token_is_removed(store: TokenStore) -> None:
    secret = run("add", "page", "-s", "admin").stdout.strip()
    (token,) = store.list()
    result = run("remove", token.id)
    assert (result.exit_code, result.stdout) == (0, f"{token.id}: removed (page)\n")
    assert store.find(secret, time.time()) is None
    result = run("remove", token.id)
    assert result.exit_code == 1
    assert f"there is no token '{token.id}'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "-s", "root"], "unknown scope 'root'; there are: calls:read,"),
        (["a", "-s", "speech", "--expires", "soon"], "'soon' is no time such as 90m"),
        (["a", "-s", "speech", "--expires", "0d"], "'0d' is no time"),
        (["", "-s", "speech"], "a token's name is 1 to 100"),
    ],
)
def test_what_cannot_be_made(store: TokenStore, arguments: list[str], said: str) -> None:
    result = run("add", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert store.list() == ()


def test_a_scope_is_needed(store: TokenStore) -> None:
    assert run("add", "a").exit_code == 2
    assert store.list() == ()


def test_a_directory_that_cannot_be_written(store: TokenStore) -> None:
    store.path.parent.write_text("a file")
    result = run("add", "a", "-s", "speech")
    assert result.exit_code == 1
    assert str(store.path.parent) in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("12h", 43_200), ("1d", 86_400), (" 8w ", 8 * 7 * 86_400)]
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@given(st.text() | st.from_regex(r"[0-9]+[mhdw]"))
def test_a_span_is_within_bounds_or_an_error(text: str) -> None:
    try:
        assert 0 < parse_span(text) <= MAX_EXPIRY_S
    except TokenError:
        return
