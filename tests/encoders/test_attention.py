"""Attention against the definition, written frame by frame; and what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asr.encoders import FULL_CONTEXT, Chunk
from asr.encoders import attention as module
from asr.encoders.attention import Attention, AttentionState, Context
from asr.encoders.positions import Positions, RelativePositions, encodings

DIM, HEADS = 12, 3
CHUNKS = [FULL_CONTEXT, Chunk(4, 8), Chunk(1, 7), Chunk(20, 0), Chunk(10, 30)]


def attention(positions: Positions = "relative") -> Attention:
    torch.manual_seed(0)
    return Attention(DIM, HEADS, positions=positions).double().eval()


def attend(layer: Attention, x: Tensor, lens: Tensor, chunk: Chunk, position: int = 0) -> Tensor:
    at = torch.full((len(x),), position)
    context = Context.of(x, lens, at, chunk, encodings(layer.positions, layer.dim))
    y: Tensor = layer(x, context, layer.init_state(len(x), chunk.left))[0]
    return y


def by_frame(layer: Attention, x: Tensor, chunk: Chunk) -> Tensor:
    """(U, D) -> (U, D). Dai et al. 2019, section 3.3: a score has four terms."""
    frames = len(x)
    size = chunk.frames or frames
    query, key, value = (part.view(frames, HEADS, -1) for part in layer.project_in(x).chunk(3, -1))
    rate = 10_000.0 ** -(torch.arange(0, DIM, 2, dtype=x.dtype) / DIM)
    rows = []
    for i in range(frames):
        first = i // size * size
        seen = range(max(0, first - chunk.left), min(frames, first + size))
        scores = []
        for j in seen:
            if layer.positions == "relative":
                angle = (i - j) * rate
                distance = torch.stack([angle.sin(), angle.cos()], 1).flatten()
                distance = layer.project_positions(distance).view(HEADS, -1)
                content = ((query[i] + layer.content_bias[:, 0]) * key[j]).sum(1)
                scores.append(content + ((query[i] + layer.position_bias[:, 0]) * distance).sum(1))
            else:
                scores.append((query[i] * key[j]).sum(1))
        weights = (torch.stack(scores) * (DIM // HEADS) ** -0.5).softmax(0)
        rows.append((weights[..., None] * value[seen.start : seen.stop]).sum(0).flatten())
    y: Tensor = layer.project_out(torch.stack(rows))
    return y


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["relative", "none"])
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize(("queries", "scores"), [(128, 1 << 20), (8, 1 << 20), (8, 64), (128, 100)])
def test_frame_by_frame(
    monkeypatch: pytest.MonkeyPatch, positions: Positions, chunk: Chunk, queries: int, scores: int
) -> None:
    """However the queries are put into blocks."""
    monkeypatch.setattr(module, "QUERIES", queries)
    monkeypatch.setattr(module, "SCORES", scores)
    layer = attention(positions)
    x, lens = torch.randn(2, 40, DIM, dtype=torch.float64), torch.tensor([40, 23])
    y = attend(layer, x, lens, chunk)
    for b, n in enumerate(lens.tolist()):
        torch.testing.assert_close(y[b, :n], by_frame(layer, x[b, :n], chunk), atol=1e-12, rtol=0)


def shifted_as_espnet_did(scores: Tensor) -> Tensor:
    """(..., n, n): a column of zeros in front, and the whole read as rows that are one longer."""
    frames = scores.shape[-1]
    padded = torch.cat([scores.new_zeros(*scores.shape[:-1], 1), scores], -1)
    return padded.flatten(-2).unflatten(-1, (frames + 1, frames))[..., 1:, :]


@torch.inference_mode()
@pytest.mark.parametrize("scores", [1 << 20, 200])
def test_legacy_positions(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    """The published shift of a whole matrix, utterance by utterance; ours in blocks, with padding beside it."""
    monkeypatch.setattr(module, "SCORES", scores)
    layer = attention("legacy")
    x, lens = torch.randn(2, 40, DIM, dtype=torch.float64), torch.tensor([40, 23])
    y = attend(layer, x, lens, FULL_CONTEXT)
    for b, n in enumerate(lens.tolist()):
        query, key, value = (layer._split(part) for part in layer.project_in(x[b, :n]).chunk(3, -1))
        rate = 10_000.0 ** -(torch.arange(0, DIM, 2, dtype=x.dtype) / DIM)
        angle = torch.arange(4999, 4999 - n, -1)[:, None] * rate
        distances = layer._split(
            layer.project_positions(torch.stack([angle.sin(), angle.cos()], 2).flatten(1))
        )
        position = shifted_as_espnet_did((query + layer.position_bias) @ distances.mT)
        weights = (((query + layer.content_bias) @ key.mT + position) * query.shape[-1] ** -0.5).softmax(-1)
        expected = layer.project_out((weights @ value).transpose(0, 1).flatten(1))
        torch.testing.assert_close(y[b, :n], expected, atol=1e-12, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["relative", "none"])
def test_a_frame_with_nothing_to_see_is_a_number(positions: Positions) -> None:
    layer = attention(positions)
    x = torch.randn(2, 8, DIM, dtype=torch.float64)
    assert attend(layer, x, torch.tensor([8, 0]), Chunk(4, 8)).isfinite().all()


@torch.inference_mode()
def test_a_cache_from_before_the_stream_is_not_read() -> None:
    """A stream that is three frames old sees three of its eight cached frames, whatever is in the others."""
    layer, chunk = attention(), Chunk(4, 8)
    x = torch.randn(1, 4, DIM, dtype=torch.float64)
    cache = torch.randn(1, 8, DIM, dtype=torch.float64)
    poison = torch.cat([torch.full_like(cache[:, :5], torch.nan), cache[:, 5:]], 1)
    outputs = []
    for keys in (cache, poison):
        context = Context.of(x, torch.tensor([4]), torch.tensor([3]), chunk, RelativePositions(DIM))
        y, state = layer(x, context, AttentionState(keys, keys))
        assert state.keys.shape == (1, 8, DIM) and state.keys[:, 1:].isfinite().all()
        outputs.append(y)
    assert torch.equal(*outputs)


@torch.inference_mode()
def test_the_tenth_hour_is_as_the_first_second() -> None:
    layer, chunk = attention(), Chunk(4, 8)
    x, lens = torch.randn(1, 4, DIM, dtype=torch.float64), torch.tensor([4])
    assert torch.equal(attend(layer, x, lens, chunk, 8), attend(layer, x, lens, chunk, 10 * 3600 * 25))


class Largest(TorchDispatchMode):
    """The number of values in the largest tensor that any operation makes."""

    values = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.values = max(self.values, one.numel())
        return result


def largest(frames: int, chunk: Chunk) -> int:
    layer = Attention(8, 2).eval()
    x = torch.randn(1, frames, 8)
    with torch.inference_mode(), Largest() as mode:
        attend(layer, x, torch.tensor([frames]), chunk)
    return mode.values


@pytest.mark.parametrize("chunk", [Chunk(16, 64), Chunk(1, 70), Chunk(2048, 4096)], ids=str)
def test_memory_is_linear_in_length(chunk: Chunk) -> None:
    """Ten minutes are 15000 frames: nothing larger than projections of them, or than one block's scores."""
    frames = 7 * 2048 + 512 if chunk.frames < 2048 else 8 * 2048
    assert largest(frames, chunk) <= max(3 * 8 * frames, 3 * module.SCORES)
    if chunk.frames < 2048:
        assert largest(frames, chunk) == 3 * 8 * frames


