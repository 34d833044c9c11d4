"""`chatterline prompts`, and the engines that play what it made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mediaserver import cli_prompts
from mediaserver.cli_prompts import app
from mediaserver.config import Config, load
from mediaserver.engine_identity import EngineIdentity
from mediaserver.engines import Choice, make_engine
from mediaserver.prompt_file import PromptLine
from mediaserver.prompt_warming import Warmer
from mediaserver.prompts import OVERFLOW_SHARE, call_rates, prompt_store, prompts_directory, with_prompts
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.measures import Counter
from tts_engine.prompts import CachedEngine


class Desk:
    """A configuration, a file of prompts, and engines that speak words."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "prompts.txt"
        self.config = directory / "c.toml"
        self.store = directory / "kept"
        self.engines: list[FakeEngine] = []
        self.setting = ""
        self.configure()

    def configure(self, tts: str = "", prompts: str = "", more: str = "") -> None:
        tts = tts or 'engine = "embedded"'
        self.config.write_text(f'[tts]\n{tts}\n[tts.prompts]\ndir = "{self.store}"\n{prompts}\n{more}')

    def write(self, *lines: str) -> None:
        self.file.write_text("\n".join(lines), encoding="utf-8")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(self.config)])

    def warm(self, *options: str) -> Result:
        return self.run("warm", str(self.file), *options)

    def make(self, config: Any, max_streams: int, max_text_chars: int, choice: Choice | None = None) -> FakeEngine:
        engine = FakeEngine("embedded" if choice is None else choice.kind, ("heart", "slow"))
        engine.limits = EngineLimits(max_text_chars, max_streams)
        engine.ready = False
        self.engines.append(engine)
        return engine


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.setattr(cli_prompts, "make_engine", made.make)
    return made


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") <= 2
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


