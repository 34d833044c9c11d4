"""SSML as XML: what is taken, and what is refused before it can hurt."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.ssml_document import (
    MAX_ATTRIBUTES,
    MAX_CHARS,
    MAX_DEPTH,
    MAX_ELEMENTS,
    SsmlError,
    read_document,
)

BILLION_LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE speak [
 <!ENTITY a "ha">
 <!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
 <!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]>
<speak>&c;</speak>"""
EXTERNAL = """<!DOCTYPE speak [<!ENTITY x SYSTEM "file:///etc/passwd">]><speak>&x;</speak>"""
PARAMETER = """<!DOCTYPE speak [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x.dtd"> %x;]><speak/>"""


def test_elements_attributes_text_and_lines() -> None:
    root = read_document('<speak>\n a <sub alias="b">c</sub>\n <p>d<s>e</s></p></speak>')
    assert root.name == "speak"
    sub, paragraph = root.descendants().__next__(), list(root.descendants())[1]
    assert (sub.name, dict(sub.attributes), sub.text, sub.line) == ("sub", {"alias": "b"}, "c", 2)
    assert (paragraph.line, paragraph.text) == (3, "de")
    assert root.text.split() == ["a", "c", "de"]


def test_references_comments_and_cdata() -> None:
    text = read_document("<?xml version='1.0'?><speak>R&amp;D &#233;<!-- no --><![CDATA[<x>]]><?pi no?></speak>").text
    assert text == "R&D é<x>"


def test_a_declared_encoding_does_not_matter_for_text() -> None:
    assert read_document('<?xml version="1.0" encoding="UTF-16"?><speak>é</speak>').text == "é"


def test_the_prefix_of_ssmls_own_namespace_is_taken_off() -> None:
    root = read_document('<v:speak xmlns:v="http://www.w3.org/2001/10/synthesis"><v:p/><w:p/></v:speak>')
    assert [each.name for each in root.descendants()] == ["p", "w:p"]


def test_prefixes_that_nobody_declared_stay() -> None:
    root = read_document('<speak><amazon:effect name="whispered">a</amazon:effect></speak>')
    assert [each.name for each in root.descendants()] == ["amazon:effect"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("hello", "not well-formed"),
        ("", "not well-formed"),
        ("<speak>", "not well-formed"),
        ("<speak></p>", "mismatched tag"),
        ("<speak>a & b</speak>", "not well-formed"),
        ("<speak>&nbsp;</speak>", "undefined entity"),
        ("<speak/><speak/>", "junk after document element"),
        ("<p>a</p>", "root must be <speak>, not 'p'"),
        ("<speak a='1' a='2'/>", "duplicate attribute"),
        ("<speak>\0</speak>", "not well-formed"),
        ("<speak>\ud800</speak>", "half a surrogate"),
        (BILLION_LAUGHS, "entities are not allowed"),
        (EXTERNAL, "entities are not allowed"),
        (PARAMETER, "entities are not allowed"),
        ("<!DOCTYPE speak><speak/>", "document types"),
        ("<speak>" + "<p>" * MAX_DEPTH + "</p>" * MAX_DEPTH + "</speak>", "nested more than 16 deep"),
        ("<speak>" + "<p/>" * MAX_ELEMENTS + "</speak>", "more than 1000 elements"),
        ("<speak " + " ".join(f"a{i}=''" for i in range(MAX_ATTRIBUTES + 1)) + "/>", "more than 16 attributes"),
        ("<speak>" + "a" * MAX_CHARS + "</speak>", "at most 64000"),
    ],
)
def test_what_is_refused(document: str, message: str) -> None:
    with pytest.raises(SsmlError, match=message.replace("<", "<")) as raised:
        read_document(document)
    assert raised.value.line >= 1
    assert raised.value.message in str(raised.value)


def test_bounds_are_what_they_say() -> None:
    assert read_document("<speak>" + "<p>" * (MAX_DEPTH - 1) + "</p>" * (MAX_DEPTH - 1) + "</speak>")
    assert read_document("<speak>" + "<p/>" * (MAX_ELEMENTS - 1) + "</speak>")


def test_the_line_of_the_fault() -> None:
    with pytest.raises(SsmlError) as raised:
        read_document("<speak>\n\n<p>\n</s></speak>")
    assert raised.value.line == 4


def test_hostile_documents_are_refused_at_once() -> None:
    started = time.perf_counter()
    for document in (BILLION_LAUGHS, "<a>" * 21_000, "<speak " + "a='' " * 12_000 + "/>", "&a;" * 20_000):
        with pytest.raises(SsmlError):
            read_document(document)
    assert time.perf_counter() - started < 1.0


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for document in (text, f"<speak>{text}</speak>", f"<speak><{text}></speak>"):
        try:
            assert read_document(document).name == "speak"
        except SsmlError as error:
            assert error.line >= 1
