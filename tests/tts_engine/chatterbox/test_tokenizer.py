import json
import shutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.synthetic_tokenizer import MERGES, byte_characters, write_tokenizer
from tts_engine.chatterbox.tokenizer import SIZE, TextTokenizer, TokenizerError
from tts_engine.errors import EngineError
from tts_engine.text.tags import TAGS


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(written):
    return TextTokenizer(written)


@pytest.fixture
def copy(written, tmp_path):
    """A directory to damage."""
    return shutil.copytree(written, tmp_path / "copy")


def test_the_released_size(tokenizer):
    assert len(tokenizer) == SIZE == 50276


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token(tokenizer, tag):
    assert tokenizer.encode(tag) == [50257 + TAGS.index(tag)]
    before, after = tokenizer.encode("Oh no "), tokenizer.encode(", really")
    assert tokenizer.encode(f"Oh no {tag}, really") == [*before, 50257 + TAGS.index(tag), *after]


def test_common_words_are_one_token(tokenizer):
    assert len(tokenizer.encode(" thank you for calling please hold")) == 6


@pytest.fixture(scope="module")
def spelling(written):
    spelled = {index: token for token, index in json.loads((written / "vocab.json").read_text()).items()}
    return spelled | dict(enumerate(TAGS, 50257))


@given(st.text())
@example("[gasp]")
@settings(deadline=None)
def test_tokens_spell_the_text(spelling, tokenizer, text):
    as_byte = {character: byte for byte, character in enumerate(_byte_characters_in_byte_order())}
    ids = tokenizer.encode(text[:200])
    assert bytes(as_byte[character] for index in ids for character in spelling[index]) == text[:200].encode()


def _byte_characters_in_byte_order():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def test_a_long_text_is_cut_at_the_models_length(tokenizer):
    text = "? " * 3000
    assert len(tokenizer.encode(text)) == 1024
    assert tokenizer.encode("Hi") == tokenizer.encode("Hi")


def test_an_absurd_length_in_the_configuration_is_ours(copy):
    change(copy / "tokenizer_config.json", model_max_length=10**30)
    assert len(TextTokenizer(copy).encode("? " * 3000)) == 1024


def test_half_a_surrogate(tokenizer):
    with pytest.raises(ValueError, match="half a surrogate"):
        tokenizer.encode("a\ud83d")


def test_everything_in_one_file_does_as_well(written, tokenizer, tmp_path):
    vocabulary = json.loads((written / "vocab.json").read_text())
    merges = (written / "merges.txt").read_text().splitlines()[1:]
    added = [{"id": 50257 + index, "content": tag, "special": False} for index, tag in enumerate(TAGS)]
    whole = {"added_tokens": added, "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    text = "Thank you [laugh] for 12 <|endoftext|> 😀"
    assert TextTokenizer(tmp_path).encode(text) == tokenizer.encode(text)


def test_added_tokens_have_a_file_of_their_own(copy, tokenizer):
    (copy / "tokenizer_config.json").unlink()
    assert TextTokenizer(copy).encode("Oh [sigh] no") == tokenizer.encode("Oh [sigh] no")


def test_the_written_files_are_reproducible(written, tmp_path):
    write_tokenizer(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (written / "merges.txt").read_bytes()
    assert len((tmp_path / "merges.txt").read_text().splitlines()) == MERGES + 1
    assert len(set(byte_characters())) == 256


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(TokenizerError, match=rf"{name} is missing"):
        TextTokenizer(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b"{"),
        ("vocab.json", b"[]"),
        ("vocab.json", b'{"a": "b"}'),
        ("vocab.json", b"\xff\xfe"),
        ("vocab.json", b'{"a": 0}'),  # the merges need more
        ("merges.txt", b"#version: 0.2\na b c\n"),
        ("merges.txt", b"nowhere tobefound\n"),
        ("merges.txt", b"\xff"),
        ("tokenizer_config.json", b"{]"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"60000": {"content": "[laugh]"}}}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}, "merges": [[1, 2, 3]]}}'),
        ("tokenizer.json", b"[" * 100_000),
    ],
)
def test_a_damaged_file_is_named(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(EngineError, match=r"(vocab\.json|merges\.txt|tokenizer_config\.json|tokenizer\.json)"):
        TextTokenizer(copy)


def test_the_tokenizer_of_another_model(copy):
    change(copy / "tokenizer_config.json", added_tokens_decoder={})
    with pytest.raises(TokenizerError, match="has 50257 tokens, but the model has 50276"):
        TextTokenizer(copy)
    assert len(TextTokenizer(copy, size=50257)) == 50257


def test_a_beginning_of_sentence_token_is_refused(copy):
    change(copy / "tokenizer_config.json", add_bos_token=True)
    with pytest.raises(TokenizerError, match="add_bos_token"):
        TextTokenizer(copy)
