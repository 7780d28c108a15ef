"""How a batch of streams is to be searched: each one's configuration, made ready for tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.search.config import SearchConfig
from asr.search.fusion import Fused, Fusion
from asr.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.search.beam import Beam

__all__ = ["Plan"]

CANDIDATES = 40  # tokens that language models and phrases get to see of each hypothesis in a frame


class Plan:
    """The searches of B streams that share a step: one kind, beam and language model; the rest as each likes.

    penalty: (B,) of the blank, None where all are 0. blank_skip: (B,) the log-probability of CTC's blank above which a
    transducer does not look at a frame, None where it looks at all. length_bonus, end_threshold: (B,) float64, of
    attention; a threshold of infinity is none. fusion: None of greedy search; only then no tokenizer is needed.
    Raises ConfigError: configurations that cannot share a step. DataError: a language model that cannot be read.
    """

    def __init__(
        self, configs: Sequence[SearchConfig], tokenizer: Tokenizer | None, device: torch.device | None = None
    ) -> None:
        device = device or torch.device("cpu")
        self.configs, self._tokenizer, self._device = configs, tokenizer, device
        head = configs[0]
        if any(config.group != head.group for config in configs[1:]):
            raise ConfigError("searches of different kinds, beams or language models cannot share a step")
        self.kind, self.greedy, self.lag = head.kind, head.greedy, head.lag_frames
        self.beam, self.sure = head.width, head.sure
        self.follows = head.kind == "greedy" and not head.greedy  # greedy search's text, but for phrases
        penalties = [config.blank_penalty for config in configs]
        self.penalty = torch.tensor(penalties, device=device) if any(penalties) else None
        # 0 is the logarithm of a probability that none exceeds.
        most = [math.log(config.blank_skip or 1.0) for config in configs]
        self.blank_skip = torch.tensor(most, device=device) if any(most) else None
        bonuses = [config.length_bonus for config in configs]
        self.length_bonus = torch.tensor(bonuses, dtype=torch.float64, device=device)
        thresholds = [config.end_threshold or math.inf for config in configs]
        self.end_threshold = torch.tensor(thresholds, dtype=torch.float64, device=device)
        self.fusion: Fusion | None = None
        if not self.greedy:
            assert tokenizer is not None
            self.fusion = Fusion(configs, tokenizer, device)

    def rows(self, index: Sequence[int]) -> Plan:
        """The plan of some of the streams."""
        return Plan([self.configs[i] for i in index], self._tokenizer, self._device)

    def with_lag(self, frames: int) -> Plan:
        """The same search, which settles its tokens so late."""
        plan = copy.copy(self)
        plan.lag = frames
        return plan

    def additions(self, tokens: Tensor, lens: Tensor) -> Tensor:
        """What is added to the scores of an attention head's whole texts (B, K, S), (B, K): (B, K)."""
        bonus = self.length_bonus[:, None] * lens
        if self.fusion is None or not self.fusion.used:
            return bonus
        return bonus + self.fusion.texts(tokens, lens)

    def penalise(self, logits: Tensor) -> Tensor:
        """(B, ..., V) -> log-probabilities with the blank's penalty; log-probabilities may come in, too."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return wide.log_softmax(-1) if self.penalty is None else self._lower(wide).log_softmax(-1)

    def penalised(self, join: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """A transducer's joiner whose logits (B, ..., V) have the penalty."""
        return (
            join if self.penalty is None else lambda encoder, predictor: self._lower(join(encoder, predictor))
        )

    def _lower(self, logits: Tensor) -> Tensor:
        assert self.penalty is not None
        penalty = self.penalty.view(-1, *[1] * (logits.dim() - 1)).to(logits.dtype)
        return torch.cat([logits[..., :1] - penalty, logits[..., 1:]], -1)

    def width(self, vocabulary: int) -> int:
        """Tokens of a frame that are candidates. Without fusion, K + 1 hold the K best extensions: no more than the
        repetition of its last token can stand higher in a frame than in a hypothesis' score."""
        fused = self.fusion is not None and self.fusion.used
        return min(vocabulary - 1, max(CANDIDATES, self.beam + 1) if fused else self.beam + 1)

    def extend(self, beam: Beam, tokens: Tensor, heard: Tensor) -> tuple[Tensor | float, Fused | None]:
        """What is added to each hypothesis with each of its tokens (B, K, C), and what remembers it, if anything.

        heard: as of `Fusion.extend`.
        """
        if self.fusion is None or not self.fusion.used:
            return 0.0, None
        bonus, fused = self.fusion.extend(beam.fused, tokens, heard)
        return bonus + self.fusion.likely(beam.neural, tokens), fused

    def follow(self, beam: Beam, parent: Tensor, token: Tensor) -> Beam:
        """The neural language model hears what a frame has made of the hypotheses: see `asr.search.beam.advance`."""
        if self.fusion is None or self.fusion.neural is None:
            return beam
        return replace(beam, neural=self.fusion.follow(beam.neural, parent, token))
