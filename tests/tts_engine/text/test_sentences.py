import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.text.sentences import MAX_CHARS, SentenceSplitter, split
from tts_engine.text.tags import TAGS

PIECES = st.sampled_from(
    [
        "Hello", "the", "The", "I", "Dr.", "Mr.", "e.g.", "a.m.", "U.S.", "No.", "St.", "J.", "3.14", "10:30",
        "22,", "2026",
        "www.example.com.", "a@b.org", "1.", "yes.", "Yes.", "what?", "Wow!", "...", "…", "Well...", '"Hi."', "(see",
        "5)",
        "[laugh]", "[clear throat]", "[Clear Throat],", "[clear", "throat]", "[sigh].", "[", "—", "word—word", "--",
        "-", ",",
        "so,", "that:", "x" * 40, "x" * 400, "[laugh]" * 9, "é", "中文", "\n", "\n\n", " ", "  ", "\t", "",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=60).map(" ".join) | st.lists(PIECES, max_size=60).map("".join)


def one_by_one(text, sizes=(1,), **options):
    splitter = SentenceSplitter(**options)
    segments, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        segments += splitter.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    return segments + splitter.finish()


def squeezed(text):
    return re.sub(r"\s", "", text)


@given(TEXTS, st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_fragments_make_no_difference(text, sizes):
    whole = split(text)
    assert one_by_one(text) == whole
    assert one_by_one(text, sizes) == whole


@given(TEXTS, st.sampled_from([60, 300]), st.sampled_from([10, 40, 1000]), st.sampled_from([0, 16]))
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_and_limits_hold(text, max_chars, first, shortest):
    segments = split(text, max_chars, first, shortest)
    assert squeezed("".join(segments)) == squeezed(text)
    assert all(segment == segment.strip() and 0 < len(segment) <= max_chars for segment in segments)


@given(st.lists(st.sampled_from([*TAGS, "a", " ", "b" * 50, "\n"]), max_size=100).map("".join))
@settings(deadline=None)
def test_tags_are_kept_whole(text):
    def tags(texts):
        return sum(text.count(tag) for tag in TAGS for text in texts)

    assert tags(split(text, 60)) == tags([text])


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith and Mr. Jones met Mrs. Lee at St. Mary's Hospital today.",
        "Bring fruit, e.g. Apples or i.e. Pears, to the ward please.",
        "It opens at 9 a.m. Monday and closes at 5 p.m. Eastern time.",
        "The U.S. Postal Service delivers it for Acme Inc. Shipping soon.",
        "See No. 5 and approx. 20 others vs. Nothing of the kind at all.",
        "The total is 3.14 or 1,234.56 at 10:30 with version 2.0.1 installed.",
        "Write to j.r.doe@mail.example.com or visit www.example.com/a.b?c=d. now",
        "J. R. R. Tolkien and George W. Bush came to see Mt. Rainier there.",
        "Wait... what did you say about that… thing over there just now?",
        "On Nov. 22 and Dec. 24 we close early for everyone's convenience.",
        'He asked "Really?" and she said "Yes!" before they left for good.',
        "Go to 12 Main St. Springfield and then to 4 Oak Ave. Portland now.",
        "Take 5 mg. Ibuprofen with min. 8 oz. Water before you go to bed.",
    ],
)
def test_no_sentence_ends_within(sentence):
    assert split(sentence, first_clause_chars=1000) == [sentence]
    following = "Another sentence follows here."
    assert split(f"{sentence} {following}", first_clause_chars=1000)[0].startswith(sentence[:-1])


@pytest.mark.parametrize(
    "sentences",
    [
        ["Thank you for calling.", "How can I help you?", "Please tell me your name!", "I am listening."],
        ["The shop closes at 5 p.m.", "Please come before that.", "We are in Washington D.C.", "You are welcome."],
        ['He said "Hello there."', "Then he left (at last!).", "It was “very quiet.”", "Nobody answered."],
        ["I was waiting for you…", "Where have you been?!", "We were so worried...", "It took hours."],
        ["Take two tablets a day.", "[sigh] I know it is a lot.", "[whispering] Nobody has to know."],
        ["That was really funny! [laugh]"],
        ["Your code is 4821.", "It is valid for 10 minutes.", "Visit us at example.com.", "See you there soon."],
    ],
)
def test_sentences(sentences):
    assert split(" ".join(sentences)) == sentences
    assert split("\n".join(sentences)) == sentences


