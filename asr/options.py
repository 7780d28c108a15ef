"""What verbs of the command have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "BatchSeconds",
    "Beam",
    "CTCWeight",
    "Fast",
    "Head",
    "LanguageModel",
    "LanguageModelScale",
    "Limit",
    "Model",
    "Phrases",
    "Rescoring",
    "argument",
    "load_model",
    "option",
]


def option(text: str, *names: str, **settings: Any) -> Any:
    """An option of a verb; `text` is its help."""
    return typer.Option(*names, help=text, **settings)


def argument(text: str, **settings: Any) -> Any:
    """An argument of a verb; `text` is its help."""
    return typer.Argument(help=text, **settings)


Model = Annotated[
    Path | None,
    option("Model to use. Default: $RILL_MODEL, or the embedded one.", "--model", "-m", metavar="BUNDLE"),
]
Head = Annotated[
    str | None, option("transducer, ctc or attention. Default: the model's first.", metavar="NAME")
]
Fast = Annotated[
    bool, option("Leave attention out, in a Branchformer trained with branch dropout.", "--fast")
]
Beam = Annotated[
    int | None, option("Beam search with N hypotheses. Default: greedy, the fastest.", metavar="N")
]
Phrases = Annotated[
    Path | None, option("Names and terms to be recognised more readily, one a line.", metavar="FILE")
]
LanguageModel = Annotated[
    Path | None,
    option(
        "Language model: n-grams (ARPA, KenLM), or a neural one's bundle. Makes it a beam search.",
        metavar="FILE",
    ),
]
LanguageModelScale = Annotated[float, option("How much it counts.", metavar="X")]
Limit = Annotated[int | None, option("Only N utterances, spread evenly over the manifest.", metavar="N")]
Rescoring = Annotated[
    bool,
    option(
        "Let the attention decoder choose among what CTC has heard. With --head attention.", "--rescoring"
    ),
]
CTCWeight = Annotated[float, option("CTC's share in the scores of head attention, 0 to 1.", metavar="X")]
BatchSeconds = Annotated[
    float,
    option("Seconds of audio in a batch: more is faster and takes more memory.", metavar="S"),
]


def load_model(model: Path | None, fast: bool) -> Any:
    """The model that was named, or the embedded one."""
    from asr.bundle import load
    from asr.paths import embedded_model

    return load(model or embedded_model(), fast=fast)
