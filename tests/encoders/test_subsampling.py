"""Subsampling against torch's convolutions on the whole, padded as each form says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoders import FULL_CONTEXT, Chunk
from asr.encoders import subsampling as module
from asr.encoders.subsampling import Subsampling
from asr.errors import ConfigError
from asr.state import stack

PADDINGS = ["same", "causal", "valid"]
FEATURES, DIM, CHANNELS = 21, 8, 4


def front(factor: Any, padding: Any, separable: bool) -> Subsampling:
    torch.manual_seed(0)
    return Subsampling(
        FEATURES, DIM, channels=CHANNELS, factor=factor, padding=padding, separable=separable
    ).double()


def by_torch(layer: Subsampling, x: Tensor, padding: str) -> Tensor:
    """(B, T, F) -> (B, U, D): convolution, (pointwise), ReLU; zeros in time and in frequency alike."""
    before, after = {"same": (1, 1), "causal": (2, 1), "valid": (0, 0)}[padding]
    y = x[:, None]
    for stage in layer._stages():
        c = stage.convolution
        y = F.conv2d(
            F.pad(y, (before, after, before, after)), c.weight, c.bias, stage.stride, groups=c.groups
        )
        if isinstance(stage.pointwise, torch.nn.Linear):
            y = F.conv2d(y, stage.pointwise.weight[:, :, None, None], stage.pointwise.bias)
        y = y.relu()
    y = layer.project(y.transpose(1, 2).flatten(2))
    return y


@torch.inference_mode()
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("factor", "separable"), [(2, False), (4, False), (4, True), (8, True), (8, False)])
@pytest.mark.parametrize("frames", [97, 100, 104, 111])
def test_the_whole_is_torchs(padding: str, factor: int, separable: bool, frames: int) -> None:
    """NeMo's causal form makes one frame more of zeros behind most utterances; all others are the same."""
    layer = front(factor, padding, separable)
    x = torch.randn(1, frames, FEATURES, dtype=torch.float64)
    y, lens, _ = layer(
        layer.whole(x, FULL_CONTEXT), torch.tensor([frames]), layer.init_state(1), FULL_CONTEXT
    )
    n, expected = int(lens), by_torch(layer, x, padding)
    assert n == layer.frames(frames) == expected.shape[1] - (padding == "causal" and frames % factor != 1)
    torch.testing.assert_close(y[:, :n], expected[:, :n], atol=1e-12, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("factor", "kernels", "strides", "lookahead"),
    [(2, [3, 3], [2, 1], 5), (4, [3, 3], [2, 2], 3), (6, [3, 5], [2, 3], 5), (8, [3] * 3, [2] * 3, 7)],
)
@pytest.mark.parametrize("frames", [95, 96, 97, 98, 99, 100])
def test_espnets_stages(
    factor: int, kernels: list[int], strides: list[int], lookahead: int, frames: int
) -> None:
    """conv2d2, conv2d, conv2d6 and conv2d8; how many frames they make is ESPnet's cut of its mask."""
    layer = front(factor, "valid", False)
    stages = layer._stages()
    assert [stage.convolution.kernel_size for stage in stages] == [(kernel, kernel) for kernel in kernels]
    assert [stage.convolution.stride for stage in stages] == [(stride, stride) for stride in strides]
    assert layer.lookahead == lookahead
    mask = torch.ones(frames)
    for kernel, stride in zip(kernels, strides, strict=True):
        mask = mask[: 1 - kernel : stride]
    x = torch.randn(1, frames, FEATURES, dtype=torch.float64)
    y, lens, _ = layer(
        layer.whole(x, FULL_CONTEXT), torch.tensor([frames]), layer.init_state(1), FULL_CONTEXT
    )
    expected = by_torch(layer, x, "valid")
    assert int(lens) == layer.frames(frames) == expected.shape[1] == len(mask)
    torch.testing.assert_close(y[:, : int(lens)], expected, atol=1e-12, rtol=0)


def test_padded_stages_all_have_stride_2() -> None:
    with pytest.raises(
        ConfigError, match=r"encoder\.subsampling: 6 needs encoder\.subsampling_padding: valid"
    ):
        front(6, "same", False)


STEPS = [*((factor, padding) for factor in (4, 8) for padding in PADDINGS), (2, "valid"), (6, "valid")]


