"""Perplexity of a neural language model's tokens against that of an n-gram model, on the same texts.

    python tools/ngram.py TRAIN.jsonl.gz --model data/models/english --order 3 --out 3gram.arpa
    python tools/bench/language_models.py data/english/dev.jsonl.gz --neural runs/english-lm/bundle --ngram 3gram.arpa

Ends of texts are not counted, which an n-gram in search does not score. Texts are files of a text a line, or manifests.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from asr.dataset.texts import read_texts
from asr.language_model import ngram
from asr.language_model.neural import NeuralLM
from asr.search.phrases import as_written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--neural", type=Path, required=True)
    parser.add_argument("--ngram", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    neural = NeuralLM.load(options.neural)
    grams = ngram.load(options.ngram, neural.tokenizer, torch.device("cpu"))
    if grams.unit != "tokens":
        parser.error(f"{options.ngram} is not a model of these tokens; make one with tools/ngram.py --model")
    for path in options.texts:
        said = [neural.tokenizer.encode(as_written(text, neural.tokenizer)) for _, text in read_texts(path)]
        count = sum(map(len, said))
        begin, total = time.process_time(), 0.0
        with torch.inference_mode():
            for tokens in said:
                x = neural(torch.tensor([tokens]))[0]
                total += float(x[torch.arange(len(tokens)), tokens].double().sum())
        found, spent = {"neural": math.exp(-total / count)}, {"neural": time.process_time() - begin}
        begin, total = time.process_time(), 0.0
        for tokens in said:
            history = grams.start[None]
            for token in tokens:
                score, history = grams.score(history, torch.tensor([token]))
                total += float(score)
        found["n-gram"], spent["n-gram"] = math.exp(-total / count), time.process_time() - begin
        print(f"{path}: {len(said)} texts, {count} tokens")
        for name, perplexity in found.items():
            print(f"  {name:<8} perplexity {perplexity:8.2f}   {spent[name]:6.2f} s of processor time")
        print(f"  ratio    {found['neural'] / found['n-gram']:.2f}")


if __name__ == "__main__":
    main()
