"""The linear layers of inference against torch's."""

from __future__ import annotations

import pytest
import torch

from asr import native
from asr.native.linear import LinearWeights, linear, multiplies_bytes
from asr.native.memory import Arena, keep_freed_memory

pytestmark = pytest.mark.skipif(not native.available(), reason="without the C library there are none")


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 13, 16, 29, 200])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 31), (64, 32), (100, 75)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_torchs(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer, x = torch.nn.Linear(inputs, outputs, bias=bias), torch.randn(rows, inputs)
    arena = Arena(LinearWeights.room(layer))
    with torch.no_grad():
        torch.testing.assert_close(linear(LinearWeights.of(layer, arena), x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not multiplies_bytes(), reason="needs AVX-512 VNNI")
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13, 16, 29, 200])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 31), (64, 32), (102, 75)])
def test_bytes_are_exactly_what_they_stand_for(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(rows)
    layer, x = torch.nn.Linear(inputs, outputs), torch.randn(rows, inputs) * torch.rand(rows, 1)
    arena = Arena(LinearWeights.room(layer))
    got = linear(LinearWeights.of(layer, arena, int8=True), x)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(1, keepdim=True) / 127
        return (x / scale).round() * scale

    weight, bias = layer.weight.detach(), layer.bias.detach()
    expected = torch.nn.functional.linear(rounded(x).double(), rounded(weight).double(), bias.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    assert (got - torch.nn.functional.linear(x, weight, bias)).abs().max() < 0.05


def test_rows_of_another_width_are_refused() -> None:
    layer = torch.nn.Linear(4, 3)
    arena = Arena(LinearWeights.room(layer))
    with pytest.raises(ValueError, match="not rows of 4"):
        linear(LinearWeights.of(layer, arena), torch.zeros(2, 5))


def test_an_arena_holds_what_there_is_room_for() -> None:
    xs = [torch.randn(3, 5), torch.randn(1), torch.randn(17, 2, 2)]
    arena = Arena(Arena.room(*(x.shape for x in xs)))
    kept = [arena.keep(x) for x in xs]
    assert all(torch.equal(a, b) and a.data_ptr() % 64 == 0 for a, b in zip(kept, xs, strict=True))


def test_memory_is_kept_or_it_says_that_it_is_not() -> None:
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() == keep_freed_memory()
