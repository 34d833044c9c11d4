from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.small_model import store_voice
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.voice_store import VoiceNameError, VoiceStore
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.serving.voice_bank import BankedVoice, NoBuiltInVoiceError, VoiceBank


class Device:
    """What has been written where."""

    def __init__(self) -> None:
        self.written: list[tuple[int, Voice]] = []
        self.fault: Exception | None = None

    def put(self, index: int, voice: Voice) -> None:
        if self.fault is not None:
            raise self.fault
        self.written.append((index, voice))


@pytest.fixture
def device() -> Device:
    return Device()


def bank_of(tmp_path: Path, device: Device, size: int = 2, *, built_in: Voice | None = None) -> VoiceBank:
    for seed, name in enumerate(("anna", "bob", "carol")):
        store_voice(tmp_path, name, seed)
    return VoiceBank(size, VoiceStore(tmp_path), built_in, device.put)


def acquire(bank: VoiceBank, name: str) -> BankedVoice:
    voice = bank.acquire(name)
    assert voice is not None
    return voice


def test_a_voice_is_written_once_and_shared(tmp_path: Path, device: Device) -> None:
    bank = bank_of(tmp_path, device)
    first, second = acquire(bank, "anna"), acquire(bank, "anna")
    assert first is second
    assert first.users == 2
    assert len(device.written) == 1
    written = device.written[0][1].flow_prompt_tokens.numpy()
    assert np.array_equal(first.prompt, written)
    assert first.prompt.dtype == np.int32


def test_what_is_used_is_never_overwritten(tmp_path: Path, device: Device) -> None:
    bank = bank_of(tmp_path, device)
    anna, bob = acquire(bank, "anna"), acquire(bank, "bob")
    assert {anna.index, bob.index} == {0, 1}
    assert bank.acquire("carol") is None, "all numbers are in use"
    assert bank.acquire("anna") is anna, "but those who are there can be had"
    bank.release(anna)
    assert bank.acquire("carol") is None, "anna still has a user"
    bank.release(anna)
    carol = acquire(bank, "carol")
    assert carol.index == anna.index
    assert bank.acquire("anna") is None


def test_the_longest_unused_makes_room(tmp_path: Path, device: Device) -> None:
    bank = bank_of(tmp_path, device)
    for name in ("anna", "bob", "anna"):
        bank.release(acquire(bank, name))
    bank.release(acquire(bank, "carol"))
    bank.release(acquire(bank, "anna"))
    assert len(device.written) == 3, "anna stayed, bob went"
    bank.release(acquire(bank, "bob"))
    assert len(device.written) == 4


def test_a_file_that_was_replaced_is_another_voice(tmp_path: Path, device: Device) -> None:
    """Who speaks with the old one goes on with it."""
    bank = bank_of(tmp_path, device)
    old = acquire(bank, "anna")
    VoiceStore(tmp_path).remove("anna")
    store_voice(tmp_path, "anna", seed=9)
    new = acquire(bank, "anna")
    assert new is not old
    assert new.index != old.index
    assert acquire(bank, "anna") is new


def test_the_model_s_own_needs_no_file(tmp_path: Path, device: Device) -> None:
    bank = bank_of(tmp_path, device, built_in=make_voice(4, 7))
    assert len(acquire(bank, "default").prompt) == 7
    assert acquire(bank, "default").users == 2


def test_what_cannot_be_had_takes_no_number(tmp_path: Path, device: Device) -> None:
    bank = bank_of(tmp_path, device, size=1)
    (tmp_path / "dora.safetensors").write_text("no voice")
    with pytest.raises(NoBuiltInVoiceError, match=r"no voice of its own \(conds\.pt\)"):
        bank.acquire("default")
    with pytest.raises(UnknownVoiceError, match="'nobody'"):
        bank.acquire("nobody")
    with pytest.raises(VoiceNameError):
        bank.acquire("../anna")
    with pytest.raises(EngineError, match=r"^dora\.safetensors is not a voice file"):
        bank.acquire("dora")
    device.fault = MemoryError()
    with pytest.raises(MemoryError):
        bank.acquire("anna")
    device.fault = None
    assert acquire(bank, "anna").users == 1