def test_lines_and_paragraphs_end_sentences_but_wrapped_lines_do_not():
    text = "Dear customer of ours\n\nyour parcel is\non its way to you\nBest regards from the team"
    assert split(text) == [
        "Dear customer of ours",
        "your parcel is on its way to you",
        "Best regards from the team",
    ]


def test_a_tag_at_the_end_of_a_line_stays_there():
    assert split("That was so funny. [laugh]\nAnd now to the weather.") == [
        "That was so funny. [laugh]",
        "And now to the weather.",
    ]


def test_a_short_sentence_joins_the_next_one():
    assert split("Yes. I can help you with that. Bye.") == ["Yes. I can help you with that.", "Bye."]
    assert split("Milk\nEggs\nBread and butter\nThe rest is here") == [
        "Milk\nEggs\nBread and butter",
        "The rest is here",
    ]
    assert split("1. Open the app. 2. Press the button.") == ["1. Open the app.", "2. Press the button."]


def test_the_first_clause_is_short():
    text = "Thank you for calling Harbour Bank today, my name is Sarah, and I will be with you, as soon as I can."
    first, rest = split(text)
    assert first == "Thank you for calling Harbour Bank today,"
    assert rest == text.removeprefix(first).strip()
    early = "Well, " + "this sentence goes on and on " * 5
    assert split(early)[0] == early.strip()  # to cut after "Well," would leave a crumb
    late = "If you would like, " + "this sentence goes on and on " * 5
    assert split(late)[0] == "If you would like,"


def test_the_first_clause_does_not_end_in_a_number():
    text = "Your appointment is on Sunday the 22nd of Nov 22, 2026, and it is with Doctor Patel."
    assert split(text)[0].endswith("Nov 22, 2026,")


def test_long_sentences_are_cut_after_clauses_then_words():
    clause = "word " * 30 + "end, "
    segments = split(clause * 4, first_clause_chars=1000)
    assert all(segment.endswith("end,") for segment in segments)
    words = split("abcdefghi " * 100, first_clause_chars=1000)
    assert set(map(len, words[:-1])) == {299}
    assert split("x" * 700) == ["x" * 300, "x" * 300, "x" * 100]
    assert split("x" * 295 + "[laugh]" + "y") == ["x" * 295, "[laugh]y"]


def test_a_number_is_not_cut_between_its_groups():
    text = ("word " * 60)[:290] + "555 0123 4567 then"
    first, second = split(text, first_clause_chars=1000)
    assert second == "555 0123 4567 then"
    assert not first[-1].isdigit()


@pytest.mark.parametrize(
    ("fragments", "given_by"),
    [
        (["Thank you for calling", ".", " H", "ow"], 2),
        (["Thank you for calling", ". ", '"', "How"], 3),
        (["It closes at 5 p.m", ".", " Pl", "ease", " come"], 4),  # after an abbreviation the whole word
        (["What do you mean?\n", "\n", "N"], 2),
        (["That was so funny.", " [laugh]", " A"], 2),
    ],
)
def test_a_segment_is_given_as_soon_as_its_end_is_certain(fragments, given_by):
    splitter = SentenceSplitter()
    given_at = [bool(splitter.feed(fragment)) for fragment in fragments]
    assert given_at.index(True) == given_by


def test_a_splitter_is_as_new_after_finish():
    splitter = SentenceSplitter()
    text = "Thank you for calling Harbour Bank today, my name is Sarah. Yes. [laugh]"
    assert [splitter.feed(text) + splitter.finish() for _ in range(2)] == [split(text)] * 2
    assert splitter.finish() == []


def test_a_limit_that_no_tag_fits_in():
    with pytest.raises(ValueError, match="max_chars is 10"):
        SentenceSplitter(max_chars=10)


HOSTILE = [
    "a",
    "a ",
    ".",
    ". ",
    "a, ",
    "[laugh]",
    "[clear throat]",
    "[clear ",
    "[laugh] ",
    "—",
    " ",
    "\n",
    "1 ",
    '"[(',
    "A. ",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_take_linear_time_and_bounded_memory(hostile):
    splitter = SentenceSplitter()
    text = (hostile * 10_000)[:10_000]
    start = time.process_time()
    for character in text:
        splitter.feed(character)
        held = sum(len(str(value)) for name, value in vars(splitter).items() if name in {"_tail", "_gap"})
        assert held <= MAX_CHARS + 40
        assert splitter._chars <= MAX_CHARS
        assert len(splitter._tags) <= MAX_CHARS
    assert time.process_time() - start < 3
