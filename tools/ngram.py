"""An n-gram model of texts, as ARPA: of a model's tokens (--model), for LODR or as a baseline, or else of words.

    python tools/ngram.py data/an4/train.jsonl.gz --model data/models/english --order 2 --out an4-bigram.arpa

Texts are files of a text a line (.txt), or manifests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.bundle_files import load_tokenizer
from asr.dataset.texts import read_texts
from asr.language_model.estimate import estimate
from asr.search.phrases import as_written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = (text for path in options.texts for _, text in read_texts(path))
    if options.model is None:
        estimate((text.split() for text in texts), options.out, order=options.order)
        return
    tokenizer = load_tokenizer(options.model)
    pieces = [tokenizer.piece(i) for i in range(1, tokenizer.size)]
    said = ([pieces[t - 1] for t in tokenizer.encode(as_written(text, tokenizer))] for text in texts)
    estimate(said, options.out, order=options.order, vocabulary=[p for p in pieces if p != "<unk>"])


if __name__ == "__main__":
    main()
