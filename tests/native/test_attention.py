"""The attention kernels against plain torch in float64: results and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr import native
from asr.native.attention import Seen, attention_values, attention_weights

# batch, chunks, chunk, left, heads, size, position, value
SIZES = [
    (3, 1, 50, 0, 4, 32, 4, 12),
    (2, 3, 8, 16, 2, 32, 4, 12),
    (2, 4, 2, 8, 4, 8, 4, 4),
    (1, 1, 1, 0, 1, 1, 1, 1),
    (2, 2, 37, 5, 3, 20, 3, 40),
    (2, 1, 16, 64, 1, 32, 4, 72),
]
Sizes = tuple[int, int, int, int, int, int, int, int]


def seen(sizes: Sizes) -> Seen:
    """Streams of all ages: one that begins here, one older; one that ends in the last chunk, but none that is empty."""
    batch, chunks, chunk, left, *_ = sizes
    begin = torch.tensor([-left, 0, -min(left, 3)][:batch])
    end = torch.tensor([chunks * chunk, (chunks - 1) * chunk + 1, chunks * chunk][:batch])
    return Seen(chunk, left, begin, end)


def tensors(sizes: Sizes) -> tuple[list[Tensor], list[Tensor]]:
    """What has a gradient (x, table, values), and the two caches."""
    batch, chunks, chunk, left, heads, size, position, value = sizes
    generator = torch.Generator().manual_seed(7)
    shapes = (batch, chunks * chunk, heads * (2 * size + position)), (heads * position, left + 2 * chunk)
    x, table, values, keys, before = (
        torch.randn(shape, generator=generator)
        for shape in (*shapes, (batch, chunks * chunk, heads * value), (batch, left, heads * size), (batch, left, heads * value))
    )  # fmt: skip
    return [x.mul_(0.5).requires_grad_(), table.requires_grad_(), values.requires_grad_()], [keys, before]


def attend(given: list[Tensor], caches: list[Tensor], sizes: Sizes) -> list[Tensor]:
    (x, table, values), (keys, before), what = given, caches, seen(sizes)
    names = dict(zip(("heads", "size", "position"), sizes[4:7], strict=True))
    weights, first = attention_weights(x, keys, table, what, **names)
    y = attention_values(values, before, weights, what)
    alone = attention_values(values[..., : sizes[7]], before[..., : sizes[7]], first, what)
    return [weights, first, y, alone]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_results_and_gradients(sizes: Sizes) -> None:
    given, caches = tensors(sizes)
    doubles = [x.detach().double().requires_grad_() for x in given]
    got, want = attend(given, caches, sizes), attend(doubles, [c.double() for c in caches], sizes)
    slopes = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) for i, x in enumerate(got)]
    got += torch.autograd.grad(got, given, slopes)
    want += torch.autograd.grad(want, doubles, [slope.double() for slope in slopes])
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 3e-6 * max(1.0, float(b.detach().abs().max()))


@pytest.mark.skipif(not native.available(), reason="without kernels there is only the plain form")
def test_what_does_not_exist_is_never_read() -> None:
    sizes = SIZES[1]
    given, caches = tensors(sizes)
    clean, what = attend(given, caches, sizes), seen(sizes)
    with torch.no_grad():
        for b in range(2):
            for cache in caches:
                cache[b, : sizes[3] + int(what.begin[b])] = torch.nan
            given[2][b, int(what.end[b]) :] = torch.nan
            given[0][b, int(what.end[b]) :, 2 * 32 : 2 * 2 * 32] = torch.nan
    for a, b in zip(attend(given, caches, sizes), clean, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1, :2], b[1, :2])


def test_a_chunk_that_sees_nothing_yields_numbers() -> None:
    given, caches = tensors(SIZES[1])
    what = Seen(8, 16, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    weights, first = attention_weights(given[0], caches[0], given[1], what, heads=2, size=32, position=4)
    y = attention_values(given[2], caches[1], weights, what)
    (y.sum() + first.sum()).backward()
    assert all(bool(x.isfinite().all()) for x in (weights, first, y, given[0].grad))


def test_threads_change_nothing() -> None:
    given, caches = tensors((3, 2, 60, 30, 4, 32, 4, 12))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = attend(given, caches, (3, 2, 60, 30, 4, 32, 4, 12))
            results.append(y + list(torch.autograd.grad([x.square().sum() for x in y], given)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True)) or not native.available()


def test_shapes_that_do_not_fit_are_refused() -> None:
    (x, table, values), (keys, before) = tensors(SIZES[1])
    what = seen(SIZES[1])
    with pytest.raises(ValueError, match="would fit"):
        attention_weights(x, keys[:, 1:], table, what, heads=2, size=32, position=4)
    with pytest.raises(ValueError, match="distances"):
        attention_weights(x, keys, table[:, 1:], what, heads=2, size=32, position=4)
    weights, _ = attention_weights(x, keys, table, what, heads=2, size=32, position=4)
    with pytest.raises(ValueError, match="weights of"):
        attention_values(values[:, 1:], before, weights, what)
    with pytest.raises(ValueError, match="a cache of"):
        attention_values(values, before[:, 1:], weights, what)
