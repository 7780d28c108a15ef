"""The attention decoder: its loss by hand, its cache against none, and streams against the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.heads import AttentionConfig, AttentionDecoder, Emission
from asr.model import ModelConfig
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from asr.state import stack, unstack
from models import small_model
from tests.search.lattices import ctc, frames, tokenizer

V = 7
PIECES = tokenizer("abcdef")
KINDS = ("greedy", "beam", "rescoring")
SMALL = AttentionConfig(layers=2, heads=2, dim=8, feed_forward_dim=12, memory_frames=64)


def head_of(config: AttentionConfig = SMALL, *, seed: int = 0, alone: bool = False) -> AttentionDecoder:
    front = ctc(V, seed=seed)
    head = AttentionDecoder(config, 4, V, None if alone else front).double().eval()
    with torch.no_grad():
        head.decoder.output.weight *= 4
        head.decoder.output.bias[0] -= 3  # texts of some length
        head.decoder.layers[0].cross_attention.project_memory.weight *= 4
    return head


TOKENS, TOKEN_LENS = torch.tensor([[1, 2, 3, 3], [4, 5, 0, 0]]), torch.tensor([4, 2])


@torch.inference_mode()
@pytest.mark.parametrize("reverse", [0.0, 0.25])
def test_the_loss_by_hand(reverse: float) -> None:
    """1 - e of each token's cross entropy, e of the mean over all tokens; texts read from both ends."""
    config = replace(SMALL, reverse_layers=int(reverse > 0), reverse_weight=reverse, label_smoothing=0.2)
    head, y, lens = head_of(config), frames((2, 6), 0), torch.tensor([6, 4])
    losses = head.loss(y, lens, TOKENS, TOKEN_LENS)
    assert list(losses) == (["left_to_right", "right_to_left"] if reverse else ["attention"])
    for b, n in enumerate(TOKEN_LENS.tolist()):
        text, expected = TOKENS[b, :n].tolist(), 0.0
        ways: list[tuple[Any, list[int], float]] = [(head.decoder, text, 1 - reverse)]
        ways += [(head.reverse_decoder, text[::-1], reverse)] if reverse else []
        for decoder, read, share in ways:
            memory = decoder.remember(y[b : b + 1, : lens[b]], lens[b : b + 1])
            scores, _ = decoder(torch.tensor([[[0, *read]]]), memory, decoder.begin(1, 1))
            for i, token in enumerate([*read, 0]):
                expected -= share * (0.8 * scores[0, 0, i, token] + 0.2 * scores[0, 0, i].mean())
        assert sum(losses.values())[b].item() == pytest.approx(float(expected))  # type: ignore[index]


def test_gradients_by_finite_differences() -> None:
    config = replace(SMALL, layers=1, reverse_layers=1)
    head, y, lens = head_of(config), frames((2, 5), 1), torch.tensor([5, 3])

    def loss(y: Tensor, memory: Tensor, embedding: Tensor) -> Tensor:
        parameters = {"decoder.layers.0.cross_attention.project_memory.weight": memory}
        parameters["reverse_decoder.embedding.weight"] = embedding
        found = torch.func.functional_call(
            _Loss(head), {f"head.{k}": v for k, v in parameters.items()}, (y, lens)
        )
        return found

    inputs = (
        y.requires_grad_(),
        head.decoder.layers[0].cross_attention.project_memory.weight.detach().requires_grad_(),
        head.reverse_decoder.embedding.weight.detach().requires_grad_(),  # type: ignore[union-attr]
    )
    assert torch.autograd.gradcheck(loss, inputs)


class _Loss(torch.nn.Module):
    def __init__(self, head: AttentionDecoder) -> None:
        super().__init__()
        self.head = head

    def forward(self, y: Tensor, lens: Tensor) -> Tensor:
        return torch.stack(list(self.head.loss(y, lens, TOKENS, TOKEN_LENS).values()))


