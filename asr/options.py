"""What verbs of the command have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from asr.errors import DataError
from asr.search.config import SearchConfig

__all__ = [
    "NOTHING_SAID",
    "BatchSeconds",
    "Fast",
    "Head",
    "Limit",
    "Model",
    "SearchOptions",
    "argument",
    "load_model",
    "option",
    "searching",
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
Limit = Annotated[int | None, option("Only N utterances, spread evenly over the manifest.", metavar="N")]
BatchSeconds = Annotated[
    float,
    option("Seconds of audio in a batch: more is faster and takes more memory.", metavar="S"),
]


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a command line says of the search (`asr.search.config.SearchConfig`); None: nothing."""

    beam: Annotated[
        int | None, option("Beam search with N hypotheses. Default: greedy, the fastest.", metavar="N")
    ] = None
    rescoring: Annotated[
        bool,
        option(
            "Let the attention decoder choose among what CTC has heard. With --head attention.", "--rescoring"
        ),
    ] = False
    ctc_weight: Annotated[
        float | None, option("CTC's share in the scores of head attention. Default: 0.3.", metavar="X")
    ] = None
    length_bonus: Annotated[
        float | None, option("Added for each token of head attention's text. Default: 0.", metavar="X")
    ] = None
    end_threshold: Annotated[
        float | None,
        option(
            "Head attention: end a text only where the end's log-probability is at most X times the best token's.",
            metavar="X",
        ),
    ] = None
    blank_penalty: Annotated[
        float | None, option("More makes it say more, and more of it wrong. Default: 0.", metavar="X")
    ] = None
    blank_skip: Annotated[
        float | None,
        option(
            "Of head transducer: pass over frames that CTC gives more blank than this, as 0.99.", metavar="P"
        ),
    ] = None
    phrases: Annotated[
        Path | None, option("Names and terms to be recognised more readily, one a line.", metavar="FILE")
    ] = None
    phrase_boost: Annotated[
        float | None, option(f"How much more readily. Default: {SearchConfig.phrase_boost:g}.", metavar="X")
    ] = None
    phrase_margin: Annotated[
        float | None,
        option(
            "How much less probable than the best a phrase's tokens may be, in nats. "
            f"Default: {SearchConfig.phrase_margin:g}.",
            metavar="X",
        ),
    ] = None
    lm: Annotated[
        str | None,
        option(
            "Language model: n-grams (ARPA, KenLM), or a neural one's bundle. Makes it a beam search.",
            metavar="FILE",
        ),
    ] = None
    lm_scale: Annotated[float | None, option("How much it counts. Default: 0.3.", metavar="X")] = None
    word_bonus: Annotated[
        float | None, option("Added for each word of a language model of words. Default: 0.", metavar="X")
    ] = None
    lodr: Annotated[
        str | None,
        option(
            "Bigram of tokens (ARPA) whose scores are taken away: what the model has learnt.", metavar="FILE"
        ),
    ] = None
    lodr_scale: Annotated[float | None, option("How much of them. Default: 0.1.", metavar="X")] = None

    def given(self) -> dict[str, Any]:
        """Fields of `SearchConfig`, those that were said. Raises DataError: phrases that cannot be read."""
        found = {
            x.name: getattr(self, x.name) for x in fields(self) if x.name not in ("rescoring", "phrases")
        }
        found = {name: value for name, value in found.items() if value is not None}
        if self.rescoring:
            found["kind"] = "rescoring"
        elif found.keys() & {"beam", "lm", "lodr"}:
            found["kind"] = "beam"
        if self.phrases is not None:
            found["phrases"] = _lines(self.phrases)
        return found

    def search(self) -> SearchConfig | None:
        """None where nothing was said. Raises DataError, and ConfigError as `SearchConfig` does."""
        found = self.given()
        return SearchConfig(**found) if found else None


NOTHING_SAID = SearchOptions()


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give a text file in UTF-8, a phrase a line"
        ) from error
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def searching(**others: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a verb that takes `search: SearchOptions`: in its place the command has an option for each field.

    others: options that stand for a field in this verb, where its own says something else.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        types = get_type_hints(SearchOptions, include_extras=True)
        for name, other in others.items():
            types[name] = Annotated[types[name].__origin__, other]
        signature, hints = inspect.signature(verb), get_type_hints(verb, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "search":
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
                continue
            for field in fields(SearchOptions):
                kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
                parameters.append(
                    inspect.Parameter(field.name, kind, default=field.default, annotation=types[field.name])
                )

        @functools.wraps(verb)
        def run(**given: Any) -> None:
            search = SearchOptions(**{x.name: given.pop(x.name) for x in fields(SearchOptions)})
            verb(search=search, **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def load_model(model: Path | None, fast: bool) -> Any:
    """The model that was named, or the embedded one."""
    from asr.bundle import load
    from asr.paths import embedded_model

    return load(model or embedded_model(), fast=fast)
