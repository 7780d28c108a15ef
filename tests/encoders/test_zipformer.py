from __future__ import annotations

import pytest
import torch

from asr.encoders import Chunk, Zipformer, ZipformerConfig
from asr.encoders.regularizers import Balancer, Schedule, Whiten, limit_gradient
from asr.errors import ConfigError
from asr.heads import CTCConfig, TransducerConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from models import ENCODERS


@pytest.mark.parametrize(
    ("size", "transducer", "ctc"), [("s", 23.3, 22.1), ("m", 65.6, 64.3), ("l", 148.4, 147.0)]
)
def test_parameter_counts_are_those_of_the_paper(size: str, transducer: float, ctc: float) -> None:
    """Table 2 of Yao et al. 2023, for 500 tokens, in millions."""
    tokenizer = Tokenizer.train(["".join(map(chr, range(0x4E00, 0x4E00 + 499)))], kind="characters")
    assert tokenizer.size == 500
    encoder = ZipformerConfig(size=size, causal=False)  # type: ignore[arg-type]

    def millions(**heads: TransducerConfig | CTCConfig | None) -> float:
        model = Model(ModelConfig(encoder=encoder, **heads), tokenizer)  # type: ignore[arg-type]
        return sum(p.numel() for p in model.parameters()) / 1e6

    assert millions(transducer=TransducerConfig(), ctc=None) == pytest.approx(transducer, abs=0.06)
    assert millions(transducer=None, ctc=CTCConfig()) == pytest.approx(ctc, abs=0.06)


def test_a_step_that_is_not_whole_chunks() -> None:
    encoder = Zipformer(ENCODERS["zipformer"])
    chunk = encoder.chunk_sizes[0]
    with pytest.raises(ValueError, match="whole chunks"):
        encoder.step(torch.zeros(1, 30, 80), torch.tensor([30]), encoder.init_state(1, chunk), chunk)


@pytest.mark.parametrize("chunk", [Chunk(2, 8), Chunk(8, 6), Chunk(9, 16)])
def test_a_chunk_that_the_slowest_stack_cannot_keep(chunk: Chunk) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.chunks"):
        ZipformerConfig(chunks=(chunk,))


def test_a_configuration_for_too_few_stacks() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.dims: give 6 numbers"):
        ZipformerConfig(dims=(192, 256))


def test_everything_gets_a_gradient() -> None:
    torch.manual_seed(0)
    encoder = Zipformer(ENCODERS["zipformer"]).train()
    encoder.set_batch_count(20_000)
    for chunk in encoder.chunk_sizes:
        y, _ = encoder(torch.randn(3, 150, 80), torch.tensor([150, 100, 31]), chunk)
        (y * torch.randn_like(y)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_schedule() -> None:
    schedule = Schedule((100.0, 1.0), (200.0, 0.0))
    assert [schedule(x) for x in (0, 100, 150, 200, 1e9)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_balancer_adds_the_gradient_of_its_distance() -> None:
    """Its closed form against autograd of |mean / deviation - range| + |log(rms / range)|, channel by channel."""
    torch.manual_seed(0)
    balancer = Balancer(positive=(0.4, 0.6), absolute=(0.5, 1.0), probability=Schedule((0.0, 1.0))).train()
    mean, rms = 0.2533471031357997, 1.2533141373155001
    x = torch.randn(40, 7, dtype=torch.float64) * torch.tensor([0.1, 0.8, 1.0, 3.0, 1.0, 0.1, 0.9])
    x = (x + torch.tensor([0.0, 0.0, 1.0, 0.0, -2.0, 0.1, 0.0])).requires_grad_()
    weight = torch.randn_like(x)
    (balancer(x) * weight).sum().backward()
    z = x.detach().clone().requires_grad_()
    ratio = z.mean(0) / (z.square().mean(0) - z.mean(0).square()).sqrt()
    size = z.square().mean(0).sqrt()
    distance = (ratio - ratio.clamp(-mean, mean)).abs() + (size.clamp(0.5 * rms, rms) / size).log().abs()
    (direction,) = torch.autograd.grad(distance.sum(), z)
    length = direction.square().mean(0).sqrt()
    expected = weight + weight.abs() * 0.04 * direction / length.where(length > 0, 1.0)
    torch.testing.assert_close(x.grad, expected)
    assert torch.equal(balancer.eval()(x), x)


def test_whiten_lowers_what_it_measures() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 8, dtype=torch.float64) @ torch.diag(
        torch.tensor([4.0, 1, 1, 1, 1, 1, 1, 0.2], dtype=torch.float64)
    )
    module = Whiten(1.0, scale=1.0).train()
    module.probability = 1.0

    def measure(x: torch.Tensor) -> float:
        s = torch.cov(x.T, correction=0)
        return float(8 * (s @ s).trace() / s.trace() ** 2)

    leaf = x.clone().requires_grad_()
    (module(leaf) * 1e-9).sum().backward()
    assert leaf.grad is not None
    step = leaf.grad / leaf.grad.norm()
    assert measure(x - step) < measure(x)


def test_limited_parameter_comes_back() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    limited = limit_gradient(x, 0.0, 1.0)
    assert limited.tolist() == [0.0, 0.5, 1.0]
    (limited * torch.tensor([1.0, 1.0, -1.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-1.0, 1.0, 1.0]  # descent leads back into the range
