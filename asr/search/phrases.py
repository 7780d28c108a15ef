"""Contextual biasing: phrases -> tokens -> an automaton whose weights raise their score.

A whole phrase adds the boost of each of its tokens, less `PRIOR` log n among n phrases: the more there are, the less
likely it is that this one was said. Its first token bears that, so that what is merely like one of a thousand phrases
is not begun. The boost is lent as the tokens come, for else the phrase would be pruned before it is complete. The loan
is taken back when the match breaks off, when a token is far less probable than the best one, or when a word goes on
where the phrase ends ("ANN" in "ANNOYED"): in the end only whole phrases have a boost.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from asr.errors import DataError
from asr.search.automaton import Automaton
from asr.search.emission import Emission
from asr.tokenizer import UNKNOWN_TEXT, Tokenizer, WordBuilder
from asr.transcript import Word

__all__ = ["PRIOR", "Match", "Phrases", "Refused", "as_written", "compile_phrases", "mark", "word_begins"]

SPACE = "▁"
PRIOR = 0.5  # nats for each of log n, chosen on dev sets; 1 if the acoustic scores were true probabilities
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)  # scripts without spaces between words


class Refused(NamedTuple):
    """A phrase that cannot be boosted, and why."""

    phrase: str
    reason: str


class Match(NamedTuple):
    """Tokens from `begin` up to `end`, not included, are `phrase`, as it was given."""

    begin: int
    end: int
    phrase: str


@dataclass(frozen=True, eq=False)
class Phrases:
    """What became of a list of phrases: `automaton` over tokens, those `refused`; `tokens` -> phrase of the others."""

    automaton: Automaton
    refused: tuple[Refused, ...]
    tokens: dict[tuple[int, ...], str]
    begins: tuple[bool, ...]
    space: int | None

    def matches(self, tokens: Sequence[int]) -> list[Match]:
        """The phrases that got their boost in a stream of tokens: the longest at each place, from left to right."""
        longest = max(map(len, self.tokens), default=0)
        found, i = [], 0
        while i < len(tokens):
            for end in range(min(len(tokens), i + longest), i, -1):
                phrase = self.tokens.get(tuple(tokens[i:end]))
                if phrase is None and i == 0 and self.space is not None:  # as if after a space
                    phrase = self.tokens.get((self.space, *tokens[:end]))
                if phrase is not None and (end == len(tokens) or self.begins[tokens[end]]):
                    found.append(Match(i, end, phrase))
                    i = end - 1
                    break
            i += 1
        return found


def mark(
    words: Sequence[Word], emissions: Sequence[Emission], phrases: Phrases, tokenizer: Tokenizer
) -> tuple[Word, ...]:
    """The words that `emissions` make, each with the phrase whose boost it got, if any."""
    marked, builder, done = list(words), WordBuilder(tokenizer, frame_seconds=0.0), 0
    for begin, end, phrase in phrases.matches([e.token for e in emissions]):
        builder.push(emissions[done:begin])
        first = len(builder.words)
        if first and not tokenizer.piece(emissions[begin].token).startswith((SPACE, " ")):
            first -= 1  # in the midst of a text without spaces
        builder.push(emissions[begin:end])
        done = end
        for i in range(first, min(len(builder.words), len(marked))):
            marked[i] = replace(marked[i], phrase=phrase)
    return tuple(marked)


def as_written(text: str, tokenizer: Tokenizer) -> str:
    """`text` in the case of a model that has one case only; as it is for others."""
    match _case(tokenizer):
        case "upper":
            return text.upper()
        case "lower":
            return text.lower()
    return text


@lru_cache(maxsize=8)
def _case(tokenizer: Tokenizer) -> str:
    letters = "".join(filter(_plain, map(tokenizer.piece, range(1, tokenizer.size))))
    if letters.upper() == letters != letters.lower():
        return "upper"
    return "lower" if letters.lower() == letters != letters.upper() else "both"


def _plain(piece: str) -> bool:
    return not (piece.startswith("<") and piece.endswith(">"))  # not <unk>, not a byte


def _unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


@lru_cache(maxsize=8)
def word_begins(tokenizer: Tokenizer) -> tuple[bool, ...]:
    """Whether a word ends before each token: it writes a space first, or is of a script without spaces."""
    pieces = map(tokenizer.piece, range(tokenizer.size))
    return tuple(piece.startswith((SPACE, " ")) or _unspaced(piece[0]) for piece in pieces)


@lru_cache(maxsize=1024)  # more than a server has sessions: each step asks again
def compile_phrases(phrases: tuple[str, ...], boost: float, tokenizer: Tokenizer) -> Phrases:
    """Phrases as a user writes them, in any case -> what search needs of them."""
    tokens: dict[tuple[int, ...], str] = {}
    refused = []
    for phrase in phrases:
        try:
            for spelling in _spellings(phrase, tokenizer):
                tokens.setdefault(spelling, phrase)
        except DataError as error:
            refused.append(Refused(phrase, str(error)))
    automaton = _automaton(tokens, boost, tokenizer, PRIOR * math.log(max(1, len(set(tokens.values())))))
    return Phrases(automaton, tuple(refused), tokens, word_begins(tokenizer), _space(tokenizer))


@lru_cache(maxsize=8)
def _space(tokenizer: Tokenizer) -> int | None:
    """The token that is a space and nothing else."""
    return next((i for i in range(tokenizer.size) if tokenizer.piece(i) in (SPACE, " ")), None)


def _spellings(phrase: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Its tokens; more than one way where a word may begin without a space. Raises DataError."""
    text = as_written(phrase, tokenizer)
    tokens = tuple(tokenizer.encode(text))
    if not tokens:
        raise DataError("it has no letters")
    if UNKNOWN_TEXT in tokenizer.decode(tokens):
        raise DataError("it has a character that the model cannot write")
    space = _space(tokenizer)
    if tokenizer.kind == "characters":
        spaced = tokens if space is None else (space, *tokens)
        return [spaced, tokens] if _unspaced(text.strip()[0]) else [spaced]
    ways = [tokens]
    if _unspaced(text.strip()[0]):  # the same without the space that SentencePiece puts first
        head = tokenizer.piece(tokens[0]).removeprefix(SPACE)
        first = next((i for i in range(tokenizer.size) if tokenizer.piece(i) == head), None)
        if tokens[0] == space or first is not None:
            ways.append(tokens[1:] if tokens[0] == space else (first or 0, *tokens[1:]))
    return ways


