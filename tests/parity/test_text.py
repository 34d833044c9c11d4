import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from benchmarks.synthetic_tokenizer import write_tokenizer
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.chatterbox import torchaudio_stand_in
from tts_engine.chatterbox.text import normalise_punctuation, prepare
from tts_engine.chatterbox.tokenizer import TextTokenizer
from tts_engine.text.tags import TAGS

torchaudio_stand_in.install()

from chatterbox.tts_turbo import punc_norm  # noqa: E402

PUNCTUATION = st.text(st.sampled_from(list("aßΐÉ1 .,;:!?…—–-“”‘’\"'\n\t\u00a0\u3000\x1c\u200b")), min_size=1)
WORDS = st.lists(
    st.sampled_from([*TAGS, *TELEPHONE_SENTENCES, "<|endoftext|>", " ", "  ", "\n",
                     "[Laugh]", "[laugh", "it's", "WE'LL", "e\u0301"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(list("😀👨‍👩‍👧🇺🇸é中ا")),
    max_size=25,
).map("".join)  # fmt: skip


@given(st.text(min_size=1) | PUNCTUATION)
@settings(max_examples=1000, deadline=None)
def test_punctuation_equals_the_references(text):
    assert normalise_punctuation(text) == punc_norm(text)


@pytest.mark.parametrize(
    "text", [*TELEPHONE_SENTENCES, "a" * 10_000, " ," * 5_000, "… " * 5_000, ". " * 5000, ":" * 10_000]
)
def test_punctuation_of_sentences_and_hostile_texts(text):
    assert normalise_punctuation(text) == punc_norm(text)


def test_prepared_text_is_what_the_reference_would_read():
    for sentence in TELEPHONE_SENTENCES:
        for segment in prepare(sentence):
            assert punc_norm(segment) == segment


def layouts(directory):
    """The released layout, and others that transformers reads."""
    write_tokenizer(directory / "released")
    plain = shutil.copytree(directory / "released", directory / "added_tokens.json only")
    config = json.loads((plain / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (plain / "tokenizer_config.json").write_text(json.dumps(config))

    flags = shutil.copytree(directory / "released", directory / "other flags")
    config = json.loads((flags / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["50275"] |= {"lstrip": True, "rstrip": True, "special": True, "normalized": False}
    config["added_tokens_decoder"]["50268"] |= {"single_word": True}
    (flags / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 64}))

    whole = directory / "tokenizer.json too"
    AutoTokenizer.from_pretrained(directory / "released").save_pretrained(whole)
    shutil.copy(directory / "released" / "added_tokens.json", whole)
    return {path.name: path for path in (directory / "released", plain, flags, whole)}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    paths = layouts(tmp_path_factory.mktemp("tokenizers"))
    return {name: (TextTokenizer(path), AutoTokenizer.from_pretrained(path)) for name, path in paths.items()}


LAYOUTS = ["released", "added_tokens.json only", "other flags", "tokenizer.json too"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes(tokenizers, layout):
    ours, reference = tokenizers[layout]
    assert len(ours) == len(reference) == 50276


@pytest.mark.parametrize("layout", LAYOUTS)
@given(text=WORDS)
@settings(max_examples=200, deadline=None)
def test_tokens_equal_the_references(tokenizers, layout, text):
    ours, reference = tokenizers[layout]
    assert ours.encode(text) == reference(text, truncation=True).input_ids


def test_a_text_that_is_too_long(tokenizers):
    for layout in ("released", "other flags"):
        ours, reference = tokenizers[layout]
        text = "please hold [laugh] the line? " * 500
        assert ours.encode(text) == reference(text, truncation=True).input_ids
