"""CTC prefix scores (Watanabe et al. 2017): the probability that what was said begins with a text, however it goes on.

The recursions over frames are first-order and linear, so that all frames are done at once, as cumulative sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.search.emission import BLANK

__all__ = ["PrefixScores", "text_scores"]


@dataclass(frozen=True)
class PrefixScores:
    """K texts of each of B utterances of U frames.

    x: (B, U, V) float64 log-probabilities; likely: their exponentials; lens: (B,); last: (B, K), blank if none.
    spoken, silent: (B, K, U + 1), the log-probability that after so many frames the text is what was said, and the last
    frame its last token, or blank.
    """

    x: Tensor
    likely: Tensor
    lens: Tensor
    spoken: Tensor
    silent: Tensor
    last: Tensor

    @classmethod
    def of(cls, x: Tensor, lens: Tensor, texts: int) -> PrefixScores:
        """Of texts without tokens."""
        blank = _sums(x[..., BLANK])[:, None].expand(-1, texts, -1)
        last = torch.full((len(x), texts), BLANK, dtype=torch.int64, device=x.device)
        return cls(x, x.exp(), lens, torch.full_like(blank, -torch.inf), blank, last)

    def extensions(self) -> Tensor:
        """(B, K, V): the score of each text with each token behind it; of the blank, which is none, there is no use."""
        inside = (torch.arange(self.x.shape[1], device=self.x.device) < self.lens[:, None])[:, None]
        free = self._before(repeated=False).masked_fill(~inside, -torch.inf)
        most = free.amax(-1, keepdim=True).clamp(min=torch.finfo(self.x.dtype).min)
        scores = ((free - most).exp() @ self.likely).log() + most
        # A token right after itself is another one only if a blank lies between.
        again = self._before(repeated=True).masked_fill(~inside, -torch.inf)
        again = (again + self._column(self.last)).logsumexp(-1)
        return scores.scatter(2, self.last[..., None], again[..., None])

    def ended(self) -> Tensor:
        """(B, K): the log-probability that the text is all that was said."""
        at = self.lens[:, None, None].expand(-1, self.last.shape[1], 1)
        return torch.logaddexp(self.spoken.gather(2, at), self.silent.gather(2, at))[..., 0]

    def extend(self, parent: Tensor, token: Tensor) -> PrefixScores:
        """The texts that `parent` (B, K) names, each with a `token` (B, K) behind it."""
        rows = parent[..., None].expand_as(self.spoken)
        old = replace(
            self,
            spoken=self.spoken.gather(1, rows),
            silent=self.silent.gather(1, rows),
            last=self.last.gather(1, parent),
        )
        before = torch.where(
            (token == old.last)[..., None], old._before(repeated=True), old._before(repeated=False)
        )
        never = before.new_full((*token.shape, 1), -torch.inf)
        held, blank = _sums(self._column(token)), _sums(self.x[..., BLANK])[:, None]
        spoken = torch.cat([never, held[..., 1:] + (before - held[..., :-1]).logcumsumexp(-1)], -1)
        silent = blank[..., 1:] + (spoken[..., :-1] - blank[..., :-1]).logcumsumexp(-1)
        return replace(self, spoken=spoken, silent=torch.cat([never, silent], -1), last=token)

    def _before(self, *, repeated: bool) -> Tensor:
        """(B, K, U): that a text stands where each frame begins, such that a new token may come on it."""
        silent = self.silent[..., :-1]
        return silent if repeated else torch.logaddexp(self.spoken[..., :-1], silent)

    def _column(self, token: Tensor) -> Tensor:
        """(B, K) -> (B, K, U), each token's log-probabilities."""
        return self.x.gather(2, token[:, None].expand(-1, self.x.shape[1], -1)).transpose(1, 2)


def _sums(x: Tensor) -> Tensor:
    """(..., U) -> (..., U + 1): sums of the first 0, 1 ... U."""
    return torch.nn.functional.pad(x.cumsum(-1), (1, 0))


def text_scores(x: Tensor, lens: Tensor, texts: Tensor, text_lens: Tensor) -> Tensor:
    """The log-probability of whole texts: (B, U, V) log-probabilities, (B,), (B, K, S) tokens, (B, K) -> (B, K).

    Minus infinity where a text has more tokens than there are frames for.
    """
    frames = x.transpose(0, 1)
    losses = [
        torch.nn.functional.ctc_loss(
            frames, texts[:, k], lens, text_lens[:, k], blank=BLANK, reduction="none", zero_infinity=False
        )
        for k in range(texts.shape[1])
    ]
    return -torch.stack(losses, 1)
