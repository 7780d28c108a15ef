"""What the transducer head is trained with, and its decoding with durations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr import config as configuration
from asr.errors import ConfigError
from asr.heads import BLANK, CTC, CTCConfig, Emission, TDTConfig, Transducer, TransducerConfig
from asr.losses.transducer import full_loss, tdt_loss
from asr.state import stack, unstack
from models import PREDICTORS

VOCABULARY = 7
PREDICTOR = replace(PREDICTORS["lstm"], dropout=0.0)


def head_of(**options: Any) -> Transducer:
    torch.manual_seed(0)
    return Transducer(TransducerConfig(predictor=PREDICTOR, joiner_dim=8, **options), 6, VOCABULARY)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(1)
    y = torch.randn(3, 12, 6, generator=make)
    return (
        y,
        torch.tensor([12, 9, 5]),
        torch.randint(1, VOCABULARY, (3, 4), generator=make),
        torch.tensor([4, 0, 2]),
    )


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_losses_are_of_what_the_joiner_says(activation: Any) -> None:
    y, y_lens, *tokens = batch()
    for options in ({}, {"fastemit": 0.01}, {"tdt": TDTConfig(durations=(0, 1, 2), sigma=0.1, omega=0.2)}):
        head = head_of(loss="full", joiner_activation=activation, **options).eval()
        first = head.encoder_projection(y)[:, :, None]
        second = head.predictor_projection(head.predictor(tokens[0]))[:, None]
        x = first + second
        logits = head.join(first, second)
        ((name, loss),) = head.loss(y, y_lens, *tokens).items()
        if head.config.tdt is None:
            assert name == "full"
            expected = full_loss(logits, *tokens, y_lens)
        else:
            assert name == "tdt"
            durations = head.durations(x.relu() if activation == "relu" else x.tanh())
            expected = tdt_loss(logits, durations, *tokens, y_lens, durations=(0, 1, 2), sigma=0.1, omega=0.2)
        torch.testing.assert_close(loss, expected)
        loss.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("loss", ["pruned", "full", "tdt"])
def test_it_learns_by_heart(loss: str) -> None:
    tdt = TDTConfig(durations=(0, 1, 2)) if loss == "tdt" else None
    head = head_of(loss="full" if tdt else loss, tdt=tdt, warmup=1)
    head.set_batch_count(10)
    y, y_lens, *tokens = batch()
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        torch.stack(list(head.loss(y, y_lens, *tokens).values())).sum().backward()
        optimizer.step()
    head = head.eval()
    head.config = replace(head.config, max_symbols=4)
    with torch.inference_mode():
        found, _ = head.step(y, y_lens, head.init_state(3))
    assert [[e.token for e in f] for f in found] == [tokens[0][0].tolist(), [], tokens[0][2, :2].tolist()]


def naive(head: Transducer, y: Tensor, durations: tuple[int, ...], max_symbols: int) -> list[tuple[int, int]]:
    """Xu et al. 2023, algorithm 2, one frame and one token at a time."""
    said: list[int] = []
    found, u, symbols = [], 0, 0
    while u < len(y):
        predicted = head.predictor_projection(head.predictor(torch.tensor([said], dtype=torch.int64))[0, -1])
        hidden = torch.tanh(head.encoder_projection(y[u]) + predicted)
        token, goes = int(head.output(hidden).argmax()), durations[int(head.durations(hidden).argmax())]
        if token == BLANK:
            goes = max(1, goes)
        else:
            said.append(token)
            found.append((token, u))
            symbols += 1
            goes = max(goes, int(symbols >= max_symbols))
        symbols = 0 if goes else symbols
        u += goes
    return found


def talkative(durations: tuple[int, ...], max_symbols: int) -> Transducer:
    head = head_of(loss="full", tdt=TDTConfig(durations=durations), max_symbols=max_symbols).eval()
    with torch.no_grad():
        for layer in (head.output, head.durations, head.predictor_projection):
            layer.weight *= 6
        head.output.bias[BLANK] += 1.5
    return head


@torch.inference_mode()
@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2, 9), (0, 1, 12)])
@pytest.mark.parametrize("max_symbols", [1, 3])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_durations_pass_over_frames_and_the_ends_of_chunks(
    durations: tuple[int, ...], max_symbols: int, size: int
) -> None:
    head = talkative(durations, max_symbols)
    y = 2 * torch.randn(4, 40, 6, generator=torch.Generator().manual_seed(5))
    lens = torch.tensor([40, 39, 17, 0])
    state = head.init_state(4)
    found: list[list[Emission]] = [[], [], [], []]
    for begin in range(0, 40, size):
        new, state = head.step(y[:, begin : begin + size], (lens - begin).clamp(0, size), state)
        state = stack(unstack(state))
        found = [a + b for a, b in zip(found, new, strict=True)]
    for b, n in enumerate(lens.tolist()):
        assert [e[:2] for e in found[b]] == naive(head, y[b, :n], durations, max_symbols)
    assert len(found[0]) > 2
    assert state.frame.tolist() == lens.tolist()


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"durations need the full lattice; set transducer\.loss: full"):
        TransducerConfig(tdt=TDTConfig())
    for durations in ((), (0,), (1, 1), (2, 1), (-1, 1)):
        with pytest.raises(ConfigError, match=r"tdt\.durations"):
            TDTConfig(durations=durations)
    with pytest.raises(ConfigError, match="fastemit"):
        TransducerConfig(fastemit=-1)
    given = configuration.from_dict(TransducerConfig, {"loss": "full", "tdt": {"durations": [0, 1]}})
    assert given.tdt == TDTConfig(durations=(0, 1))
    head = talkative((0, 1), 1)
    head.spare_by(CTC(CTCConfig(), 6, VOCABULARY))
    assert head.searches == ("greedy", "beam") and head.spared
