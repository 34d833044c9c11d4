from __future__ import annotations

from typing import Any

import pytest

from tts_engine.chatterbox.chunk_policy import EXACT_LEFT_FRAMES, EXACT_RIGHT_FRAMES, ChunkPolicy


def test_targets_grow_and_the_last_size_repeats() -> None:
    policy, tokens, targets = ChunkPolicy(), 0, []
    for chunk in range(6):
        tokens = policy.next_target(chunk, tokens)
        targets.append(tokens)
    assert targets == [20, 45, 95, 195, 295, 395]


def test_a_chunk_that_came_late_counts_from_what_it_saw() -> None:
    assert ChunkPolicy().next_target(1, 33) == 58


def test_the_default_is_exact_and_its_first_chunk_is_80_ms() -> None:
    policy = ChunkPolicy()
    assert (EXACT_LEFT_FRAMES, EXACT_RIGHT_FRAMES) == (15, 20)
    assert policy.exact_joints
    assert policy.known_frames(15) == 24
    assert policy.speakable_frames(15) == 4
    assert policy.speakable_frames(20) == 14
    assert policy.speakable_frames(2) == 0


def test_less_context_is_not_called_exact() -> None:
    assert not ChunkPolicy(left_context_frames=14).exact_joints
    assert not ChunkPolicy(right_context_frames=19).exact_joints


def test_the_flow_s_context_counts_from_what_was_spoken() -> None:
    assert ChunkPolicy().first_context_token(1000) == 0
    policy = ChunkPolicy(max_context_tokens=50)
    assert policy.first_context_token(80) == 0
    assert policy.first_context_token(301) == 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sizes": ()}, "chunk sizes"),
        ({"sizes": (15, 0)}, "chunk sizes"),
        ({"sizes": (13,)}, "gives no sound: it needs at least 14"),
        ({"look_ahead_tokens": -1}, "look_ahead_tokens"),
        ({"left_context_frames": 13}, "left_context_frames must be at least 14"),
        ({"right_context_frames": 13, "crossfade_frames": 0}, "right_context_frames must be at least 14"),
        ({"crossfade_frames": 21}, "crossfade_frames must be 0 to 20"),
        ({"crossfade_frames": -1}, "crossfade_frames"),
        ({"max_context_tokens": -1}, "max_context_tokens"),
    ],
)
def test_a_policy_that_cannot_work_says_why(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChunkPolicy(**given)


def test_the_least_first_chunk_speaks() -> None:
    assert ChunkPolicy(sizes=(14,)).speakable_frames(14) == 2
