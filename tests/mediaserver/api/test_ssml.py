"""SSML to what is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.ssml import MAX_UNSUPPORTED, PARAGRAPH_MS, SsmlError, SsmlScript, parse_ssml
from mediaserver.speech.script import Mark, Pause, Script, Words, plain_text

ALL = frozenset(("rate", "phonemes"))
NONE: frozenset[str] = frozenset()


def said(inner: str, features: frozenset[str] = ALL) -> SsmlScript:
    return parse_ssml(f"<speak>{inner}</speak>", features)


def script(inner: str, features: frozenset[str] = ALL) -> Script:
    result = said(inner, features)
    assert result.unsupported == ()
    return result.script


def test_plain_text_is_one_part() -> None:
    assert script("Hello\n   there,  &amp; welcome.") == (Words("Hello there, & welcome."),)


def test_nothing_to_say() -> None:
    assert script("") == script(" \n ") == script(" .  ") == ()


def test_a_whole_document() -> None:
    document = """<?xml version="1.0"?>
    <speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis" xml:lang="en-US"
           xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a b">
      <p><s>Hello Anna</s><s>Your balance is <say-as interpret-as="currency">$42.01</say-as></s></p>
      <p>Press <say-as interpret-as="digits">1</say-as> to pay.<break time="300ms"/><mark name="menu"/></p>
      Thank you for calling <sub alias="Chatterline">CL</sub>!
    </speak>"""
    assert parse_ssml(document, NONE) == SsmlScript(
        (
            Words("Hello Anna. Your balance is forty-two dollars and one cent."),
            Pause(PARAGRAPH_MS),
            Words("Press one to pay."),
            Pause(300),
            Mark("menu"),
            Words("Thank you for calling Chatterline!"),
        ),
        (),
    )


# Sentences and paragraphs


def test_a_sentence_ends_where_its_element_does() -> None:
    assert script("<s>One</s><s>Two?</s><s>Three.”</s>four") == (Words("One. Two? Three.” four"),)
    assert script("before<s>One</s>") == (Words("before. One."),)


def test_paragraphs_are_apart_but_not_from_nothing() -> None:
    assert script("<p>One</p><p>Two</p>") == (Words("One."), Pause(PARAGRAPH_MS), Words("Two."))
    assert script("<p><p>One</p></p>") == (Words("One."),)
    assert script("One<p>Two</p>") == (Words("One."), Pause(PARAGRAPH_MS), Words("Two."))


def test_a_break_between_paragraphs_is_the_authors() -> None:
    assert script('<p>One</p><break time="1s"/><p>Two</p>') == (Words("One."), Pause(1000), Words("Two."))
    assert script('<p>One</p><break strength="none"/><p>Two</p>') == (Words("One."), Words("Two."))


def test_a_sentence_that_ends_in_another_style() -> None:
    assert script('<s>Go <prosody rate="slow">slow</prosody></s>') == (Words("Go"), Words("slow.", rate=0.75))


# Breaks and marks


def test_breaks_and_marks_cut_the_words() -> None:
    assert script('One<break/>two<mark name="a b"/>three') == (
        Words("One"),
        Pause(400),
        Words("two"),
        Mark("a b"),
        Words("three"),
    )


def test_punctuation_after_an_element_stays_with_the_words_before() -> None:
    slow = Words("one,", rate=0.75)
    assert script('Press <prosody rate="slow">one</prosody>, please.') == (Words("Press"), slow, Words("please."))
    assert script('Press <prosody rate="slow">one</prosody>.') == (Words("Press"), Words("one.", rate=0.75))


def test_a_point_that_begins_a_number_is_not_punctuation() -> None:
    assert script('<prosody rate="slow">about</prosody> .5 percent')[1] == Words(".5 percent")


# say-as and sub


def test_say_as_is_said_within_its_sentence() -> None:
    assert script('Code <say-as interpret-as="characters">A1</say-as>, please') == (Words("Code A, one, please"),)
    assert script('Code <say-as interpret-as="characters">1A</say-as>, please') == (Words("Code one A, please"),)
    assert script('Code <say-as interpret-as="characters">1A</say-as>.') == (Words("Code one A."),)
    assert script('On <say-as interpret-as="date" format="dmy">3/4/2026</say-as>') == (
        Words("On April third, twenty twenty-six"),
    )


@pytest.mark.parametrize(
    ("inner", "text", "note"),
    [
        ('<say-as interpret-as="address">5 Elm St</say-as>', "5 Elm St", "say-as@interpret-as=address"),
        (
            '<say-as interpret-as="date">soon</say-as>',
            "soon",
            "say-as@interpret-as=date: not of that kind or format",
        ),
        ('<say-as interpret-as="digits" detail="2">12</say-as>', "one two", "say-as@detail"),
        ('<say-as interpret-as="digits"><b>12</b></say-as>', "one two", "say-as/b"),
        ("<emphasis level='strong'>now</emphasis>", "now", "emphasis"),
        ("<prosody pitch='high'>now</prosody>", "now", "prosody@pitch"),
        ("<audio src='https://example.com/a.wav'>a bell</audio>", "a bell", "audio"),
        ("<amazon:effect name='whispered'>psst</amazon:effect>", "psst", "amazon:effect"),
        ("<lang xml:lang='de'>Hallo</lang>", "Hallo", "lang"),
        ("<p xml:lang='de-DE'>Hallo.</p>", "Hallo.", "p@xml:lang=de-DE"),
        ("<voice gender='female'>hi</voice>", "hi", "voice@gender"),
    ],
)
def test_what_cannot_be_done_is_told_and_its_text_said(inner: str, text: str, note: str) -> None:
    result = said(inner)
    assert plain_text(result.script) == text
    assert result.unsupported == (note,)


def test_each_is_told_once_and_not_without_end() -> None:
    assert said("<b>a</b><i>b</i><b>c</b>").unsupported == ("b", "i")
    many = said("".join(f"<e{number}/>" for number in range(100)) + f"<{'x' * 300}/>").unsupported
    assert len(many) == MAX_UNSUPPORTED
    assert max(map(len, said(f"<{'x' * 300}/>").unsupported)) == 64


def test_what_is_not_for_the_listener() -> None:
    assert script("a<metadata><x>no</x></metadata><meta name='a'/>b") == (Words("ab"),)
    assert said("<audio src='x'><desc>a bell</desc></audio>").script == ()


# Rate


def test_rates_multiply() -> None:
    inner = '<prosody rate="80%">a <prosody rate="fast">b</prosody> c</prosody> d'
    assert script(inner) == (Words("a", rate=0.8), Words("b", rate=1.0), Words("c", rate=0.8), Words("d"))


def test_a_rate_beyond_what_engines_do_is_told() -> None:
    result = said('<prosody rate="400%">a</prosody>')
    assert result == SsmlScript((Words("a", rate=2.0),), ("prosody@rate=400%",))


def test_an_engine_of_one_speed() -> None:
    result = said('a <prosody rate="slow">b</prosody> c', frozenset(("phonemes",)))
    assert result == SsmlScript((Words("a b c"),), ("prosody@rate",))


# Phonemes


def test_phonemes_are_a_part_with_their_text() -> None:
    assert script('I say <phoneme alphabet="ipa" ph="təˈmeɪtoʊ">tomato</phoneme>.') == (
        Words("I say"),
        Words("tomato.", phonemes="təˈmeɪtoʊ"),
    )


def test_an_engine_without_phonemes_says_the_text() -> None:
    result = said('I say <phoneme ph="x">tomato</phoneme>.', frozenset(("rate",)))
    assert result == SsmlScript((Words("I say tomato."),), ("phoneme",))


def test_another_alphabet() -> None:
    result = said('<phoneme alphabet="x-sampa" ph="x">tomato</phoneme>')
    assert result == SsmlScript((Words("tomato"),), ("phoneme@alphabet=x-sampa",))


def test_a_voice_by_name() -> None:
    assert script('a <voice name="other">b</voice>') == (Words("a"), Words("b", voice="other"))


# Errors


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("<break time='soon'/>", "break time 'soon'"),
        ("<break time='60s'/>", "over 10 s"),
        ("<break time='10s'/>" * 13, "breaks of more than 120 s"),
        ("<break strength='big'/>", "break strength"),
        ("<prosody rate='warp'>a</prosody>", "prosody rate"),
        ("<mark/>", "<mark> has no attribute name"),
        ("<mark name=' '/>", "mark name"),
        (f"<mark name='{'a' * 129}'/>", "mark name"),
        ("<sub>a</sub>", "<sub> has no attribute alias"),
        ("<say-as>a</say-as>", "<say-as> has no attribute interpret-as"),
        ("<phoneme>a</phoneme>", "<phoneme> has no attribute ph"),
        ("<phoneme ph='a'/>", "phoneme has no text"),
        (f"<phoneme ph='{'a' * 501}'>a</phoneme>", "more than 500"),
    ],
)
def test_what_makes_no_sense(inner: str, message: str) -> None:
    with pytest.raises(SsmlError, match=message) as raised:
        said(f"\n{inner}")
    assert raised.value.line == 2


NAMES = ["p", "s", "break", "say-as", "sub", "mark", "prosody", "phoneme", "voice", "emphasis", "desc", "x:y"]
ATTRIBUTES = {
    "time": ["1s", "20ms"],
    "rate": ["slow", "150%"],
    "name": ["a"],
    "alias": ["Bee"],
    "ph": ["b"],
    "interpret-as": ["digits", "date", "nonsense"],
}


@st.composite
def documents(draw: st.DrawFn, depth: int = 0) -> str:
    pieces = []
    for _ in range(draw(st.integers(0, 3))):
        pieces.append(draw(st.sampled_from(["one", " two. ", "3", ",", " ", ""])))
        if depth < 3:
            name = draw(st.sampled_from(NAMES))
            given_names = draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), unique=True))
            attributes = "".join(f' {each}="{draw(st.sampled_from(ATTRIBUTES[each]))}"' for each in given_names)
            pieces.append(f"<{name}{attributes}>{draw(documents(depth + 1))}</{name}>")
    return "".join(pieces)


@settings(max_examples=50, deadline=None)
@given(documents(), st.sampled_from([ALL, NONE]))
def test_any_document_gives_a_clean_script_or_an_error(inner: str, features: frozenset[str]) -> None:
    try:
        result = said(inner, features)
    except SsmlError:
        return
    for part in result.script:
        if isinstance(part, Words):
            assert part.text == part.text.strip() != ""
            assert 0.5 <= part.rate <= 2.0
            assert "rate" in features or part.rate == 1.0
            assert "phonemes" in features or part.phonemes is None
        elif isinstance(part, Pause):
            assert part.milliseconds > 0
    assert len(set(result.unsupported)) == len(result.unsupported) <= MAX_UNSUPPORTED
