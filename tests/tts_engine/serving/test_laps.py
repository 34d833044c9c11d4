from __future__ import annotations

import time

import torch

from tts_engine.serving.laps import Laps, to_host

CPU = torch.device("cpu")


def test_on_a_cpu_all_is_done_when_it_returns() -> None:
    laps = Laps(CPU)
    assert laps.done
    laps.wait()
    assert laps.seconds() == []


def test_each_mark_ends_a_lap() -> None:
    before = time.perf_counter()
    laps = Laps(CPU)
    started = time.perf_counter()
    while time.perf_counter() < started + 0.01:
        pass
    laps.mark()
    laps.mark()
    first, second = laps.seconds()
    assert 0.01 <= first <= time.perf_counter() - before
    assert 0 <= second < first


def test_what_is_on_the_host_stays_where_it_is() -> None:
    tensor = torch.arange(3)
    assert to_host(tensor) is tensor
