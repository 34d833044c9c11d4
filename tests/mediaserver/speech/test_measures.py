"""How long callers wait, in histograms."""

from __future__ import annotations

from mediaserver.speech.measures import BOUNDS_S, SpeechMeasures
from tts_engine.measures import Histogram


def histograms(measures: SpeechMeasures) -> dict[tuple[str, str, str], Histogram]:
    found = {}
    for measure in measures.measures:
        assert isinstance(measure, Histogram)
        found[measure.name, measure.labels["engine"], measure.labels["queued"]] = measure
    return found


def test_each_wait_goes_to_its_own() -> None:
    measures = SpeechMeasures("chatterbox")
    measures.first_pcm(0.05, queued=False)
    measures.first_pcm(0.07, queued=True)
    measures.first_pcm(0.08, queued=True)
    measures.first_packet(0.09, queued=False)
    found = histograms(measures)
    assert {key: (histogram.count, round(histogram.sum, 6)) for key, histogram in found.items()} == {
        ("speech_first_pcm_seconds", "chatterbox", "no"): (1, 0.05),
        ("speech_first_pcm_seconds", "chatterbox", "yes"): (2, 0.15),
        ("speech_first_packet_seconds", "chatterbox", "no"): (1, 0.09),
        ("speech_first_packet_seconds", "chatterbox", "yes"): (0, 0),
    }


def test_the_bounds_tell_what_is_asked_of_them() -> None:
    """One packet, the figure to keep, and what a caller takes for a dead line."""
    assert {0.02, 0.2, 2.0} <= set(BOUNDS_S)
    measures = SpeechMeasures("x")
    for seconds in (0.199, 0.2, 0.201):
        measures.first_packet(seconds, queued=False)
    counts = histograms(measures)["speech_first_packet_seconds", "x", "no"].cumulative()
    assert counts[BOUNDS_S.index(0.2)] == 2
    assert counts[-1] == 3