@dataclass
class _Node:
    """A place in the tree of phrases.

    loan: what has been added for the tokens since the last whole phrase, and may still be taken back.
    worth: what the path is worth if it is a phrase, or phrases; kept: how much of it whole phrases on it have.
    ending: the worth of the longest phrase that ends here, which may have begun later than the path.
    """

    parent: int
    token: int
    loan: float = 0.0
    worth: float = 0.0
    kept: float = 0.0
    ending: float = 0.0
    back: int = 0

    @property
    def earned(self) -> float:
        """What becomes kept where a word ends here."""
        return max(0.0, min(self.ending, self.worth - self.kept))


def _automaton(
    phrases: Iterable[tuple[int, ...]], boost: float, tokenizer: Tokenizer, cost: float
) -> Automaton:
    begins, space = word_begins(tokenizer), _space(tokenizer)
    nodes, children = [_Node(0, 0)], [{}]  # type: tuple[list[_Node], list[dict[int, int]]]
    ends = set()
    for tokens in phrases:
        at = 0
        for token in tokens:
            if token not in children[at]:
                children[at][token] = len(nodes)
                nodes.append(_Node(at, token))
                children.append({})
            at = children[at][token]
        ends.add(at)
    begun, order, weights = [False] * len(nodes), [0], dict[tuple[int, int], tuple[float, int]]()
    for at in order:  # by depth: a node's failure state is less deep
        node = nodes[at]
        if at:
            parent = nodes[node.parent]
            begun[at] = begun[node.parent] or node.token != space
            boost_here = (boost - cost * (not begun[node.parent])) if node.token != space else 0.0
            ended = parent.earned if begins[node.token] else 0.0
            node.kept, node.worth = parent.kept + ended, parent.worth + boost_here
            node.loan = (0.0 if ended else parent.loan) + boost_here
            back = parent.back if node.parent else -1
            while back >= 0 and node.token not in children[back]:
                back = nodes[back].back if back else -1
            node.back = children[back][node.token] if back >= 0 else 0
            node.ending = node.worth if at in ends else nodes[node.back].ending
            weights[node.parent, node.token] = (node.loan - parent.loan + ended, at)
        order += children[at].values()
    size = tokenizer.size
    keys = sorted(weights)
    backs = [nodes[node.back] for node in nodes]
    lost = [back.loan - node.loan for node, back in zip(nodes, backs, strict=True)]
    saved = [node.earned - back.earned for node, back in zip(nodes, backs, strict=True)]
    first = children[0].get(space, 0) if space is not None else 0
    return Automaton(
        size,
        torch.tensor([state * size + token for state, token in keys], dtype=torch.int64),
        _floats([weights[key][0] for key in keys]),
        torch.tensor([weights[key][1] for key in keys], dtype=torch.int64),
        torch.tensor([node.back for node in nodes]),
        torch.stack([_floats(lost), _floats(lost) + _floats(saved)], 1),
        _floats([node.earned - node.loan for node in nodes]),
        torch.tensor([first]),  # a stream begins as if after a space
    )


def _floats(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
