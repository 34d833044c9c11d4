from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.tensorrt.faults import PlanError
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.selection import SLOWER, STAGES, UNITS, Backend, Choice, Offer, Unit, choose, in_words

TITLE = "TensorRT-RTX sm86 float16"
LOADED = Offer(TITLE)
ABSENT = Offer(fault="no engine for sm90 in /engines")

ALL: dict[Unit, Offer] = dict.fromkeys(UNITS, LOADED)
NONE: dict[Unit, Offer] = dict.fromkeys(UNITS, ABSENT)


def taken(choices: dict[Unit, Choice]) -> list[str]:
    return [choices[unit].backend for unit in UNITS]


def test_units_are_made_of_all_stages() -> None:
    assert sorted(stage for stages in STAGES.values() for stage in stages) == sorted(PROFILES)


class TestAuto:
    def test_engines_where_there_are_some(self) -> None:
        choices = choose("auto", {"t3": LOADED, "flow": ABSENT, "vocoder": LOADED}, None)
        assert taken(choices) == ["tensorrt", "cuda-graphs", "tensorrt"]
        assert str(choices["t3"]) == "t3: TensorRT-RTX sm86 float16"
        assert str(choices["flow"]) == "flow: CUDA graphs, because no engine for sm90 in /engines"

    def test_plain_pytorch_where_nothing_can_be_captured(self) -> None:
        choices = choose("auto", {**NONE, "t3": LOADED}, "Triton is missing")
        assert taken(choices) == ["tensorrt", "eager", "eager"]
        assert choices["flow"].reason == "eager, because Triton is missing, no engine for sm90 in /engines"

    @pytest.mark.parametrize(
        ("slowdown", "expected"),
        [
            (None, "tensorrt"),
            (0.4, "tensorrt"),
            (SLOWER - 0.01, "tensorrt"),
            (SLOWER, "cuda-graphs"),
            (3, "cuda-graphs"),
        ],
    )
    def test_not_what_was_measured_to_be_slower(self, slowdown: float | None, expected: str) -> None:
        choice = choose("auto", {**ALL, "flow": Offer(TITLE, slowdown=slowdown)}, None)["flow"]
        assert choice.backend == expected
        if expected != "tensorrt":
            assert f"because {TITLE} took {slowdown:.2f} times as long here" in choice.reason

    def test_nothing_is_known_of_a_unit(self) -> None:
        assert choose("auto", {}, None)["t3"].reason == "CUDA graphs, because there are no engines"


class TestAsConfigured:
    def test_tensorrt_is_that_or_nothing(self) -> None:
        assert taken(choose("tensorrt", ALL, "no graphs")) == ["tensorrt"] * 3
        assert taken(choose("tensorrt", {**ALL, "t3": Offer(TITLE, slowdown=2.0)}, None)) == ["tensorrt"] * 3
        with pytest.raises(PlanError, match="backend tensorrt: flow has no engines: no engine for sm90 in /engines"):
            choose("tensorrt", {**ALL, "flow": ABSENT}, None)

    def test_the_others_take_no_engine(self) -> None:
        assert in_words(choose("cuda-graphs", ALL, None)) == "CUDA graphs"
        assert in_words(choose("cuda-graphs", ALL, "Triton is missing")) == "eager, because Triton is missing"
        assert in_words(choose("eager", ALL, None)) == "eager, as configured"


def test_units_of_one_reason_are_said_together() -> None:
    choices = choose("auto", {**NONE, "vocoder": LOADED}, None)
    assert in_words(choices) == (
        "t3, flow: CUDA graphs, because no engine for sm90 in /engines; vocoder: TensorRT-RTX sm86 float16"
    )
    assert in_words(choose("auto", ALL, None)) == TITLE


_offers = st.builds(
    Offer, st.sampled_from(["", TITLE]), st.sampled_from(["", "absent"]), st.none() | st.floats(0.1, 10)
)


@given(
    st.sampled_from(["auto", "tensorrt", "cuda-graphs", "eager"]),
    st.dictionaries(st.sampled_from(UNITS), _offers),
    st.sampled_from([None, "no Triton"]),
)
def test_every_unit_runs_by_something_that_is_there(
    backend: Backend, offers: dict[Unit, Offer], graphs_fault: str | None
) -> None:
    try:
        choices = choose(backend, offers, graphs_fault)
    except PlanError:
        assert backend == "tensorrt"
        assert any(not offers.get(unit, Offer()).title for unit in UNITS)
        return
    assert set(choices) == set(UNITS)
    for unit, choice in choices.items():
        assert choice.reason
        if choice.backend == "tensorrt":
            assert offers[unit].title
            assert backend in {"auto", "tensorrt"}
        if choice.backend == "cuda-graphs":
            assert graphs_fault is None
        if choice.backend == "eager":
            assert graphs_fault or backend == "eager"
