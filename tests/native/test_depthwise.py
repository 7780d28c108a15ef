"""The depthwise kernels against torch's convolutions: results and all gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asr import native
from asr.native import chunk_causal_convolution, depthwise_7x7, depthwise_convolution

# batch, chunks, chunk, dim, kernel: dims that are no multiple of 16, chunks shorter than the kernel and than the C
# kernel's tile, one chunk, and chunks longer than its segment of 64 frames.
OVER_TIME = [
    (3, 4, 16, 48, 31),
    (2, 5, 2, 20, 15),
    (1, 1, 7, 16, 31),
    (1, 1, 150, 33, 31),
    (2, 3, 65, 5, 3),
    (1, 1, 1, 1, 1),
]
# batch, frames, columns, channels
OVER_BOTH = [(2, 9, 19, 32), (1, 1, 5, 7), (3, 61, 19, 20), (1, 70, 1, 48), (1, 30, 36, 16), (1, 20, 50, 8)]


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def over_time(
    batch: int, chunks: int, chunk: int, dim: int, kernel: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, list[Tensor]]:
    """The past, and all that has a gradient."""
    reach = kernel // 2
    shapes = (batch, chunks * chunk, dim), (dim, 1, reach + 1), (dim,), (dim, 1, kernel), (dim,), (dim, chunk)
    past = torch.randn(batch, dim, reach, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return past, parameters(*shapes, dtype=dtype)


def expected_over_time(past: Tensor, chunk: int, given: list[Tensor]) -> Tensor:
    """Chunk by chunk, with nothing but conv1d."""
    x, past_weight, past_bias, weight, bias, edge = given
    dim, reach, x = x.shape[2], weight.shape[2] // 2, x.transpose(1, 2)
    parts = [F.conv1d(part, weight, bias, padding=reach, groups=dim) * edge for part in x.split(chunk, 2)]
    return (torch.cat(parts, 2) + F.conv1d(torch.cat([past, x], 2), past_weight, past_bias, groups=dim)).mT


def expected_over_both(x: Tensor, left: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = torch.cat([left, x], 1).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, padding=(0, 3), groups=len(weight)).permute(0, 2, 3, 1)


def check(call: Callable[..., Tensor], exact: Callable[..., Tensor], given: list[Tensor]) -> None:
    """float32 `call` against `exact` in float64, relative to the size of what is compared."""
    doubles = [x.detach().double().requires_grad_() for x in given]
    y, expected = call(*given), exact(*doubles)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    results = [y, *torch.autograd.grad(y, given, dy)]
    for got, want in zip(
        results, [expected, *torch.autograd.grad(expected, doubles, dy.double())], strict=True
    ):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 2e-6 * max(1.0, float(want.detach().abs().max()))


@pytest.mark.parametrize("sizes", OVER_TIME)
def test_chunk_causal_convolution(sizes: tuple[int, int, int, int, int]) -> None:
    past, given = over_time(*sizes)
    check(
        lambda x, *rest: chunk_causal_convolution(x, past, *rest, chunk=sizes[2]),
        lambda *given: expected_over_time(past.double(), sizes[2], list(given)),
        given,
    )


@pytest.mark.parametrize("sizes", OVER_TIME)
def test_depthwise_convolution(sizes: tuple[int, int, int, int, int]) -> None:
    _, (x, _, _, weight, bias, _) = over_time(*sizes)
    chunk, reach = sizes[2], sizes[4] // 2

    def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = x.transpose(1, 2).split(chunk, 2)
        return torch.cat(
            [F.conv1d(part, weight, bias, padding=reach, groups=len(weight)) for part in parts], 2
        ).mT

    check(lambda *given: depthwise_convolution(*given, chunk=chunk), exact, [x, weight, bias])


@pytest.mark.parametrize("sizes", OVER_BOTH)
def test_depthwise_7x7(sizes: tuple[int, int, int, int]) -> None:
    batch, frames, columns, channels = sizes
    shapes = (batch, frames + 3, columns, channels), (channels, 1, 7, 7), (channels,)
    left = torch.randn(batch, 3, columns, channels)
    check(
        lambda x, *rest: depthwise_7x7(x, left, *rest),
        lambda x, *rest: expected_over_both(x, left.double(), *rest),
        parameters(*shapes),
    )


def test_other_types_use_torch() -> None:
    past, given = over_time(2, 2, 3, 3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, *rest: chunk_causal_convolution(x, past, *rest, chunk=3), tuple(given)
    )
    x, weight, bias = parameters((1, 5, 2, 2), (2, 1, 7, 7), (2,), dtype=torch.float64)
    left = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: depthwise_7x7(given[0], left, *given[1:]), (x, weight, bias)
    )


def test_any_layout_without_gradient() -> None:
    past, given = over_time(2, 3, 16, 24, 15)
    x = given[0].detach().mT.contiguous().mT
    with torch.inference_mode():
        y = chunk_causal_convolution(x, past.mT.contiguous().mT, *given[1:], chunk=16)
    torch.testing.assert_close(y, expected_over_time(past, 16, given), rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    past, given = over_time(1, 2, 4, 3, 5)
    with pytest.raises(ValueError, match="8 frames are not whole chunks of 3"):
        chunk_causal_convolution(given[0], past, *given[1:], chunk=3)
    with pytest.raises(ValueError, match="edge_scale is"):
        chunk_causal_convolution(given[0], past, *given[1:], chunk=8)
    with pytest.raises(ValueError, match="past_weight is"):
        chunk_causal_convolution(given[0], past[..., 1:], *given[1:], chunk=4)
    x, left, weight, bias = parameters((1, 9, 5, 4), (1, 4, 5, 4), (4, 1, 7, 7), (4,))
    with pytest.raises(ValueError, match="left is"):
        depthwise_7x7(x, left, weight, bias)
    with pytest.raises(ValueError, match="3 frames"):
        depthwise_7x7(x[:, :3], left[:, :3], weight, bias)


def test_threads_change_nothing() -> None:
    past, given = over_time(3, 10, 16, 80, 31)
    image = parameters((3, 43, 19, 40), (40, 1, 7, 7), (40,))
    left, before = torch.randn(3, 3, 19, 40), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y, z = (
                chunk_causal_convolution(given[0], past, *given[1:], chunk=16),
                depthwise_7x7(image[0], left, *image[1:]),
            )
            gradients = torch.autograd.grad(y.square().sum(), given) + torch.autograd.grad(
                z.square().sum(), image
            )
            results.append([y, z, *gradients])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True)) or not native.available()


def test_tracing_sees_torch_operations() -> None:
    class Block(torch.nn.Module):
        def forward(self, x: Tensor, left: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return depthwise_7x7(x, left, weight, bias)

    given = [x.detach() for x in parameters((1, 9, 5, 4), (1, 3, 5, 4), (4, 1, 7, 7), (4,))]
    exported = torch.export.export(Block(), tuple(given)).module()
    torch.testing.assert_close(exported(*given), depthwise_7x7(*given), rtol=1e-4, atol=1e-4)
