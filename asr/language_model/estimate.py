"""N-gram models from texts, as ARPA files: interpolated with Witten-Bell's weights (1991), which need no tuning.

For small jobs: the token bigram that LODR takes away, a baseline. KenLM's lmplz is for corpora of gigabytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from asr.language_model.arpa import UNKNOWN

__all__ = ["estimate"]

BEGIN, END = "<s>", "</s>"
Gram = tuple[str, ...]


def estimate(
    texts: Iterable[Sequence[str]], path: Path, *, order: int, vocabulary: Collection[str] = ()
) -> None:
    """Write the n-grams of texts, each a sequence of items (words, or pieces of a tokenizer), up to `order`.

    vocabulary: items that may come though no text has them; what is in neither shares the probability of <unk>.
    Raises ValueError: `order` is below 1.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, not {order}")
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for text in texts:
        said = (BEGIN, *text, END)
        for n in range(1, order + 1):
            first = 1 if n == 1 else 0  # the begin is never said
            counts[n - 1].update(said[i : i + n] for i in range(first, len(said) - n + 1))
    counts[0].update({(item,): 0 for item in (*vocabulary, UNKNOWN)})
    probabilities: list[dict[Gram, float]] = []
    weights: list[dict[Gram, float]] = []
    for n, grams in enumerate(counts):
        total, kinds = defaultdict[Gram, int](int), defaultdict[Gram, int](int)
        for gram, count in grams.items():
            total[gram[:-1]] += count
            kinds[gram[:-1]] += count > 0
        weights.append({h: kinds[h] / (total[h] + kinds[h]) if total[h] else 1.0 for h in total})
        lower = probabilities[n - 1] if n else {}
        found = {}
        for gram, count in grams.items():
            h = gram[:-1]
            before = lower[gram[1:]] if n else 1 / len(grams)
            found[gram] = count / (total[h] + kinds[h]) * (count > 0) + weights[n][h] * before
        probabilities.append(found)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(probabilities, weights))


def _lines(probabilities: list[dict[Gram, float]], weights: list[dict[Gram, float]]) -> Iterator[str]:
    sizes = [len(grams) + (n == 0) for n, grams in enumerate(probabilities)]
    yield from ("\\data\\", *(f"ngram {n}={size}" for n, size in enumerate(sizes, 1)), "")
    for n, grams in enumerate(probabilities):
        yield f"\\{n + 1}-grams:"
        back = weights[n + 1] if n + 1 < len(weights) else {}
        if n == 0:
            yield _line(-99.0, (BEGIN,), back)
        for gram, probability in grams.items():
            yield _line(math.log10(probability), gram, back)
        yield ""
    yield "\\end\\"


def _line(score: float, gram: Gram, back: dict[Gram, float]) -> str:
    weight = f"\t{math.log10(back[gram]):.7f}" if gram in back else ""
    return f"{score:.7f}\t{' '.join(gram)}{weight}"
