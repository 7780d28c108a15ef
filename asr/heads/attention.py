"""Attention decoder (Vaswani et al. 2017), left to right, and right to left beside it (U2++, Wu et al. 2021).

A text is found by the decoder alone (greedy), by it and CTC in one pass (beam), or among what CTC heard (rescoring).
All of them need the whole of what they decode. So a stream is decoded in segments: CTC's search hears where the speaker
pauses, and what it has heard is shown until a segment is over. Without a CTC head, a stream waits for its end, or until
`memory_frames` are full. Only then are its tokens given, with the frames at which CTC's best path has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.errors import ConfigError
from asr.heads.base import BLANK, Emission
from asr.heads.ctc import CTC
from asr.heads.decoder import Decoder, Memory
from asr.search import beam as beams
from asr.search.beam import Hypothesis
from asr.search.config import SearchConfig
from asr.search.fusion import nothing
from asr.search.joint import joint_beam
from asr.search.plan import Plan
from asr.search.prefix import ctc_beam
from asr.search.prefix_score import text_scores
from asr.search.segments import Segments, append, boundary, drop, pieces, texts_before
from asr.search.viterbi import viterbi

__all__ = ["AttentionConfig", "AttentionDecoder"]

Texts = Sequence[Sequence[Sequence[int]]]  # tokens of some texts of each utterance


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The decoder's shape; `dim` 0 is the encoder's.

    label_smoothing: what the loss gives to all tokens alike (Szegedy et al. 2016). reverse_layers: of the right-to-left
    decoder, 0 for none; reverse_weight: its share of the loss and, unless a search says otherwise, of the score.
    sos_eos: the token that begins and ends a text. The blank is in no text, so ours takes that place, too.
    memory_frames: a segment of a stream is cut when it is as long.

    Raises ConfigError: a value out of its range.
    """

    layers: int = 6
    heads: int = 4
    dim: int = 0
    feed_forward_dim: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.1
    label_smoothing: float = 0.1
    reverse_layers: int = 0
    reverse_weight: float = 0.3
    sos_eos: int = BLANK
    norm_epsilon: float = 1e-5
    memory_frames: int = 750

    def __post_init__(self) -> None:
        for name, low, high in (
            ("layers", 1, 1000), ("heads", 1, 1000), ("dim", 0, 1 << 20), ("reverse_layers", 0, 1000),
            ("reverse_weight", 0, 1), ("label_smoothing", 0, 1), ("memory_frames", 4 * beams.EVERY, 100_000),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"attention.{name} is {getattr(self, name)}; it must be from {low} to {high}"
                )


