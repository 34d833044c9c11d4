"""From the vocoder's 24 kHz to telephone PCM, for a packed batch: the CPU's resampler as a polyphase FIR filter.

soxr's filter is linear and repeats with the ratio's period, so its answers to a few impulses are all there is to know
(measured: to 6e-8, float32's rounding in its Fourier transforms). They are taken from soxr itself, once. Output m of
L/M x 24 kHz reads the inputs around m M / L, delay compensated, zeros before and behind the signal, as soxr does; taps
that could not add up to half a step of 16 bits are cut off. At 8 kHz 525 taps are left, 11 ms on either side; at
16 kHz two phases of 269.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tts_engine.chatterbox.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from tts_engine.chatterbox.packing import row_of
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.resample import FULL_SCALE, Resampler

if TYPE_CHECKING:
    from tts_engine.chatterbox.windows import SpeechState, Windows

RATES = (8000, 16000, SAMPLE_RATE)
"Hz."
TAIL_SAMPLES = 576
"Samples of the past that a speech slot keeps: more than any of the filters reads."

_LEAST_TAP = 2.0**-20
_IMPULSE_AT = 3000
_GROUP = 32
"Periods of outputs that the plain path makes in one row of its matrix product."


@functools.cache
def impulse_response(sample_rate: int) -> tuple[int, npt.NDArray[np.float32]]:
    """The filter of soxr from 24 kHz to `sample_rate` = L/M x 24 kHz: `first`, taps (L, K) float32.

    Output m is the sum over k of taps[m % L, k] x[m M // L + first + k].
    """
    ratio = Fraction(sample_rate, SAMPLE_RATE)
    up, down = ratio.numerator, ratio.denominator
    if ratio == 1:
        return 0, np.ones((1, 1), np.float32)
    responses: list[dict[int, float]] = [{} for _ in range(up)]
    for at in range(_IMPULSE_AT, _IMPULSE_AT + down):
        impulse = np.zeros(2 * _IMPULSE_AT, np.float32)
        impulse[at] = 1.0
        for m, value in enumerate(Resampler(SAMPLE_RATE, sample_rate).process(impulse, final=True).tolist()):
            responses[m % up][at - m * down // up] = value
    heard = [k for response in responses for k, value in response.items() if abs(value) >= _LEAST_TAP]
    first, last = min(heard), max(heard)
    taps = [[response[k] for k in range(first, last + 1)] for response in responses]
    return first, np.array(taps, np.float32)


class Polyphase:
    """The filter to one rate, on one device. What it keeps of a row's past is in SpeechState.tail."""

    def __init__(self, sample_rate: int, device: torch.device | str = "cpu") -> None:
        """Raises ValueError for a rate that is not in RATES."""
        if sample_rate not in RATES:
            raise ValueError(f"the vocoder's speech can be had at {RATES} Hz, not at {sample_rate}")
        ratio = Fraction(sample_rate, SAMPLE_RATE)
        self.sample_rate = sample_rate
        self.up, self.down = ratio.numerator, ratio.denominator
        self.first, taps = impulse_response(sample_rate)
        self.ahead: int = self.first + len(taps[0]) - 1
        "Samples after its own time that an output waits for."
        self.history: int = len(taps[0]) - 1
        "Samples of the past that it needs."
        if self.history > TAIL_SAMPLES:
            raise ValueError(f"soxr's filter reads {self.history} samples of the past: more than {TAIL_SAMPLES}")
        self.taps = torch.from_numpy(taps).to(device)
        self._bank = torch.from_numpy(self._grouped(taps)).to(device)

    def outputs(self, samples: int, final: bool) -> int:
        """How many output samples exist once `samples` of the utterance are in; with `final` it ends there."""
        if final:
            return (2 * samples * self.up + self.down) // (2 * self.down)
        return max(0, -(-(samples - self.ahead) * self.up // self.down))

    def __call__(
        self,
        wave: Tensor,
        w: Windows,
        state: SpeechState,
        before: Tensor,
        out_before: Tensor,
        out_starts: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """New speech of each row, filtered as one signal with all that its utterance said before.

        wave (480 M,) float32 of the packed windows, of which frames spoken .. until are new; before (R,) int32: samples
        of the utterance in before these, out_before (R,) int32: outputs given before; out_starts (R + 1,) int32:
        the rows' outputs now, `size` of them with the padding. A row has outputs(before + new, final) - out_before: if
        that is more than its samples give, the signal ended and zeros follow.

        Gives PCM (size,) int16, rounded and clipped as to_pcm16 does (padding: 0), and (R,) int32: 1 if a number of the
        row's new speech was NaN or infinite. Updates state.tail.
        """
        new = _New.of(wave, w, state, before)
        if wave.is_cuda and fused_fault() is None:
            from tts_engine.chatterbox.kernels import fir  # noqa: PLC0415  only where there is Triton

            pcm = fir.polyphase(wave, w, state.tail, before, out_before, out_starts, size, self)
        else:
            pcm = self.plain(new, out_before, out_starts, size)
        if self.history:
            rows, tail = torch.arange(len(before), device=wave.device)[:, None], state.tail.shape[1]
            kept = torch.arange(-tail, 0, device=wave.device)
            state.tail[w.slot.long()] = new.signal(new.end[:, None] + kept, rows)
        return pcm, _broken(wave, w)

    def plain(self, new: _New, out_before: Tensor, out_starts: Tensor, size: int) -> Tensor:
        """The filter without Triton: the rows' signals one after the other, against a banded matrix."""
        rows, up, down = len(out_before), self.up, self.down
        window, stride = self._bank.shape[0], _GROUP * down
        # So far apart that no group of outputs reads two rows: zero times NaN is NaN.
        apart = 3 + -(-self.taps.shape[1] // down) + _GROUP
        periods = size // up + (rows + 1) * apart + _GROUP
        period_starts = out_starts // up + apart * torch.arange(rows + 1, device=out_starts.device)
        first_period = out_before // up

        row = row_of(down * period_starts, periods * down + window).clamp(max=rows - 1)
        at = torch.arange(len(row), device=row.device) + down * (first_period - period_starts[:-1])[row] + self.first
        made = torch.mm(new.signal(at, row).unfold(0, window, stride), self._bank).view(-1)

        row = row_of(out_starts, size)
        used, row = row < rows, row.clamp(max=rows - 1)
        m = torch.arange(size, device=row.device) - out_starts[row] + out_before[row]
        place = (period_starts[row] + m // up - first_period[row]) * up + m % up
        samples = torch.where(used, made[place], 0.0)
        scaled = torch.nan_to_num(samples * FULL_SCALE).round_()
        return scaled.clamp_(-FULL_SCALE - 1, FULL_SCALE).to(torch.int16)

    def _grouped(self, taps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(window, G L): a window of input to the outputs of G periods, each tap where its output reads."""
        up, down, length = self.up, self.down, taps.shape[1]
        outputs = _GROUP * up
        bank = np.zeros(((outputs - 1) * down // up + length, outputs), np.float32)
        for m in range(outputs):
            bank[m * down // up :, m][:length] = taps[m % up]
        return bank


class _New:
    """Each row's utterance as far as it is held: the tail of the past, then the new speech; zeros around."""

    def __init__(self, wave: Tensor, tail: Tensor, slot: Tensor, offset: Tensor, before: Tensor, end: Tensor) -> None:
        self._wave = wave
        self._tail = tail
        self._slot = slot
        self._offset = offset
        self._before = before
        self.end = end
        "(R,): samples of the utterance, the new ones included."

    @classmethod
    def of(cls, wave: Tensor, w: Windows, state: SpeechState, before: Tensor) -> _New:
        offset = (w.starts[:-1] + w.spoken - w.base) * SAMPLES_PER_FRAME
        end = before + (w.until - w.spoken) * SAMPLES_PER_FRAME
        return cls(wave, state.tail, w.slot.long(), offset, before, end)

    def signal(self, at: Tensor, row: Tensor) -> Tensor:
        """Samples of rows of the batch, by position in the row's utterance; `at` and `row` broadcast."""
        past = at - self._before[row]
        is_new = (past >= 0) & (at < self.end[row])
        held = self._tail.shape[1]
        is_old = (past < 0) & (at >= 0) & (past >= -held)
        new = self._wave[(self._offset[row] + past).clamp(0, len(self._wave) - 1)]
        old = self._tail[self._slot[row], (held + past).clamp(0, held - 1)]
        return torch.where(is_new, new, torch.where(is_old, old, 0.0))


def _broken(wave: Tensor, w: Windows) -> Tensor:
    """(R,) int32: 1 if a number of the row's frames spoken .. until is NaN or infinite."""
    frames = wave.view(-1, SAMPLES_PER_FRAME)
    row, frame, used = w.places(len(frames))
    new = used & (frame >= w.spoken[row]) & (frame < w.until[row])
    # Speech is within 1: the sum is finite if all are.
    broken = new & ~frames.sum(1).isfinite()
    count = torch.zeros(len(w.slot), dtype=torch.int32, device=wave.device)
    return count.index_add_(0, row, broken.int()).clamp_(max=1)