@torch.inference_mode()
def test_a_token_at_a_time_gives_what_all_at_once_give() -> None:
    """With the cache of the texts that go on, whichever these are."""
    decoder, y, lens = head_of().decoder, frames((2, 9), 2), torch.tensor([9, 5])
    memory, generator = decoder.remember(y, lens), torch.Generator().manual_seed(0)
    texts, past = torch.zeros(2, 3, 0, dtype=torch.int64), decoder.begin(2, 3)
    for _ in range(6):
        texts = torch.cat([texts, torch.randint(V, (2, 3, 1), generator=generator)], 2)
        scores, past = decoder(texts[..., -1:], memory, past)
        whole, _ = decoder(texts, memory, decoder.begin(2, 3))
        torch.testing.assert_close(scores[:, :, 0], whole[:, :, -1], atol=1e-12, rtol=0)
        parent = torch.randint(3, (2, 3), generator=generator)
        texts = texts.gather(1, parent[..., None].expand_as(texts))
        leaves = [x.gather(1, parent[..., None, None].expand_as(x)) for x in (*past.keys, *past.values)]
        past = type(past)(tuple(leaves[: len(past.keys)]), tuple(leaves[len(past.keys) :]))


@torch.inference_mode()
def test_padding_is_invisible() -> None:
    head, y, lens = head_of(replace(SMALL, reverse_layers=1)), frames((2, 9), 3), torch.tensor([9, 5])
    y[1, 5:] = 1e3
    padded = torch.cat([TOKENS, torch.full((2, 3), 6)], 1)
    losses = head.loss(y, lens, padded, TOKEN_LENS)
    for b, n in enumerate(TOKEN_LENS.tolist()):
        alone = head.loss(
            y[b : b + 1, : lens[b]], lens[b : b + 1], TOKENS[b : b + 1, :n], TOKEN_LENS[b : b + 1]
        )
        for name, loss in losses.items():
            torch.testing.assert_close(loss[b : b + 1], alone[name], atol=1e-9, rtol=0)


def stream(
    head: AttentionDecoder, y: Tensor, lens: Tensor, search: SearchConfig, size: int
) -> tuple[list[list[Emission]], list[float], list[int]]:
    """What B streams say in steps of `size` frames, their scores, and how often each had said something by then."""
    plan = None if search.plain else Plan([search] * len(y), PIECES)
    found, times = [[] for _ in y], [0] * len(y)
    state = head.init_state(len(y), plan)
    for begin in range(0, y.shape[1], size):
        new, state = head.step(y[:, begin : begin + size], (lens - begin).clamp(0, size), state, plan)
        state = stack(unstack(state))
        for b, emissions in enumerate(new):
            found[b] += emissions
            times[b] += bool(emissions)
    ends = [hypotheses[0] for hypotheses in head.finish(state, plan)]
    return [a + h.emissions for a, h in zip(found, ends, strict=True)], [h.score for h in ends], times


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "alone"),
    [("greedy", False), ("beam", False), ("rescoring", False), ("greedy", True), ("beam", True)],
)
@pytest.mark.parametrize("speech", ["all the time", "with pauses"])
def test_streams_say_what_the_whole_says(kind: str, alone: bool, speech: str) -> None:
    head = head_of(alone=alone)
    y, lens = frames((3, 150), 4), torch.tensor([150, 91, 0])
    if speech == "with pauses":
        y[:, 20:60] = y[:, 100:130] = silence(head)
    search = SearchConfig(kind=kind, beam=3, lag_frames=20)  # type: ignore[arg-type]
    whole, scores, _ = stream(head, y, lens, search, 150)
    for size in (7, 64):
        found, found_scores, times = stream(head, y, lens, search, size)
        assert [[e[:2] for e in one] for one in found] == [[e[:2] for e in one] for one in whole]
        assert found_scores == pytest.approx(scores)
    assert times[0] >= 1 and whole[0] and not whole[2]
    for one in whole:
        assert [e.frame for e in one] == sorted(e.frame for e in one)
        assert all(0 <= e.frame < 150 and e.log_probability <= 0 for e in one)


