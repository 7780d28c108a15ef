"""Language models: n-grams of words or tokens, and neural ones over tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from asr.errors import ConfigError
from asr.language_model import ngram
from asr.language_model.ngram import LanguageModel

if TYPE_CHECKING:
    from asr.language_model.neural import NeuralLM
    from asr.tokenizer import Tokenizer

__all__ = ["LanguageModel", "load", "load_bigram"]


@cache  # for good: the steps of a server's sessions come back to each
def load(path: str, tokenizer: Tokenizer, device: torch.device) -> LanguageModel | NeuralLM:
    """A file of n-grams, or the bundle of a neural model of the tokenizer's tokens.

    Raises DataError: a file that cannot be read, or is damaged. BundleError: the same of a bundle. ConfigError: a
    model of other tokens; a KenLM binary without the package `kenlm`.
    """
    if not Path(path).is_dir() and not path.endswith(".tar"):
        return ngram.load(path, tokenizer, device)
    from asr.language_model.neural import NeuralLM  # after the search, whose predictors it shares

    model = NeuralLM.load(path, device=device)
    if model.tokenizer.to_bytes() != tokenizer.to_bytes():
        raise ConfigError(
            f"{path}: is a language model of other tokens; train one with `tokenizer` naming this speech model"
        )
    return model


def load_bigram(path: str, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """What `SearchConfig.lodr` names. Raises as `load` does, and ConfigError for what is no n-gram of tokens."""
    model = load(path, tokenizer, device)
    if not isinstance(model, ngram.TokenNgrams):
        raise ConfigError(
            f"{path}: is no n-gram of the model's tokens, which lodr takes; tools/ngram.py makes one"
        )
    return model
