import pytest

from tts_engine.text.tags import LONGEST_TAG, TAGS, outside_tags


def test_the_released_models_have_19_tags():
    assert len(set(TAGS)) == len(TAGS) == 19
    assert (TAGS[0], TAGS[-1]) == ("[angry]", "[laugh]")  # ids 50257 and 50275
    assert len("[advertisement]") == LONGEST_TAG


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_left_alone(tag):
    assert outside_tags(f"a{tag}b {tag}", str.upper) == f"A{tag}B {tag}"


def test_tags_are_written_as_the_tokenizer_knows_them():
    assert outside_tags("Oh [LAUGH] no [Clear Throat].", str) == "Oh [laugh] no [clear throat]."


def test_other_brackets_are_text():
    assert outside_tags("[laughs] [note] [laugh", str.upper) == "[LAUGHS] [NOTE] [LAUGH"


def test_letters_that_only_fold_to_ascii_make_no_tag():
    assert outside_tags("[\u017figh]", str.upper) == "[SIGH]"  # long s
