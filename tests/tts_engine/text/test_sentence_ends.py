import pytest

from tts_engine.text.sentence_ends import ends_sentence, needs_whole_next_word


@pytest.mark.parametrize(
    ("word", "following", "ends"),
    [
        ("done.", "T", True),
        ("done.", "t", False),
        ("done", "T", False),
        ("done.)", "T", True),
        ("done!", "t", True),
        ('done!"', "s", False),
        ("done?", "5", True),
        ("done…", "W", True),
        ("done...", "w", False),
        ("Dr.", "The", False),
        ("(Dr.", "The", False),
        ("e.g.", "The", False),
        ("No.", "5", False),
        ("No.", "I", True),
        ("Nov.", "22", False),
        ("a.m.", "Monday", False),
        ("a.m.", "Please", True),
        ("a.m.", "please", False),
        ("Inc.", "Board", False),
        ("Inc.", "The", True),
        ("J.", "R.", False),
        ("B.", "You", True),
        ("N.A.S.A.", "Houston", False),
        ("etc.", "“We", True),
        ("5.", "T", True),
        ("example.com.", "W", True),
        (".", "W", True),
    ],
)
def test_words_that_end_a_sentence(word, following, ends):
    assert ends_sentence(word, following, first=False) is ends


@pytest.mark.parametrize("word", ["1.", "12.", "(1.", "a."])
def test_an_enumerator_begins_a_sentence(word):
    assert not ends_sentence(word, "The", first=True)
    assert ends_sentence(word, "The", first=False)


@pytest.mark.parametrize("word", ["a.m.", "Inc.", "J.", "U.S.)", "Nov."])
def test_after_an_abbreviation_the_whole_next_word_decides(word):
    assert needs_whole_next_word(word)


@pytest.mark.parametrize("word", ["done.", "done", "Dr.", "done!", "3.14", "wait..."])
def test_otherwise_its_first_letter_decides(word):
    assert not needs_whole_next_word(word)
    for following in ("Tomorrow", "tomorrow", "5th"):
        assert ends_sentence(word, following, first=False) == ends_sentence(word, following[0], first=False)
