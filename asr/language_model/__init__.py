"""Language models over words or tokens."""

from __future__ import annotations

from asr.language_model.ngram import LanguageModel, load

__all__ = ["LanguageModel", "load"]
