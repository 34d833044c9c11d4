"""Sample rate conversion of a whole utterance, piece by piece, and conversion to 16-bit PCM."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

FULL_SCALE = 32767.0

BLOCK_SAMPLES = 4800
"""soxr keeps buffers as long as its longest input for the life of a stream; in blocks it holds little, and is three
times as fast on a sentence of 8 s."""

Samples = npt.NDArray[np.float32]


def to_pcm16(samples: Samples) -> bytes:
    """Float samples, full scale 1.0, as signed 16-bit little-endian PCM: rounded to nearest, clipped, no dither.

    Dither would be lost under the quantisation of G.711, whose steps are far wider.
    """
    scaled = np.rint(samples * FULL_SCALE)
    pcm: bytes = np.clip(scaled, -FULL_SCALE - 1, FULL_SCALE).astype("<i2").tobytes()
    return pcm


class Resampler:
    """Resamples one continuous mono signal that comes in pieces.

    The filter's state runs through all pieces, so the joined output is that of the joined input: no click where
    two pieces meet. The output lags by the filter's delay until flush().
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        """Rates in Hz. Equal rates pass samples through."""
        self._stream = None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32")

    def process(self, samples: Samples, *, final: bool = False) -> Samples:
        """The output samples that `samples` completes; with `final`, also all that was held back.

        Nothing may follow a final piece.
        """
        if self._stream is None:
            return samples
        blocks = [samples[at : at + BLOCK_SAMPLES] for at in range(0, len(samples), BLOCK_SAMPLES)] or [samples]
        resampled = [self._stream.resample_chunk(block) for block in blocks[:-1]]
        resampled.append(self._stream.resample_chunk(blocks[-1], last=final))
        return np.concatenate(resampled)

    def flush(self) -> Samples:
        """End the signal: the output samples held back."""
        return self.process(np.zeros(0, np.float32), final=True)