def silence(head: AttentionDecoder) -> Tensor:
    """A frame that CTC takes for blank, if it is one of this head's."""
    front = (head._ctc or head_of()._ctc)[0]
    tried = 10 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    surest = front.log_probabilities(tried)[:, 0].max(0)
    assert surest.values > -0.01
    return tried[surest.indices]


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_is_what_it_is_alone(kind: str) -> None:
    """What follows a pause is decoded as if the stream began in it, and its frames are counted on."""
    head, search = head_of(seed=2), SearchConfig(kind=kind, beam=3, lag_frames=10)  # type: ignore[arg-type]
    head.config = replace(head.config, memory_frames=200)
    quiet, words = silence(head).expand(1, 40, 4), frames((2, 24), 6)
    y = torch.cat([words[:1], quiet, words[1:], quiet], 1)
    lens = torch.tensor([y.shape[1]])
    plan = None if search.plain else Plan([search], PIECES)
    state, begins = head.init_state(1, plan), []
    for u in range(y.shape[1]):
        (emissions,), state = head.step(y[:, u : u + 1], torch.tensor([1]), state, plan)
        if emissions:
            begins.append((int(state.begin), emissions))
    (whole,), _, _ = stream(head, y, lens, search, 1000)
    assert len(begins) >= 2 and [e for _, emissions in begins for e in emissions] == whole
    first, second = begins[0][0], begins[1][0]
    frames_of = y[:, first:second], torch.tensor([second - first])
    texts = _front(head, *frames_of, search) if kind == "rescoring" else head.propose(*frames_of, plan)
    (alone,) = head.rank(*frames_of, texts, plan)
    assert [e._replace(frame=e.frame + first)[:2] for e in alone[0].emissions] == [
        e[:2] for e in begins[1][1]
    ]
    ((ending, *_),) = head.finish(state, plan)
    assert not ending.emissions  # silence says nothing


def _front(head: AttentionDecoder, y: Tensor, lens: Tensor, search: SearchConfig) -> list[list[list[int]]]:
    """What CTC hears in a segment."""
    plan = Plan([replace(search, kind="beam", lag_frames=1000)], PIECES)
    front = head._ctc[0]
    _, state = front.step(y, lens, front.init_state(1, plan), plan)
    return [[[e.token for e in h.emissions] for h in front.finish(state, plan)[0]]]


@torch.inference_mode()
def test_partial_text_is_what_ctc_hears() -> None:
    head, y = head_of(seed=2), frames((1, 10), 6)
    plan = Plan([SearchConfig(kind="rescoring", beam=3)], PIECES)
    (emissions,), state = head.step(y, torch.tensor([10]), head.init_state(1, plan), plan)
    front, ahead = head._ctc[0], Plan([SearchConfig(kind="beam", beam=3)], PIECES)
    _, other = front.step(y, torch.tensor([10]), front.init_state(1, ahead), ahead)
    assert not emissions and [e.token for e in head.tail(state)[0]] == [e.token for e in front.tail(other)[0]]


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="attention.reverse_weight is 2; it must be from 0 to 1"):
        AttentionConfig(reverse_weight=2)
    with pytest.raises(ConfigError, match="5 heads do not divide 8"):
        head_of(replace(SMALL, heads=5))
    with pytest.raises(ConfigError, match="sos_eos: 7 is not one of 7 tokens"):
        head_of(replace(SMALL, sos_eos=7))
    with pytest.raises(ConfigError, match="all heads, transducer, ctc and attention, are null"):
        ModelConfig(transducer=None, ctc=None)
    with pytest.raises(ConfigError, match="search.kind is 'rescoring'; this head has greedy, beam"):
        small_model().plan(SearchConfig(kind="rescoring"), 1, "ctc")