class AttentionDecoder(nn.Module):
    """D dim of the encoder, V tokens. `ctc` is the model's CTC head, if it has one: no part of this one."""

    keeps_back = True  # even greedy search
    spared = False

    def __init__(self, config: AttentionConfig, dim: int, vocabulary: int, ctc: CTC | None = None) -> None:
        super().__init__()
        c = self.config = config
        self.dim, width = dim, c.dim or dim
        if width % (2 * c.heads):
            raise ConfigError(f"attention.heads: {c.heads} heads do not divide {width} into even parts")
        if not 0 <= c.sos_eos < vocabulary:
            raise ConfigError(f"attention.sos_eos: {c.sos_eos} is not one of {vocabulary} tokens")

        def decoder(layers: int) -> Decoder:
            return Decoder(
                vocabulary, width, dim, layers=layers, heads=c.heads, feed_forward_dim=c.feed_forward_dim,
                dropout=c.dropout, attention_dropout=c.attention_dropout, norm_epsilon=c.norm_epsilon,
            )  # fmt: skip

        self.decoder = decoder(c.layers)
        self.reverse_decoder = decoder(c.reverse_layers) if c.reverse_layers else None
        self._ctc: tuple[CTC, ...] = (
            () if ctc is None else (ctc,)
        )  # in a tuple, it is not registered as a module of this one
        self.searches = ("greedy", "beam", "rescoring") if self._ctc else ("greedy", "beam")

    # ---- training and scores

    def loss(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """Smoothed cross entropy of each utterance; in parts, each with its share, where there are two decoders."""
        texts, lens = tokens[:, None], token_lens[:, None]
        left = self._smoothed(self.decoder, y, y_lens, texts, lens)
        if self.reverse_decoder is None:
            return {"attention": left}
        right = self._smoothed(self.reverse_decoder, y, y_lens, _reversed(texts, lens), lens)
        share = self.config.reverse_weight
        return {"left_to_right": (1 - share) * left, "right_to_left": share * right}

    def _smoothed(self, decoder: Decoder, y: Tensor, y_lens: Tensor, texts: Tensor, lens: Tensor) -> Tensor:
        """(B,)."""
        scores, wanted, inside = self._read(decoder, decoder.remember(y, y_lens), texts, lens)
        share = self.config.label_smoothing
        smoothed = (1 - share) * scores.gather(-1, wanted[..., None])[..., 0] + share * scores.mean(-1)
        return -smoothed.masked_fill(~inside, 0.0).sum((1, 2))

    def _read(
        self, decoder: Decoder, memory: Memory, texts: Tensor, lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Texts (B, K, S), (B, K) -> log-probabilities (B, K, S + 1, V), what each should say, and which count."""
        boundary_token, place = self.config.sos_eos, torch.arange(texts.shape[2] + 1, device=texts.device)
        scores, _ = decoder(F.pad(texts, (1, 0), value=boundary_token), memory, decoder.begin(*lens.shape))
        wanted = torch.where(place == lens[..., None], boundary_token, F.pad(texts, (0, 1)))
        return scores, wanted, place <= lens[..., None]

    def token_scores(self, y: Tensor, y_lens: Tensor, texts: Tensor, lens: Tensor) -> Tensor:
        """What the left-to-right decoder gives each token of texts (B, K, S), (B, K) and their end: (B, K, S + 1)."""
        return self._chosen(self.decoder, y, y_lens, texts, lens)

    @torch.inference_mode()
    def weights(self, y: Tensor, y_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """What each layer of the left-to-right decoder attends to while it says tokens (B, S), (B,) and their end:
        (B, layers, S + 1, U), the mean over heads. `asr.training.pictures.attention` draws it."""
        found: list[Tensor] = []

        def watch(layer: Any, given: tuple[Tensor, ...], _result: Tensor) -> None:
            x, keys, _, mask = given
            found.append(layer.weights(x, keys, mask))

        layers: list[Any] = list(self.decoder.layers)
        hooks = [layer.cross_attention.register_forward_hook(watch) for layer in layers]
        try:
            self._read(self.decoder, self.decoder.remember(y, y_lens), tokens[:, None], token_lens[:, None])
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found, 1)

    def _chosen(self, decoder: Decoder, y: Tensor, y_lens: Tensor, texts: Tensor, lens: Tensor) -> Tensor:
        scores, wanted, inside = self._read(decoder, decoder.remember(y, y_lens), texts, lens)
        return scores.gather(-1, wanted[..., None])[..., 0].masked_fill(~inside, 0.0)

    def _heard(self, y: Tensor, plan: Plan | None) -> Tensor:
        """What CTC makes of frames (B, U, D): log-probabilities (B, U, V)."""
        x = self._ctc[0].log_probabilities(y)
        return x if plan is None or plan.penalty is None else plan.penalise(x)

    def _weight(self, batch: int, plan: Plan | None, device: torch.device) -> Tensor:
        """(B,): CTC's share. Greedy search is the decoder's alone."""
        alone = plan is None or plan.greedy or not self._ctc
        weights = [0.0] * batch if alone or plan is None else [config.ctc_weight for config in plan.configs]
        return torch.tensor(weights, dtype=torch.float64, device=device)

    def propose(self, y: Tensor, y_lens: Tensor, plan: Plan | None = None) -> Texts:
        """Frames (B, U, D), (B,) of whole segments -> the texts that greedy or joint search finds, best first."""
        weight, memory = self._weight(len(y), plan, y.device), self.decoder.remember(y, y_lens)
        heard = self._heard(y, plan).double() if bool(weight.any()) else None
        count = 1 if plan is None or plan.greedy else plan.beam
        return joint_beam(
            lambda tokens, past: self.decoder(tokens, memory, past), self.decoder.begin(len(y), count), y_lens,
            beam=count, sos_eos=self.config.sos_eos, weight=weight, ctc=heard, plan=plan,
        )  # fmt: skip

    def rank(
        self, y: Tensor, y_lens: Tensor, texts: Texts, plan: Plan | None = None
    ) -> list[list[Hypothesis]]:
        """Texts of whole segments -> hypotheses, best first, with their exact scores and times."""
        weight = self._weight(len(y), plan, y.device)
        heard = self._heard(y, plan).double() if self._ctc else None
        tokens, lens = _padded(texts, y.device)
        given = self.token_scores(y, y_lens, tokens, lens)
        total = (1 - weight)[:, None] * self._attention(given.double().sum(-1), y, y_lens, tokens, lens, plan)
        if heard is not None and bool(weight.any()):
            spelt = text_scores(heard, y_lens, tokens, lens)
            total = total + torch.where(weight[:, None] > 0, weight[:, None] * spelt, 0.0)
        if plan is not None:
            total = total + plan.additions(tokens, lens)
        ranked = []
        for row in zip(texts, _times(heard, y_lens, texts), given.tolist(), total.tolist(), strict=True):
            hypotheses = [  # rows of utterances with fewer texts are filled up, and scores end with the text's end
                Hypothesis([Emission(*e) for e in zip(text, at, scores, strict=False)], score)
                for text, at, scores, score in zip(*row, strict=False)
            ]
            ranked.append(sorted(hypotheses, key=lambda h: -h.score))
        return ranked

    def _attention(
        self, left: Tensor, y: Tensor, y_lens: Tensor, texts: Tensor, lens: Tensor, plan: Plan | None
    ) -> Tensor:
        """The left-to-right scores (B, K) with those of the right-to-left decoder."""
        if self.reverse_decoder is None:
            return left
        chosen = [None] * len(y) if plan is None else [config.reverse_weight for config in plan.configs]
        shares = [self.config.reverse_weight if share is None else share for share in chosen]
        share = torch.tensor(shares, dtype=torch.float64, device=y.device)[:, None]
        right = self._chosen(self.reverse_decoder, y, y_lens, _reversed(texts, lens), lens)
        return (1 - share) * left + share * right.double().sum(-1)

    # ---- streams

    def init_state(self, batch: int, plan: Plan | None = None) -> Segments:
        weight, room = self.decoder.output.weight, self.config.memory_frames
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        front: beams.Beam | tuple[()] = ()
        if self._ctc:
            ahead = self._ahead(plan)
            fusion = ahead.fusion
            size, half = (batch, ahead.beam), room // 2  # a beam holds twice as many tokens
            if fusion is None:
                front = beams.start(*size, 2, half, nothing(*size, weight.device))
            else:
                front = beams.start(*size, 2, half, fusion.init(*size), fusion.start(*size))
        return Segments(weight.new_zeros(batch, room, self.dim), zero, zero, zero.double(), front)

    def _ahead(self, plan: Plan | None) -> Plan:
        """What the search in front does: it settles nothing by itself."""
        if plan is None or plan.greedy:
            plan = Plan([SearchConfig(beam=1)], None)
        return plan.with_lag(self.config.memory_frames)

    def step(
        self, y: Tensor, y_lens: Tensor, state: Segments, plan: Plan | None = None
    ) -> tuple[list[list[Emission]], Segments]:
        out: list[list[Emission]] = [[] for _ in y_lens]
        lag = SearchConfig.lag_frames if plan is None or plan.greedy else plan.lag
        frames = append(state.frames, state.length, y, y_lens)
        length, begin, score, front = state.length, state.begin, state.score, state.front
        heard = self._heard(y, plan) if self._ctc else None
        for piece in pieces((begin + length).tolist(), y_lens.tolist()):
            lens = (y_lens - piece.start).clamp(0, piece.stop - piece.start)
            said: Sequence[list[Emission] | None] = [None] * len(y)
            if heard is not None and not isinstance(front, tuple):
                _, front = ctc_beam(heard[:, piece], lens, front, self._ahead(plan))
            length = length + lens
            due = (lens > 0) & ((begin + length) % beams.EVERY == 0)
            if not bool(due.any()):
                continue
            if not isinstance(front, tuple):
                said = beams.best(front)
            over = [
                boundary(
                    None if told is None else [e.frame - first for e in told],
                    n, lag=lag, room=self.config.memory_frames - beams.EVERY,
                ) if now else 0
                for told, first, n, now in zip(said, begin.tolist(), length.tolist(), due.tolist(), strict=True)
            ]  # fmt: skip
            if not any(over):
                continue
            cut = torch.tensor(over, device=y.device)
            found, front = self._settle(frames, cut, Segments(frames, length, begin, score, front), plan)
            for b, hypotheses in found.items():
                out[b] += hypotheses[0].emissions
                score = score.index_add(0, cut.new_tensor([b]), score.new_tensor([hypotheses[0].score]))
            frames, length, begin = drop(frames, cut), length - cut, begin + cut
        kept = append(frames[:, : self.config.memory_frames], length, y[:, :0], torch.zeros_like(length))
        kept = F.pad(kept, (0, 0, 0, self.config.memory_frames - kept.shape[1]))
        return out, Segments(kept, length, begin, score, front)

    def _settle(
        self, frames: Tensor, cut: Tensor, state: Segments, plan: Plan | None
    ) -> tuple[dict[int, list[Hypothesis]], beams.Beam | tuple[()]]:
        """The streams whose segments are over after `cut` (B,) frames, with what was said; the front without it."""
        front, before = state.front, state.begin + cut
        rows = cut.nonzero()[:, 0].tolist()
        texts = None if isinstance(front, tuple) else texts_before(front, before)
        found = self._segments(frames, cut, rows, texts, state.begin, plan)
        if not isinstance(front, tuple):
            chosen = beams.leader(front)
            if plan is not None and plan.kind == "rescoring" and texts is not None:
                for b, hypotheses in found.items():
                    chosen[b] = texts[b][tuple(e.token for e in hypotheses[0].emissions)]
            _, front = beams.cut(front, chosen, before, cut > 0)
        return found, front

    def _segments(
        self,
        frames: Tensor,
        lens: Tensor,
        rows: list[int],
        said: list[dict[tuple[int, ...], int]] | None,
        begin: Tensor,
        plan: Plan | None,
    ) -> dict[int, list[Hypothesis]]:
        """What was said in the first `lens` (B,) frames of some streams (`rows`); `said`: what CTC heard in them."""
        if not rows:
            return {}
        index, part = torch.tensor(rows, device=frames.device), None if plan is None else plan.rows(rows)
        y, y_lens = frames[index, : int(lens[index].max())], lens[index]
        texts = self._texts(y, y_lens, None if said is None else [said[b] for b in rows], part)
        found = {}
        for b, hypotheses in zip(rows, self.rank(y, y_lens, texts, part), strict=True):
            first = int(begin[b])
            found[b] = [
                Hypothesis([e._replace(frame=e.frame + first) for e in h.emissions], h.score)
                for h in hypotheses
            ]
        return found

    def _texts(
        self, y: Tensor, y_lens: Tensor, said: Sequence[dict[tuple[int, ...], int]] | None, plan: Plan | None
    ) -> Texts:
        """The texts to choose from. Where CTC heard nothing, it is none: the decoder alone hears words in silence."""
        if said is None:
            return self.propose(y, y_lens, plan)
        if plan is not None and plan.kind == "rescoring":
            return [list(texts) for texts in said]
        weights = self._weight(len(y), plan, y.device).tolist()
        silent = [not weight and not next(iter(texts)) for weight, texts in zip(weights, said, strict=True)]
        found: Texts = [[[]]] * len(y) if all(silent) else self.propose(y, y_lens, plan)
        return [[[]] if still else texts for still, texts in zip(silent, found, strict=True)]

    def tail(self, state: Segments) -> list[list[Emission]]:
        """What CTC has heard of the running segment."""
        return [[] for _ in state.length] if isinstance(state.front, tuple) else beams.best(state.front)

    def finish(self, state: Segments, plan: Plan | None = None) -> list[list[Hypothesis]]:
        front, ends = state.front, state.begin + state.length
        rows = state.length.nonzero()[:, 0].tolist()
        texts = None if isinstance(front, tuple) else texts_before(front, ends)
        found = self._segments(state.frames, state.length, rows, texts, state.begin, plan)
        return [
            [Hypothesis(h.emissions, h.score + before) for h in found.get(b, [Hypothesis([], 0.0)])]
            for b, before in enumerate(state.score.tolist())
        ]


def _reversed(texts: Tensor, lens: Tensor) -> Tensor:
    """(B, K, S), (B, K) -> each text from its end."""
    place = lens[..., None] - 1 - torch.arange(texts.shape[2], device=texts.device)
    return texts.gather(2, place.clamp(min=0)).masked_fill(place < 0, 0)


def _padded(texts: Texts, device: torch.device) -> tuple[Tensor, Tensor]:
    """-> (B, K, S), (B, K); of utterances with fewer texts the last ones are empty."""
    most = max(map(len, texts))
    lens = torch.zeros(len(texts), most, dtype=torch.int64)
    tokens = torch.zeros(
        len(texts), most, max((len(t) for row in texts for t in row), default=0), dtype=torch.int64
    )
    for b, row in enumerate(texts):
        for k, text in enumerate(row):
            lens[b, k] = len(text)
            tokens[b, k, : len(text)] = torch.tensor(text, dtype=torch.int64)
    return tokens.to(device), lens.to(device)


def _times(x: Tensor | None, lens: Tensor, texts: Texts) -> list[list[list[int]]]:
    """Each token's frame: the first of its own on CTC's best path (B, U, V); spread evenly where there is none."""
    flat = [(b, text) for b, row in enumerate(texts) for text in row]
    spans = [None] * len(flat) if x is None else viterbi(x, lens, [t for _, t in flat], [b for b, _ in flat])
    even = [[i * int(lens[b]) // max(1, len(text)) for i in range(len(text))] for b, text in flat]
    at = iter(e if s is None else [one.begin for one in s] for s, e in zip(spans, even, strict=True))
    return [[next(at) for _ in row] for row in texts]
