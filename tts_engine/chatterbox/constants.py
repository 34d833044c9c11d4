"""Numbers that the released models agree on (chatterbox-tts 0.1.7: t3_config.py, s3gen.py, s3tokenizer.py)."""

from __future__ import annotations

START_TOKEN = 6561
"Speech token that T3 begins after."

STOP_TOKEN = 6562
"Speech token that ends T3's output."

SPEECH_TOKENS = 6561
"Tokens 0 to 6560 are sound; what T3 gives beyond is dropped before the flow."

SILENCE_TOKEN = 4299
TRAILING_SILENCE_TOKENS = 3
"Appended to every utterance."

TOKEN_RATE = 25  # speech tokens a second
SAMPLE_RATE = 24000  # Hz
MEL_BINS = 80
FRAMES_PER_TOKEN = 2
SAMPLES_PER_FRAME = 480
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * SAMPLES_PER_FRAME

LOOK_AHEAD_TOKENS = 3
"How far the flow's encoder looks ahead: the last tokens of an unfinished utterance are context only."

HARMONICS = 9
"Sines of the vocoder's source: the fundamental and eight overtones."

SPEAKER_EMBEDDING = 256  # T3's, of the voice encoder
X_VECTOR = 192  # the flow's, of CAMPPlus
MAX_PROMPT_TOKENS = 375
"Speech tokens of the voice that T3 is prompted with: 15 s."
MAX_FLOW_PROMPT_TOKENS = 250
"And the flow: 10 s."
