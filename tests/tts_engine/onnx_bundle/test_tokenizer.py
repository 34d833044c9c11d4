from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.tts_engine.onnx_bundle.synthetic_bundle import write_tokenizer
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.tokenizer import BundleTokenizer
from tts_engine.text.tags import TAGS

END = [50256, 50256]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> BundleTokenizer:
    return BundleTokenizer(path)


@pytest.fixture(scope="module")
def plain(path: Path) -> Tokenizer:
    """The file's own settings cut a text at 20 tokens."""
    plain = Tokenizer.from_file(str(path))
    plain.no_truncation()
    return plain


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=100))
def test_as_the_file_says_but_whole(tokenizer: BundleTokenizer, plain: Tokenizer, text: str) -> None:
    """Nothing is cut here, and the end is never lost."""
    ids = tokenizer.encode(text)
    assert ids == plain.encode(text).ids
    assert ids[-2:] == END


def test_the_end_does_not_depend_on_the_files_post_processor(tmp_path: Path, tokenizer: BundleTokenizer) -> None:
    write_tokenizer(tmp_path / "tokenizer.json", end=False)
    assert BundleTokenizer(tmp_path / "tokenizer.json").encode("Hello.") == tokenizer.encode("Hello.")


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token(tokenizer: BundleTokenizer, tag: str) -> None:
    assert tokenizer.encode(tag) == [50257 + TAGS.index(tag), *END]


def test_half_a_surrogate(tokenizer: BundleTokenizer) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}'])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        BundleTokenizer(tmp_path / "tokenizer.json")


def test_another_models_file(tmp_path: Path, path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(path.read_text().replace("<|endoftext|>", "<eos>"))
    with pytest.raises(BundleError, match="endoftext"):
        BundleTokenizer(tmp_path / "tokenizer.json")
