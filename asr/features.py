"""Log-mel filterbank features as Kaldi computes them (Povey et al. 2011), whole or streamed by one `step`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asr.audio import HOP, SAMPLE_RATE, WINDOW
from asr.errors import ConfigError

__all__ = ["FeaturesConfig", "LogMel", "LogMelState"]

FFT = 512
LEFT = WINDOW - HOP  # samples of the past that a frame sees beyond its own hop
PREEMPHASIS = 0.97
POVEY_POWER = 0.85
ENERGY_FLOOR = float(np.finfo(np.float32).eps)
DC_BLOCK = math.gcd(WINDOW, HOP)
CPU_BLOCK = 256  # frames computed at once: as many as a core's cache holds; memory stays flat for any length
GPU_BLOCK = 65_536
MEL_ROWS = 8


@dataclass(frozen=True)
class FeaturesConfig:
    """`bins` triangles from `low_hz` to `high_hz`; a `high_hz` of 0 or less counts down from 8000 Hz.

    `normalize`: the mean of a corpus is taken away and the rest scaled; both stand among the model's weights.
    """

    bins: int = 80
    low_hz: float = 20.0
    high_hz: float = -400.0
    normalize: bool = False


@dataclass(frozen=True)
class LogMelState:
    """left: (B, 240), the samples that the next frames still see."""

    left: Tensor


class LogMel(nn.Module):
    """Kaldi's `fbank` with its defaults, dither off, for samples in [-1, 1] at 16 kHz.

    A frame is 25 ms that end with its 10 ms hop: frame i sees samples [160 i - 240, 160 i + 160),
    and samples before the stream are zero. That is Kaldi's `snip_edges=True` on audio that has 240
    zeros put before it, so S samples give S // 160 frames and no frame looks into the future.

    Per frame: the mean is taken away, then pre-emphasis, the Povey window, power spectrum,
    triangles on the mel scale, logarithm of no less than FLT_EPSILON.

    The arithmetic is float64 whatever the module's dtype (`.double()`, `.bfloat16()`, autocast), which only
    says what comes out. A float32 spectrum is wrong by over 1e-3 where a silent band lies beside a loud one
    (Kaldi's own is), and its last bits depend on how many frames are computed at once. Float64 has neither
    fault, for 0.04 % of real time more on one core.

    Raises ConfigError if the configuration's fields give no filterbank.
    """

    window: Tensor
    mel: Tensor
    result: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: FeaturesConfig | None = None) -> None:
        super().__init__()
        self.config = config or FeaturesConfig()
        self.bins = self.config.bins
        self._tables = {"window": _povey_window(), "mel": _mel_matrix(self.config)}
        for name, table in self._tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.register_buffer("result", torch.empty(0), persistent=False)  # only its dtype and device matter
        if self.config.normalize:
            self.register_buffer("mean", torch.zeros(self.bins))
            self.register_buffer("scale", torch.ones(self.bins))
        self._restore_tables()

    def init_state(self, batch: int) -> LogMelState:
        """The state of `batch` streams that have not begun: silence."""
        dtype = torch.promote_types(self.result.dtype, torch.float32)
        return LogMelState(torch.zeros(batch, LEFT, dtype=dtype, device=self.result.device))

    def step(self, x: Tensor, state: LogMelState) -> tuple[Tensor, LogMelState]:
        """x: (B, S) samples, S a multiple of 160 -> features (B, S // 160, bins), state.

        On a CPU the frames do not depend, to the bit, on how a stream is cut into steps or which others it is
        batched with. Raises ValueError if S is not a whole number of hops.
        """
        if x.shape[1] % HOP:
            raise ValueError(f"LogMel.step takes a multiple of {HOP} samples, not {x.shape[1]}")
        x = torch.cat([state.left, x.to(state.left.dtype)], dim=1)
        state = LogMelState(x[:, x.shape[1] - LEFT :].clone())
        batch, frames = x.shape[0], x.shape[1] // HOP - 1
        y = torch.empty(batch, 0, self.bins, dtype=self.result.dtype, device=x.device)
        size = max(1, (CPU_BLOCK if x.device.type == "cpu" else GPU_BLOCK) // batch)
        with torch.autocast(x.device.type, enabled=False):
            blocks = [
                self._log_mel(x[:, HOP * i : HOP * min(i + size, frames) + LEFT]).to(y.dtype)
                for i in range(0, frames, size)
            ]
        return self.normalize(torch.cat([y, *blocks], dim=1)), state

    def normalize(self, x: Tensor) -> Tensor:
        """(B, T, bins), by the corpus' mean and scale if the model has them."""
        return (x - self.mean) * self.scale if self.config.normalize else x

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S) -> (B, S // 160, bins): `step` from `init_state`, without the last part of a hop."""
        whole = x.shape[1] // HOP * HOP
        return self.step(x[:, :whole], self.init_state(x.shape[0]))[0]

    def _log_mel(self, x: Tensor) -> Tensor:
        # Pre-emphasis is done once on the signal, not frame by frame. It lets (1 - 0.97) of the frame's mean
        # through, which is taken away afterwards. Kaldi treats a frame's first sample apart, but there the
        # Povey window is zero; so 399 samples are enough, and the result is exact.
        x = x.to(self.window.dtype)
        y = x[:, 1:] - PREEMPHASIS * x[:, :-1]
        sums = x.reshape(x.shape[0], x.shape[1] // DC_BLOCK, DC_BLOCK).sum(2)
        sums = sums.unfold(1, WINDOW // DC_BLOCK, HOP // DC_BLOCK).sum(2, keepdim=True)
        frames = y.unfold(1, WINDOW - 1, HOP) * self.window
        frames = torch.addcmul(frames, sums, self.window, value=-(1 - PREEMPHASIS) / WINDOW)
        spectrum = torch.fft.rfft(frames, n=FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        # Matrix products take rows in groups; those that are left over are summed in another order, and a single one
        # by threads. Whole groups give each row the same sums wherever it stands.
        power = nn.functional.pad(power, (0, 0, 0, -power.shape[1] % MEL_ROWS))
        mel = torch.matmul(power, self.mel)[:, : frames.shape[1]]
        return mel.clamp(min=ENERGY_FLOOR).log()

    def _restore_tables(self) -> None:
        device = self.result.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        for name, table in self._tables.items():
            setattr(self, name, torch.from_numpy(table).to(dtype=dtype, device=device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        # Changes of device and dtype come through here. The tables are written anew, not converted: neither
        # `.float().double()` leaves rounded ones nor `to_empty` (a model built on the meta device) garbage.
        for name in self._tables:
            setattr(self, name, self.result.new_empty(0))
        super()._apply(fn, recurse)
        self._restore_tables()
        return self


def _povey_window() -> NDArray[np.float64]:
    """(399,): a Hann window to the power 0.85, without its first sample, which is zero."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / (WINDOW - 1) * np.arange(1, WINDOW))
    return np.asarray(np.maximum(hann, 0.0) ** POVEY_POWER)


def _mel_matrix(config: FeaturesConfig) -> NDArray[np.float64]:
    """(257, bins): triangles that are straight on the mel scale, 1127 ln(1 + f / 700)."""
    nyquist = SAMPLE_RATE / 2
    high = config.high_hz if config.high_hz > 0 else nyquist + config.high_hz
    if config.bins < 1:
        raise ConfigError(f"features.bins is {config.bins}: it must be at least 1 (80 is usual)")
    if not 0 <= config.low_hz < high <= nyquist:
        raise ConfigError(
            f"features: low_hz {config.low_hz:g} and high_hz {config.high_hz:g} (that is {high:g} Hz) must "
            f"satisfy 0 <= low < high <= {nyquist:g}"
        )
    edges = np.linspace(_mel(np.float64(config.low_hz)), _mel(np.float64(high)), config.bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
    matrix = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    matrix[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    if not matrix.any(axis=0).all():
        raise ConfigError(
            f"features.bins is {config.bins}: some filters between {config.low_hz:g} and {high:g} Hz are "
            f"narrower than the {SAMPLE_RATE / FFT:g} Hz between spectral lines; use fewer bins"
        )
    return np.asarray(matrix)


def _mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hz / 700.0))
