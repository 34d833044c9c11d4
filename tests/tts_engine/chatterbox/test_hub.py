"""Finding and downloading models, against a small hub on loopback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from tests.tts_engine.chatterbox.fake_hub import COMMIT, FakeHub, serving
from tts_engine.chatterbox import hub
from tts_engine.chatterbox.checkpoint import RELEASED_FILES
from tts_engine.chatterbox.hub import HubError, fetch_model, find_model, repository

TURBO = "ResembleAI/chatterbox-turbo"
NOBODY = "http://127.0.0.1:9"  # discard: nothing listens


def released() -> dict[str, bytes]:
    names = [name for name in RELEASED_FILES if "nano" not in name and name != "tokenizer.json"]
    return {name: f"content of {name}".encode() for name in names} | {
        "README.md": b"not wanted",
        "t3_turbo_v1.yaml": b"not wanted",
    }


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the user's token nor his cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with serving(FakeHub(released())) as running:
        yield running


def fetched(fake: FakeHub, tmp_path: Path, name: str = "turbo", to: Path | None = None) -> Path:
    return fetch_model(name, to=to, progress=False, cache=tmp_path / "cache", endpoint=fake.url)


def refused(fake: FakeHub, tmp_path: Path, *said: str, name: str = "turbo", to: Path | None = None) -> None:
    with pytest.raises(HubError) as caught:
        fetched(fake, tmp_path, name, to)
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "no traceback of the library's"


def test_names() -> None:
    assert repository("turbo") == TURBO
    assert repository("nano") == "ResembleAI/chatterbox-nano"
    assert repository("someone/else") == "someone/else"


def test_only_what_the_model_needs_is_downloaded(fake: FakeHub, tmp_path: Path) -> None:
    directory = fetched(fake, tmp_path)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        name: content for name, content in released().items() if name in RELEASED_FILES
    }
    assert directory.name == fake.commit


def test_what_was_fetched_is_found_without_a_network(fake: FakeHub, tmp_path: Path) -> None:
    assert find_model("turbo", cache=tmp_path / "cache") is None
    directory = fetched(fake, tmp_path)
    asked = len(fake.asked)
    for name in ("turbo", TURBO):
        assert find_model(name, cache=tmp_path / "cache") == directory
    assert find_model("nano", cache=tmp_path / "cache") is None
    assert len(fake.asked) == asked


def test_a_directory_is_found_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~") == tmp_path


@pytest.mark.parametrize("name", ["", "a/b/c", "/nowhere/at/all", "../no/such", "a b", "x" * 300, "-", "\0"])
def test_what_is_neither_is_not_found(tmp_path: Path, name: str) -> None:
    assert find_model(name, cache=tmp_path) is None


def test_a_directory_is_found_without_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_model(str(tmp_path)) == tmp_path
    assert find_model("turbo") is None
    with pytest.raises(HubError, match=r"huggingface_hub is not installed: `pip install"):
        fetch_model("turbo")


def test_into_a_directory(fake: FakeHub, tmp_path: Path) -> None:
    directory = fetched(fake, tmp_path, to=tmp_path / "model")
    assert directory == tmp_path / "model"
    assert (directory / "conds.pt").read_bytes() == b"content of conds.pt"
    before = len(fake.downloads())
    fetched(fake, tmp_path, to=tmp_path / "model")
    assert len(fake.downloads()) == before, "nothing is downloaded twice"


@pytest.mark.parametrize("to_directory", [True, False])
def test_a_dropped_connection_is_taken_up_where_it_broke(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_directory: bool
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # written at a time: else 10 MB
    name = "s3gen_meanflow.safetensors"
    content = os.urandom(300_000)
    fake.files[name] = content
    fake.cut[name] = 100_000
    directory = fetched(fake, tmp_path, to=tmp_path / "model" if to_directory else None)
    assert (directory / name).read_bytes() == content
    assert [ranges for file, ranges in fake.downloads() if file == name] == [None, "bytes=100000-"]


@pytest.mark.parametrize("to_directory", [True, False])
def test_an_interrupted_download_is_completed(fake: FakeHub, tmp_path: Path, to_directory: bool) -> None:
    to = tmp_path / "model" if to_directory else None
    name = "s3gen_meanflow.safetensors"
    del fake.files[name]
    refused(fake, tmp_path, "is not a whole Chatterbox model: s3gen_meanflow.safetensors is missing", to=to)
    assert find_model("turbo", cache=tmp_path / "cache") is None

    fake.files[name] = b"at last"
    fake.commit = COMMIT[::-1]
    fake.asked.clear()
    directory = fetched(fake, tmp_path, to=to)
    assert (directory / name).read_bytes() == b"at last"
    assert [file for file, _ in fake.downloads()] == [name], "what is there is not fetched again"


def test_the_hub_fails_half_way(fake: FakeHub, tmp_path: Path) -> None:
    fake.files["s3gen_meanflow.safetensors"] = os.urandom(300_000)
    fake.cut["s3gen_meanflow.safetensors"] = 100_000
    fake.down_after_cut = True
    refused(fake, tmp_path, "403", "ResembleAI/chatterbox-turbo")
    assert find_model("turbo", cache=tmp_path / "cache") is None
    fake.status, fake.down_after_cut = 200, False
    assert find_model("turbo", cache=tmp_path / "cache") is None
    assert fetched(fake, tmp_path).is_dir()


def test_a_snapshot_that_lacks_a_file_is_not_found(fake: FakeHub, tmp_path: Path) -> None:
    directory = fetched(fake, tmp_path)
    (directory / "vocab.json").unlink()
    assert find_model("turbo", cache=tmp_path / "cache") is None
    fetched(fake, tmp_path)
    assert find_model("turbo", cache=tmp_path / "cache") == directory


def test_what_serving_does_not_need_may_be_missing(fake: FakeHub, tmp_path: Path) -> None:
    directory = fetched(fake, tmp_path)
    (directory / "ve.safetensors").unlink()
    assert find_model("turbo", cache=tmp_path / "cache") == directory


def test_no_network(fake: FakeHub, tmp_path: Path) -> None:
    fake.url = NOBODY
    refused(fake, tmp_path, "the hub cannot be reached", TURBO)


def test_no_network_and_half_a_directory(fake: FakeHub, tmp_path: Path) -> None:
    fake.url = NOBODY
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "vocab.json").write_text("{}")
    refused(fake, tmp_path, "t3_turbo_v1.safetensors", "is missing", to=tmp_path / "model")


def test_no_network_but_already_there(fake: FakeHub, tmp_path: Path) -> None:
    directory = fetched(fake, tmp_path)
    fake.url = NOBODY
    assert fetched(fake, tmp_path) == directory


def test_offline_mode(tmp_path: Path) -> None:
    done = command("--quiet", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE forbids the network" in done.stderr


def test_unknown_repository(fake: FakeHub, tmp_path: Path) -> None:
    refused(fake, tmp_path, "nobody/nothing does not exist on the hub, or is private", name="nobody/nothing")


@pytest.mark.parametrize("name", ["", "a/b/c", "two words", "../etc"])
def test_names_that_no_repository_has(fake: FakeHub, tmp_path: Path, name: str) -> None:
    refused(fake, tmp_path, "is not the name of a repository", name=name)


def test_gated(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.token = "hf_secret"
    refused(fake, tmp_path, "is gated: accept its terms")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetched(fake, tmp_path).is_dir()


def test_private_or_wrong_token(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.status = 401
    refused(fake, tmp_path, "(401): HF_TOKEN is missing, wrong")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    with pytest.raises(HubError) as caught:
        fetched(fake, tmp_path)
    assert "HF_TOKEN" in str(caught.value)
    assert "hf_wrong_one" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 418])
def test_other_refusals(fake: FakeHub, tmp_path: Path, status: int) -> None:
    fake.status = status
    refused(fake, tmp_path, str(status))


def test_another_model(fake: FakeHub, tmp_path: Path) -> None:
    fake.files = {"README.md": b"", "vocab.json": b"{}"}
    refused(fake, tmp_path, "is not a whole Chatterbox model", "s3gen_meanflow.safetensors is missing")


def test_to_a_file(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    refused(fake, tmp_path, "is not a directory", to=tmp_path / "model")


def test_a_file_in_the_way(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    refused(fake, tmp_path, str(tmp_path / "model"), "Not a directory", to=tmp_path / "model" / "below")


def test_no_space(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    refused(fake, tmp_path, "no space is left", "the cache")
    refused(fake, tmp_path, "no space is left", str(tmp_path / "model"), to=tmp_path / "model")


def test_a_fault_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> str:
        raise TypeError("a bug")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(TypeError, match="a bug"):
        hub.fetch_model("turbo")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = "import typer; from mediaserver.cli_models import fetch_model_command; typer.run(fetch_model_command)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=kept | environment,
        check=False,
    )


def test_the_command(fake: FakeHub, tmp_path: Path) -> None:
    places = {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "home")}
    done = command("turbo", **places)
    assert done.returncode == 0, done.stderr
    directory = Path(done.stdout.strip())
    assert (directory / "vocab.json").is_file()
    assert (tmp_path / "home") in directory.parents
    assert "%" in done.stderr, "progress is shown"

    done = command("--to", str(tmp_path / "model"), "--quiet", **places)
    assert done.stdout.strip() == str(tmp_path / "model")
    assert "%" not in done.stderr


def test_the_command_says_why_not(fake: FakeHub, tmp_path: Path) -> None:
    done = command("nobody/nothing", "-q", HF_ENDPOINT=fake.url, HF_HOME=str(tmp_path), HF_TOKEN="hf_secret")
    assert done.returncode == 1
    assert "chatterline: nobody/nothing does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