class TestWarm:
    def test_what_is_there_is_not_made_again(self, desk: Desk) -> None:
        desk.write("# comment", "hello there", "heart\twelcome", "")
        first = desk.warm()
        assert first.exit_code == 0, first.output
        assert "line 2: heart, 8000 Hz, 0.4 s" in first.stdout
        assert "2 made (0.6 s), 0 were there; 0.0 MB in all" in first.stdout
        assert "engine embedded (configured)" in first.stderr
        assert len(desk.engines[0].streams) == 2
        assert not desk.engines[0].ready, "it was stopped"
        again = desk.warm()
        assert "0 made (0.0 s), 2 were there" in again.stdout
        assert desk.engines[1].streams == []

    def test_a_damaged_file_is_made_again(self, desk: Desk) -> None:
        desk.write("hello")
        desk.warm()
        (path,) = desk.store.iterdir()
        path.write_bytes(path.read_bytes()[:100])
        assert "1 made" in desk.warm().stdout
        assert desk.run("list").exit_code == 0

    def test_rates(self, desk: Desk) -> None:
        desk.write("hello")
        result = desk.warm("--rate", "16000", "--rate", "8000", "--rate", "16000")
        assert "2 made (0.4 s)" in result.stdout
        refused(desk.warm("--rate", "44100"), "--rate 44100: of 8000, 16000, 24000")
        assert call_rates(Config()) == (8000,)

    def test_wideband_calls_need_their_own(self, desk: Desk) -> None:
        desk.configure(more='[rtp]\ncodecs = ["G722", "PCMU"]')
        desk.write("hello")
        assert "2 made" in desk.warm().stdout

    def test_an_unknown_voice_or_a_long_text_before_anything_is_made(self, desk: Desk) -> None:
        desk.write("hello", "anna\thello")
        refused(desk.warm(), "prompts.txt: line 2: unknown voice 'anna'; available: heart, slow")
        desk.write("hello", "x" * 2001)
        refused(desk.warm(), "line 2: text of 2001 characters is over the limit of 2000")
        assert not desk.store.exists()
        assert all(not engine.streams and not engine.ready for engine in desk.engines)

    def test_prompts_that_fail_do_not_stop_the_others(self, desk: Desk) -> None:
        desk.write("hello", "one FAIL", "welcome")
        result = desk.warm()
        assert result.exit_code == 1
        assert "chatterline: line 2: asked to fail" in result.stderr
        assert "2 made (0.4 s), 0 were there, 1 failed" in result.stdout

    def test_a_full_store(self, desk: Desk) -> None:
        desk.configure(prompts="dir_mb = 1")
        desk.write("a " * 200, "b " * 200)  # 640 kB each
        result = desk.warm()
        assert result.exit_code == 1
        assert "is full: 1 MB ([tts.prompts] dir_mb); `chatterline prompts clear --stale`" in result.stderr
        assert result.stdout.count("line ") == 1
        assert not desk.engines[0].ready

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "there is no prompt in it"),
            (b"# only\n", "there is no prompt in it"),
            (b"a\n\xff", ":2: is not UTF-8"),
        ],
    )
    def test_a_file_that_is_none(self, desk: Desk, content: bytes, said: str) -> None:
        desk.file.write_bytes(content)
        refused(desk.warm(), said)
        desk.file.unlink()
        refused(desk.warm(), "No such file or directory")

    def test_when_the_server_keeps_nothing(self, desk: Desk) -> None:
        desk.configure(prompts="memory_mb = 0")
        desk.write("hello")
        refused(desk.warm(), "[tts.prompts] memory_mb is 0")

    def test_a_store_that_cannot_be_made(self, desk: Desk) -> None:
        desk.store.touch()
        desk.write("hello")
        result = desk.warm()
        assert result.exit_code == 1
        assert "chatterline: " in result.stderr
        assert "Traceback" not in result.output

    def test_a_broken_configuration(self, desk: Desk) -> None:
        desk.configure(prompts="memory = 7")
        refused(desk.warm(), "[tts] prompts.memory: unknown key")

    def test_ctrl_c(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        async def interrupted(*arguments: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli_prompts, "_warm_all", interrupted)
        desk.write("hello")
        assert desk.warm().exit_code == 130

    def test_the_overflow_engine_too(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says with its default voice what it has no voice for."""
        plain = FakeEngine("embedded", ("heart",))
        monkeypatch.setattr(cli_prompts, "choose", lambda config: Choice("chatterbox", "for a test"))
        monkeypatch.setattr(cli_prompts, "make_overflow_engine", lambda *arguments: plain)
        monkeypatch.setattr(cli_prompts, "EngineIdentity", KnownIdentity)
        desk.configure('overflow = "embedded"')
        desk.write("slow\thello")
        result = desk.warm()
        assert result.exit_code == 0, result.output
        assert result.stdout.count("1 made") == 2
        listed = desk.run("list").stdout
        assert "chatterbox, slow, 8000 Hz, 0.2 s" in listed
        assert "embedded, heart, 8000 Hz, 0.2 s" in listed


class KnownIdentity:
    def __init__(self, config: object, kind: str) -> None:
        self.kind = kind

    def load(self) -> None:
        pass

    def of(self, voice: str) -> str:
        return f"{self.kind} {voice}"


class TestListAndClear:
    def test_stale_and_broken(self, desk: Desk) -> None:
        assert "0 prompts" in desk.run("list").stdout
        desk.write("hello", "welcome")
        desk.warm()
        fresh = desk.run("list")
        assert fresh.exit_code == 0
        assert fresh.stdout.count("embedded, heart, 8000 Hz, 0.2 s\n") == 2
        assert "hello" not in fresh.stdout
        desk.configure('engine = "embedded"\nseed = 7')
        assert desk.run("list").stdout.count("0.2 s, stale") == 2
        broken = next(desk.store.iterdir())
        desk.warm()
        broken.write_bytes(b"?")
        listed = desk.run("list")
        assert listed.exit_code == 1
        assert f"{broken.name}: is no prompt" in listed.stderr
        assert ": 4 prompts, 0.6 s" in listed.stdout
        cleared = desk.run("clear", "--stale")
        assert cleared.exit_code == 0
        assert desk.run("list").exit_code == 0
        assert ", stale" not in desk.run("list").stdout
        assert len(list(desk.store.iterdir())) == 2
        desk.run("clear")
        assert list(desk.store.iterdir()) == []

    def test_what_cannot_be_told_is_kept(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.write("hello")
        desk.warm()
        desk.configure('engine = "embedded"\n[tts.voices.heart]\nmodel = "nobody"\n')
        result = desk.run("clear", "--stale")
        assert "what is of use to the embedded engine cannot be told" in result.stderr
        assert ": 0 removed" in result.stdout
        assert len(list(desk.store.iterdir())) == 1

    def test_a_directory_that_is_none(self, desk: Desk) -> None:
        desk.store.touch()
        for command in ("list", "clear"):
            refused(desk.run(command), "Not a directory")


def test_where_prompts_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/chatterline")
    assert prompts_directory(Config().tts) == Path("/var/lib/chatterline/prompts")
    monkeypatch.setenv("CHATTERLINE_TTS__PROMPTS__DIR", "~/p")
    assert prompts_directory(Config().tts) == Path("~/p").expanduser()


class TestServing:
    def test_off(self) -> None:
        engine, overflow = FakeEngine(), FakeEngine()
        config = Config(tts={"prompts": {"memory_mb": 0}})  # type: ignore[arg-type]
        assert with_prompts(engine, overflow, config, "embedded") == (engine, overflow)

    def test_the_memory_is_divided(self) -> None:
        def largest(engine: Any) -> int:
            found: int = engine._cache._memory_bytes
            return found

        config = Config()
        alone, none = with_prompts(FakeEngine(), None, config, "embedded")
        assert none is None
        assert largest(alone) == 64 << 20
        first, second = with_prompts(FakeEngine(), FakeEngine(), config, "chatterbox")
        assert largest(first) + largest(second) == 64 << 20
        assert largest(second) == (64 << 20) // OVERFLOW_SHARE

    async def test_what_was_warmed_is_played_and_the_greeting_is_said_at_the_start(self, desk: Desk) -> None:
        """The command and the server agree on what a prompt is: nothing is synthesised but the greeting."""
        desk.configure(more='[calls]\ngreeting = "good day"')
        desk.write("hello there")
        result = await asyncio.to_thread(desk.warm)
        assert "1 made" in result.stdout
        config = load(desk.config)
        behind = FakeEngine("embedded")
        engine, _ = with_prompts(behind, None, config, "embedded")
        assert isinstance(engine, CachedEngine)
        await engine.start()
        async with asyncio.timeout(10):
            while engine._background:
                await asyncio.wait(engine._background)
        assert [stream.request.text for stream in behind.streams] == ["good day"]
        for text in ("hello there", "good day", "hello there"):
            stream = engine.synthesize(SpeechRequest(text))
            pcm = b"".join([chunk.pcm async for chunk in stream])
            assert pcm == b"".join(map(pcm_of, text.split()))
        assert len(behind.streams) == 1
        await engine.stop()


async def test_the_embedded_voice_says_the_same_from_disk(tmp_path: Path) -> None:
    """The real engine: bit for bit what it would have synthesised."""
    config = Config(tts={"engine": "embedded", "prompts": {"dir": str(tmp_path)}}, calls={"greeting": "Hi."})  # type: ignore[arg-type]
    behind = make_engine(config.tts, 4, 100)
    engine, _ = with_prompts(behind, None, config, "embedded")
    assert isinstance(engine, CachedEngine)
    identity = EngineIdentity(config.tts, "embedded")
    identity.load()
    await behind.start()
    try:
        warmer = Warmer(behind, identity, prompt_store(config.tts), print, print)
        assert (await warmer.warm([PromptLine(1, "heart", "One moment, please.")], (8000,))).made == 1
        await engine.start()
        async with asyncio.timeout(30):
            while engine._background:
                await asyncio.wait(engine._background)
        request = SpeechRequest("One moment, please.")
        kept = [chunk.pcm async for chunk in engine.synthesize(request)]
        made = [chunk.pcm async for chunk in behind.synthesize(request)]
        assert b"".join(kept) == b"".join(made)
        (hits,) = [m for m in engine.measures if m.name == "prompt_hits" and m.labels == {"source": "disk"}]
        assert isinstance(hits, Counter)
        assert hits.value == 1
    finally:
        await engine.stop()