def test_full_context_makes_no_square() -> None:
    frames = 15_000
    assert largest(frames, FULL_CONTEXT) <= 3 * module.SCORES < frames**2 / 50


def test_no_mask_where_all_is_seen() -> None:
    x = torch.randn(2, 16, DIM)
    whole = Context.of(x, torch.tensor([16, 16]), torch.tensor([0, 0]), FULL_CONTEXT)
    step = Context.of(x, torch.tensor([16, 16]), torch.tensor([64, 80]), Chunk(16, 64))
    young = Context.of(x, torch.tensor([16, 16]), torch.tensor([64, 0]), Chunk(16, 64))
    assert all(block.mask is None for block in (*whole.blocks, *step.blocks)) and step.stale is None
    assert all(block.mask is not None for block in young.blocks) and young.stale is not None


def test_decoding_leaves_nothing_that_training_cannot_use() -> None:
    layer, positions = attention(), RelativePositions(DIM)
    x, lens, position = torch.randn(1, 8, DIM, dtype=torch.float64), torch.tensor([8]), torch.tensor([0])
    for inference in (True, False):
        with torch.inference_mode(inference):
            y, _ = layer(x, Context.of(x, lens, position, Chunk(4, 8), positions), layer.init_state(1, 8))
    y.sum().backward()
    assert layer.project_positions.weight.grad is not None


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide 12"):
        Attention(12, 5)
