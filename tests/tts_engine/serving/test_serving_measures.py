from __future__ import annotations

from collections import Counter

from tts_engine.serving.serving_measures import ServingMeasures


def test_every_measure_is_told_once_with_its_device() -> None:
    measures = ServingMeasures("cuda:0")
    found = measures.all()
    assert len(set(map(id, found))) == len(found)
    assert {measure.labels["device"] for measure in found} == {"cuda:0"}
    assert all(measure.text for measure in found)


def test_only_families_share_a_name() -> None:
    found = ServingMeasures("cpu").all()
    names = Counter(measure.name for measure in found)
    assert {name for name, count in names.items() if count > 1} == {
        "utterances_failed",
        "sequences_ended",
        "unit_backend",
        "plans_failed",
    }
    assert len({(measure.name, *sorted(measure.labels.items())) for measure in found}) == len(found)


def test_names_have_units_and_no_total() -> None:
    for measure in ServingMeasures("cpu").all():
        assert not measure.name.endswith("_total")
        assert not measure.name.endswith("_ms")


def test_a_unit_runs_by_one_of_all_backends() -> None:
    told = {(m.labels["unit"], m.labels["by"]) for m in ServingMeasures("cpu").all() if m.name == "unit_backend"}
    assert told == {(unit, by) for unit in ("t3", "flow", "vocoder") for by in ("tensorrt", "cuda-graphs", "eager")}
