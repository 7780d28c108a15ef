"""What a request or a session may choose about the search."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from asr.errors import ConfigError

__all__ = ["KINDS", "RANGES", "Kind", "SearchConfig"]

Kind = Literal["greedy", "beam", "rescoring"]
KINDS: tuple[str, ...] = get_args(Kind)

RANGES: dict[str, tuple[float, float]] = {
    "beam": (1, 64),
    "blank_penalty": (-20, 20),
    "blank_skip": (0.5, 1),
    "lm_scale": (0, 20),
    "word_bonus": (-20, 20),
    "lodr_scale": (0, 20),
    "phrase_boost": (0, 20),
    "phrase_margin": (0, 1000),
    "ctc_weight": (0, 1),
    "reverse_weight": (0, 1),
    "length_bonus": (-20, 20),
    "end_threshold": (1, 1000),
    "lag_frames": (1, 10_000),
}
"""From and to which value each number may be."""

LENT = 3  # hypotheses at least that are kept for phrases, besides the others


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How tokens are chosen. The default is greedy search, the fastest.

    kind: greedy, or beam (CTC: prefix beam search; transducer: modified beam search, one token a frame at most;
    attention: one pass over its segment with CTC's prefix scores), or rescoring (attention alone: CTC's prefix beam
    search, whose hypotheses the decoder scores once a segment is over).
    beam: hypotheses that are kept, besides those that phrases lift up.
    blank_skip: a transducer does not look at frames whose blank CTC gives more than this probability, as 0.99; None: it
    looks at all (Wang et al. 2023). It takes a model with both heads, trained together.
    blank_penalty: taken from the blank's log-probability; more words, and more of them wrong.
    lm, lm_scale: an n-gram file, ARPA (.arpa, .arpa.gz) of words or of the model's tokens, or KenLM's binary of
    words; or the bundle of a neural language model of the same tokens. Its natural log-probabilities are added with
    this weight. word_bonus: added for each word of a word model.
    lodr, lodr_scale: a token bigram (ARPA) that stands for what the model has learnt of its training texts; it is
    subtracted with this weight (Zheng et al. 2022).
    phrases, phrase_boost: texts to be recognised more readily, and what each of their tokens adds to the score; less,
    the more there are (see `asr.search.phrases`). phrase_margin: a token whose log-probability lies by more than that
    below the frame's best, blank or not, breaks a phrase off. The search keeps three hypotheses at least for phrases,
    besides its own, which do not know of them: where no phrase fires, the text is what it is without a list.
    ctc_weight: CTC's share in an attention head's scores, from 0 to 1. reverse_weight: the share of its right-to-left
    decoder in what is left, if it has one; None is the share with which it was trained. length_bonus: added for each
    token of an attention head's text, as the decoder alone likes short ones. end_threshold: its beam search ends a text
    only where the end's log-probability is at most so many times that of the best token, as 1.5 (Hannun et al. 2019);
    None: anywhere.
    lag_frames: after so many output frames, and 8 at most beyond, a token is settled: hypotheses that disagree with
    the best one are given up. It bounds both memory and how long a word may still change. Attention settles a segment
    at once: so many frames after its last token.

    Raises ConfigError: a value out of its range; a language model with greedy search, which cannot use one.
    """

    kind: Kind = "greedy"
    beam: int = 4
    blank_penalty: float = 0.0
    blank_skip: float | None = None
    lm: str | None = None
    lm_scale: float = 0.3
    word_bonus: float = 0.0
    lodr: str | None = None
    lodr_scale: float = 0.1
    phrases: tuple[str, ...] = ()
    phrase_boost: float = 1.2
    phrase_margin: float = 3.0
    ctc_weight: float = 0.3
    reverse_weight: float | None = None
    length_bonus: float = 0.0
    end_threshold: float | None = None
    lag_frames: int = 20

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"search.kind is {self.kind!r}; use greedy, beam or rescoring")
        for name, (low, high) in RANGES.items():
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                raise ConfigError(f"search.{name} is {getattr(self, name)}; it must be from {low} to {high}")
        if self.kind == "greedy" and (self.lm or self.lodr):
            raise ConfigError(
                "search.lm and search.lodr need hypotheses to choose from: set search.kind to beam"
            )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # of a thousand phrases, asked at each step
        return hash((self.kind, self.beam, self.blank_penalty, self.lm, self.lm_scale, self.phrases))

    @property
    def plain(self) -> bool:
        """Greedy search, and nothing that changes it."""
        return self.greedy and not (self.blank_penalty or self.length_bonus) and self.blank_skip is None

    @property
    def greedy(self) -> bool:
        """A single hypothesis. Phrases need more: with them, "greedy" is a beam of one and of some that are lent."""
        return self.kind == "greedy" and not self.phrases

    @property
    def sure(self) -> int:
        """Hypotheses that are kept whatever is lent to others."""
        return 1 if self.kind == "greedy" else self.beam

    @property
    def group(self) -> Hashable:
        """Streams whose groups are equal can share a step, whatever else they have chosen."""
        if self.greedy:
            return ("greedy",)
        return (self.kind, self.sure, self.width, self.lag_frames, self.lm, self.lodr)

    @property
    def memory(self) -> Hashable:
        """Of what a stream's state has the form: another search with the same can go on from it."""
        return (self.group, self.phrases, self.phrase_boost)

    @property
    def width(self) -> int:
        """Hypotheses in a beam: with phrases more, for those whose boost is not earned yet."""
        return self.sure + max(self.sure, LENT) if self.phrases else self.sure
