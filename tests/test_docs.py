"""What the documents say is so: links lead somewhere, configuration loads, code runs, tables are complete."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mediaserver.api.tokens import SCOPES
from mediaserver.api.webhooks.message import signature
from mediaserver.call.events import EVENT_TYPES
from mediaserver.config import load

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
API = ROOT / "mediaserver" / "api"
INTERNAL = {"internal", "voice-not-usable", "bad-request", "refused"}
"Faults of ours and of peers, which their status says enough of."


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named_by(document: Path) -> str:
    return document.name


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named_by)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def snippets() -> Iterator[Any]:
    """Configuration, fenced or indented."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        found = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        found += [
            block.replace("\n    ", "\n").removeprefix("    ")
            for block in re.findall(r"^    \[[a-z.]+\]\n(?:    .*\n)+", text, re.MULTILINE)
        ]
        for snippet in found:
            yield pytest.param(snippet, id=f"{document.stem}: {snippet.splitlines()[0]}")


@pytest.mark.parametrize("snippet", list(snippets()))
def test_configuration_loads(snippet: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.toml"
    file.write_text(snippet, encoding="utf-8")
    load(file)


def test_the_check_of_webhooks() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", text_of("docs/webhooks.md"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    is_ours: Callable[[str, str, bytes], bool] = names["is_ours"]
    now, body = int(time.time()), '{"a":"ü"}'.encode()
    assert is_ours("secret", signature(b"secret", now, body), body)
    assert not is_ours("another", signature(b"secret", now, body), body)
    assert not is_ours("secret", signature(b"secret", now, body), body + b" ")
    assert not is_ours("secret", signature(b"secret", now - 3600, body), body)


def raised() -> set[str]:
    """The types of problems that the code names, but for those in OpenAI's words."""
    found = set()
    for file in API.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem" and len(node.args) > 1:
                slug = node.args[1]
                if isinstance(slug, ast.Constant) and "_" not in slug.value:
                    found.add(str(slug.value))
    return found


def test_every_type_of_problem_is_in_the_table() -> None:
    table = text_of("docs/control-api.md").partition("## Errors")[2].partition("## Events")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    told = set(re.findall(r"`([a-z-]+)`", "".join(rows))) - {"type"}
    assert raised() - INTERNAL - told == set()
    assert told - raised() == set()


def test_every_event_and_scope_is_in_its_table() -> None:
    text = text_of("docs/control-api.md")
    table = text.partition("## Events")[2].partition("## An example")[0]
    first = "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    assert set(re.findall(r"`([a-z_.]+)`", first)) == set(EVENT_TYPES)
    scopes = text.partition("| Scope |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z:]+)`", scopes, re.MULTILINE)) == set(SCOPES)
