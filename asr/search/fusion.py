"""What is added to the acoustic scores: language models, and the boost of phrases, for a batch of mixed choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr import state as trees
from asr.language_model import load, load_bigram
from asr.language_model.ngram import LanguageModel
from asr.language_model.spelling import Spelling, spelling
from asr.search.automaton import Automaton, join
from asr.search.config import SearchConfig
from asr.search.emission import BLANK
from asr.search.phrases import compile_phrases, word_begins
from asr.search.prediction import Prediction, follow
from asr.tokenizer import Tokenizer

__all__ = ["Fused", "Fusion", "nothing"]


@dataclass(frozen=True)
class Fused:
    """Where N hypotheses of each stream stand. Zeros in what is not in use.

    phrases: (B, N) states; boost, kept: (B, N) float64, what phrases are worth with those that have begun, and without;
    model, lodr: (B, N, H) histories; word: (B, N) the hash of the word that is being spelt.
    """

    phrases: Tensor
    boost: Tensor
    kept: Tensor
    model: Tensor
    lodr: Tensor
    word: Tensor


def nothing(batch: int, count: int, device: torch.device) -> Fused:
    """Of `count` hypotheses to which nothing is added."""
    zero = torch.zeros(batch, count, dtype=torch.int64, device=device)
    return Fused(zero, zero.double(), zero.double(), zero[..., None], zero[..., None], zero)


class Fusion:
    """The streams of a batch, one configuration each; they have their language models in common."""

    def __init__(self, configs: Sequence[SearchConfig], tokenizer: Tokenizer, device: torch.device) -> None:
        def column(name: str) -> Tensor:
            return torch.tensor([getattr(c, name) for c in configs], dtype=torch.float64, device=device)

        head = configs[0]
        lm = load(head.lm, tokenizer, device) if head.lm else None
        self.neural = lm if isinstance(lm, nn.Module) else None
        self._model = None if isinstance(lm, nn.Module) else lm
        self._lodr = load_bigram(head.lodr, tokenizer, device) if head.lodr else None
        self._model_scale, self._lodr_scale = column("lm_scale"), column("lodr_scale")
        self._word_bonus, self._margin = column("word_bonus"), column("phrase_margin")
        self._spelling: Spelling | None = None
        if self._model is not None and self._model.unit == "words":
            self._spelling = spelling(tokenizer).to(device)
        self._automaton: Automaton | None = None
        if any(c.phrases for c in configs):
            compiled = [compile_phrases(c.phrases, c.phrase_boost, tokenizer).automaton for c in configs]
            joined, offset = join(compiled)
            self._automaton, self._offset = joined.to(device), offset.to(device)
            self._begins = torch.tensor(word_begins(tokenizer), device=device)
            self._start = torch.cat([automaton.start for automaton in compiled]).to(device)
        self._device = device
        self.used = any(x is not None for x in (self._automaton, self._model, self.neural, self._lodr))

    def init(self, batch: int, count: int) -> Fused:
        """`count` hypotheses of nothing for each stream."""
        zero = torch.zeros(batch, count, dtype=torch.int64, device=self._device)
        phrases = zero if self._automaton is None else self._start[:, None].expand(-1, count).clone()
        boost = zero.double()
        return Fused(phrases, boost, boost, _start(self._model, zero), _start(self._lodr, zero), zero)

    def start(self, batch: int, count: int) -> Prediction | tuple[()]:
        """What the neural language model lets expect of `count` hypotheses of nothing for each stream."""
        return () if self.neural is None else self.neural.start(batch, count)

    def likely(self, neural: Prediction | tuple[()], tokens: Tensor) -> Tensor | float:
        """What the neural language model adds to each hypothesis of (B, K) with each of its tokens (B, K, C)."""
        if not isinstance(neural, Prediction):
            return 0.0
        return self._model_scale[:, None, None] * neural.output.gather(2, tokens).double()

    def follow(self, neural: Prediction | tuple[()], parent: Tensor, token: Tensor) -> Prediction | tuple[()]:
        """What it lets expect of the hypotheses that `parent` (B, K) names, with a token (B, K) more, or a blank."""
        if self.neural is None or not isinstance(neural, Prediction):
            return neural
        return follow(neural, parent, token, self.neural.predict)

    def extend(self, fused: Fused, tokens: Tensor, heard: Tensor | None = None) -> tuple[Tensor, Fused]:
        """Each hypothesis of (B, N) with each of its tokens (B, N, C) -> what language models add (B, N, C), and
        (B, N * C), with what phrases would.

        heard: (B, N, C) how far the tokens' acoustic log-probabilities are from that of the frame's best, blank or not:
        phrases go on only with tokens that are near it. None: with any.
        """
        batch, count, width = tokens.shape
        flat = tokens.flatten(1)
        at = trees.map_tree(lambda x: _repeat(x, width), fused)
        bonus = torch.zeros(batch, count * width, dtype=torch.float64, device=tokens.device)
        phrases, boost, kept = at.phrases, at.boost, at.kept
        model, lodr, word = at.model, at.lodr, at.word
        if self._automaton is not None:
            offset = self._offset[:, None]
            symbol = flat
            if heard is not None:  # the blank continues no phrase, and gives back all that was lent
                plausible = heard >= -self._margin[:, None, None]
                symbol = torch.where(plausible.flatten(1), flat, BLANK)
            gain, phrases = self._automaton.step(phrases + offset, symbol, self._begins[flat])
            boost = boost + gain
            kept, phrases = boost + self._automaton.final[phrases], phrases - offset
        if self._lodr is not None:
            gain, lodr = _score(self._lodr, lodr, flat)
            bonus = bonus - self._lodr_scale[:, None] * gain
        if self._spelling is not None and self._model is not None:
            ended = self._spelling.begins[flat] & (word != 0)
            gain, model = self._words(model, word, ended)
            bonus, word = bonus + gain, self._spelling.add(word, flat)
        elif self._model is not None:
            gain, model = _score(self._model, model, flat)
            bonus = bonus + self._model_scale[:, None] * gain
        return bonus.view(tokens.shape), Fused(phrases, boost, kept, model, lodr, word)

    def finish(self, fused: Fused) -> Tensor:
        """What the end adds to each hypothesis (B, N): the last word's score, and what phrases have earned."""
        bonus = fused.kept
        if self._spelling is not None:
            bonus = bonus + self._words(fused.model, fused.word, fused.word != 0)[0]
        return bonus

    def texts(self, tokens: Tensor, lens: Tensor) -> Tensor:
        """What is added to whole texts (B, K, S), (B, K), their end included: (B, K)."""
        fused, neural = self.init(*lens.shape), self.start(*lens.shape)
        own = torch.arange(lens.shape[1], device=lens.device).expand_as(lens)
        total = torch.zeros(lens.shape, dtype=torch.float64, device=lens.device)
        for i in range(tokens.shape[2]):
            bonus, after = self.extend(fused, tokens[..., i : i + 1])
            bonus, real = bonus + self.likely(neural, tokens[..., i : i + 1]), i < lens
            total = total + torch.where(real, bonus[..., 0], 0.0)
            neural = self.follow(neural, own, torch.where(real, tokens[..., i], BLANK))
            fused = trees.map_tree(
                lambda new, old, real=real: torch.where(
                    real.view(*real.shape, *[1] * (new.dim() - 2)), new, old
                ),
                after,
                fused,
            )
        return total + self.finish(fused)

    def _words(self, history: Tensor, word: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the words that have ended, of (B, N); the histories of all."""
        assert self._model is not None
        score, following = self._model.score(history[ended], word[ended])
        streams = ended.nonzero()[:, 0]
        bonus = torch.zeros(word.shape, dtype=torch.float64, device=word.device)
        bonus[ended] = self._model_scale[streams] * score + self._word_bonus[streams]
        history = history.clone()
        history[ended] = following
        return bonus, history


def _repeat(x: Tensor, width: int) -> Tensor:
    """(B, N, ...) -> (B, N * width, ...)."""
    return x.repeat_interleave(width, 1)


def _start(model: LanguageModel | None, zero: Tensor) -> Tensor:
    if model is None:
        return zero[..., None]
    return model.start.expand(*zero.shape, -1).clone()


def _score(model: LanguageModel, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    score, following = model.score(history.flatten(0, 1), item.flatten())
    return score.view(item.shape), following.view(history.shape)
