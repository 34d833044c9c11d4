from __future__ import annotations

import pytest
import torch

from tts_engine.serving.device import devices_of, make_exact, use_device


def test_every_gpu_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(()) == ("cuda:0", "cuda:1")
    assert devices_of(("cuda:1",)) == ("cuda:1",)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices_of(()) == ("cpu",)


def test_a_cpu_is_nobody_s_own() -> None:
    use_device(torch.device("cpu"))


def test_a_gpu_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    use_device(torch.device("cuda:3"))
    use_device(torch.device("cuda"))
    assert current == [3, 0]


def test_exact_means_neither_rounded_nor_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("allow_tf32", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    make_exact()
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
