"""What phrases do: recall of rare words with a list of them, and the word error rate with phrases nobody says.

    python tools/bench/biasing.py data/mini/dev.jsonl.gz
    python tools/bench/biasing.py robotutor/test.jsonl.gz --model runs/english/bundle --words robotutor/train.jsonl.gz

Rare are the words that the manifest has at most `--rare` times. Two lists of distractors: names put together of parts
of the manifest's words, none of them a word of it, the hardest there are; and words of `--words`, another manifest,
drawn at random among those that are not said in the first. "unsaid" is a list of one phrase that nobody says.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import kaldialign
import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.evaluate import count_errors, decode_frames, evaluation_loader
from asr.model import Model
from asr.paths import embedded_model
from asr.search.config import SearchConfig


def distractors(words: Sequence[str], count: int) -> list[str]:
    """Names of one or two parts, cut out of the words and put together anew."""
    chosen, known = random.Random(0), set(words)
    longer = [word for word in sorted(known) if len(word) > 2] or sorted(known)
    found: dict[str, None] = {}
    while len(found) < count:
        names = []
        for _ in range(chosen.choice((1, 1, 2))):
            first, last = chosen.choice(longer), chosen.choice(longer)
            names.append(first[: chosen.randint(1, len(first))] + last[-chosen.randint(1, len(last)) :])
        if not known & set(names):
            found[" ".join(names)] = None
    return list(found)


def unsaid(manifest: Path, words: set[str], count: int) -> list[str]:
    """Words of another manifest, of three letters or more, that are not among `words`."""
    with gzip.open(manifest, "rt", encoding="utf-8") as f:
        cuts = [json.loads(line) for line in f]
    other = {word for cut in cuts for part in cut["supervisions"] for word in part["text"].lower().split()}
    chosen = sorted(word for word in other - words if len(word) > 2)
    return random.Random(0).sample(chosen, min(count, len(chosen)))


def recall(texts: Sequence[str], found: Sequence[str], words: set[str]) -> tuple[int, int]:
    hits = said = 0
    for text, hypothesis in zip(texts, found, strict=True):
        for reference, heard in kaldialign.align(text.split(), hypothesis.split(), "*"):
            said += reference in words
            hits += reference in words and reference == heard
    return hits, said


@torch.inference_mode()
def decoded(model: Model, y: Tensor, y_lens: Tensor, head: str, search: SearchConfig) -> list[str]:
    emissions = decode_frames(model, y, y_lens, head, search)
    return [model.tokenizer.decode([e.token for e in said]).lower() for said in emissions]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rare", type=int, default=3, help="words that come at most so often")
    parser.add_argument("--boosts", default=str(SearchConfig.phrase_boost))
    parser.add_argument("--distractors", type=int, default=1000)
    parser.add_argument("--words", type=Path, help="a manifest of ordinary words")
    parser.add_argument("--heads", help="names with commas; all, by default")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = asr.load(options.model or embedded_model()).eval()
    batches, texts, seconds = [], list[str](), 0.0
    for batch in evaluation_loader(options.manifest, model.tokenizer, 120.0, limit=options.limit):
        with torch.inference_mode():
            batches.append(model.encode(*model.flushed(batch.samples, batch.sample_lens)))
        texts += [text.lower() for text in batch.texts]
        seconds += float(batch.sample_lens.sum()) / SAMPLE_RATE
    words = [word for text in texts for word in text.split()]
    rare = {word for word in words if words.count(word) <= options.rare}
    names = distractors(words, options.distractors)
    lists = {
        "unsaid": ["zzqx"],
        "rare": sorted(rare),
        "rare and names": [*sorted(rare), *names],
        "names": names,
    }
    if options.words:
        lists["words"] = unsaid(options.words, set(words), options.distractors)
    print(f"{len(texts)} utterances, {seconds:.0f} s, {len(words)} words; {len(rare)} rare")
    print(
        f"{'head':<12}{'search':<10}{'boost':>6}  {'phrases':<22}{'WER %':>8}{'rare found':>20}{'texts changed':>15}"
    )
    for head in options.heads.split(",") if options.heads else model.heads:
        for kind in ("greedy", "beam"):
            plain: list[str] = []
            for boost in map(float, options.boosts.split(",")):
                for name, phrases in (lists if plain else {"none": []} | lists).items():
                    search = SearchConfig(kind=kind, phrases=tuple(phrases), phrase_boost=boost)  # type: ignore[arg-type]
                    found = [
                        text for y, y_lens in batches for text in decoded(model, y, y_lens, head, search)
                    ]
                    plain = plain or found
                    hits, said = recall(texts, found, rare)
                    wer = 100 * count_errors(texts, found).rate
                    changed = sum(a != b for a, b in zip(plain, found, strict=True))
                    print(
                        f"{head:<12}{kind:<10}{boost:>6}  {name:<22}{wer:8.2f}{f'{hits} of {said}':>20}{changed:>15}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