@torch.inference_mode()
@pytest.mark.parametrize(("factor", "padding"), STEPS)
@pytest.mark.parametrize("size", [1, 3])
def test_steps_are_the_whole(factor: int, padding: str, size: int) -> None:
    layer, chunk = front(factor, padding, True), Chunk(size)
    lens = torch.tensor([149, 120, 31, 7])
    x = torch.randn(4, 149, FEATURES, dtype=torch.float64)
    whole, whole_lens, _ = layer(layer.whole(x, chunk), lens, layer.init_state(4), chunk)
    state, outputs, total, at = layer.init_state(4), [], torch.zeros_like(lens), 0
    while at < 149 + layer.lookahead:
        frames = size * factor + (layer.lookahead if at == 0 else 0)
        piece = x[:, at : at + frames]
        piece = F.pad(piece, (0, 0, 0, frames - piece.shape[1]))
        y, y_lens, state = layer(piece, (lens - at).clamp(0, frames), state, chunk)
        assert state.position.tolist() == [state.position[0].item()] * 4
        outputs.append(y)
        total, at = total + y_lens, at + frames
    assert total.tolist() == whole_lens.tolist() == [layer.frames(n) for n in lens.tolist()]
    y = torch.cat(outputs, 1)
    for b, n in enumerate(total.tolist()):
        torch.testing.assert_close(y[b, :n], whole[b, :n], atol=1e-12, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("factor", "padding"), STEPS)
@pytest.mark.parametrize("chunk", [FULL_CONTEXT, Chunk(3)], ids=str)
def test_pieces_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, factor: int, padding: str, chunk: Chunk
) -> None:
    layer = front(factor, padding, padding != "valid")
    lens = torch.tensor([149, 120, 31, 7])
    x = layer.whole(torch.randn(4, 149, FEATURES, dtype=torch.float64), chunk)
    whole, whole_lens, whole_state = layer(x, lens, layer.init_state(4), chunk)
    monkeypatch.setattr(module, "PIECE", 20)
    y, y_lens, state = layer(x, lens, layer.init_state(4), chunk)
    assert y_lens.tolist() == whole_lens.tolist() and y.shape == whole.shape
    assert state.position.tolist() == whole_state.position.tolist()
    for b, n in enumerate(y_lens.tolist()):
        torch.testing.assert_close(y[b, :n], whole[b, :n], atol=1e-12, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_is_invisible(padding: str) -> None:
    layer = front(4, padding, False)
    x = torch.randn(1, 60, FEATURES, dtype=torch.float64)
    for frames in range(7, 30):
        lens = torch.tensor([frames])
        alone, n, _ = layer(layer.whole(x[:, :frames], FULL_CONTEXT), lens, layer.init_state(1), FULL_CONTEXT)
        noisy = torch.cat([x[:, :frames], torch.full_like(x[:, frames:], torch.nan)], 1)
        y, m, _ = layer(layer.whole(noisy, FULL_CONTEXT), lens, layer.init_state(1), FULL_CONTEXT)
        assert n.tolist() == m.tolist()
        torch.testing.assert_close(y[:, : int(n)], alone[:, : int(n)], atol=1e-12, rtol=0)


@torch.inference_mode()
def test_streams_of_different_ages_with_look_ahead() -> None:
    """A stream that begins brings its look-ahead; one that goes on has it waiting."""
    layer, chunk = front(4, "valid", False), Chunk(2)
    assert layer.lookahead == 3
    x = torch.randn(2, 27, FEATURES, dtype=torch.float64)
    whole, _, _ = layer(layer.whole(x, chunk), torch.tensor([27, 27]), layer.init_state(2), chunk)
    _, _, old = layer(x[:1, :11], torch.tensor([11]), layer.init_state(1), chunk)
    piece = torch.stack([F.pad(x[0, 11:19], (0, 0, 0, 3)), x[1, :11]])
    y, lens, _ = layer(piece, torch.tensor([8, 11]), stack([old, layer.init_state(1)]), chunk)
    assert lens.tolist() == [2, 2]
    torch.testing.assert_close(y, torch.stack([whole[0, 2:4], whole[1, :2]]), atol=1e-12, rtol=0)


@torch.inference_mode()
def test_streams_of_different_ages_that_begin_with_less() -> None:
    """A causal front needs but the first input frame of its first stride; nothing is seen of what stands before."""
    layer, chunk = front(8, "causal", True), Chunk(2)
    assert layer.lookahead == -7
    x = torch.randn(2, 25, FEATURES, dtype=torch.float64)
    whole, _, _ = layer(x, torch.tensor([25, 25]), layer.init_state(2), chunk)
    first, lens, old = layer(x[:1, :9], torch.tensor([9]), layer.init_state(1), chunk)
    assert lens.tolist() == [2] and first.shape[1] == 2
    piece = torch.stack([x[0, 9:25], F.pad(x[1, :9], (0, 0, 0, 7), value=torch.nan)])
    y, lens, _ = layer(piece, torch.tensor([16, 9]), stack([old, layer.init_state(1)]), chunk)
    assert lens.tolist() == [2, 2]
    torch.testing.assert_close(first[0], whole[0, :2], atol=1e-12, rtol=0)
    torch.testing.assert_close(y, torch.stack([whole[0, 2:4], whole[1, :2]]), atol=1e-12, rtol=0)


def test_a_step_that_is_not_whole_chunks() -> None:
    layer = front(4, "same", False)
    with pytest.raises(ValueError, match="whole chunks of 16"):
        layer(torch.zeros(1, 20, FEATURES).double(), torch.tensor([20]), layer.init_state(1), Chunk(4))
