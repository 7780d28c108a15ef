"""The fields of the native protocol's `start` and `update`: a JSON object -> `Options`, or what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, cast

from asr.audio import RATES
from asr.errors import ConfigError, ProtocolError
from asr.search.config import KINDS, RANGES, SearchConfig
from streaming.endpoint import Rules
from streaming.events import ENCODINGS, Encoding, Options
from streaming.protocols import Offer, parse_object, shown
from streaming.protocols.phrases import RULE, good

__all__ = [
    "CHANNELS",
    "NUMBERS",
    "PROTOCOL",
    "RefusedError",
    "changed",
    "given",
    "known",
    "nearest",
    "parse",
    "resolved",
]

PROTOCOL = 1
CHANNELS = (1, 8)
NUMBERS = {name: limits for name, limits in RANGES.items() if name != "lag_frames"}  # which is the server's
SEARCH = ("kind", "lm", "lodr", *NUMBERS)  # of `SearchConfig`
_NONE = ("lm", "lodr", "blank_skip", "reverse_weight", "end_threshold")
"""Of these null says that there is none; of the other fields, that it is the default."""
LONGEST_INTERVAL = 60.0
_AUDIO = ("sample_rate", "encoding", "channels")
_STATE = ("model", "latency_ms", "head")


class RefusedError(ProtocolError):
    """`code` is the one of the error message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(text: str) -> dict[str, Any]:
    """A message's fields. Raises RefusedError."""
    message = parse_object(text)
    if message is None:
        raise RefusedError(
            "bad_json",
            'a text message must be a JSON object such as {"type": "start"} or {"type": "end"}; '
            "audio goes in binary messages",
        )
    return message


def given(message: dict[str, Any], offer: Offer, before: SearchConfig | None = None) -> Options:
    """The options of `start`, with a search as it was `before` where they leave it. Raises RefusedError."""
    known(message, ("protocol", *(x.name for x in fields(Options)), "phrases"), "start")
    _field(
        message,
        "protocol",
        PROTOCOL,
        lambda v: v == PROTOCOL,
        f"{PROTOCOL}, the only version this server speaks",
    )
    name = message.get("model")
    if name is not None and name not in offer.names:
        raise _bad("model", name, f"one of {', '.join(offer.names)}")
    offer = offer.named(name)
    low, high = RATES
    latency, head = _field(message, "latency_ms", None, _integer, "a whole number"), message.get("head")
    if latency is not None and latency not in offer.latencies:
        raise _bad("latency_ms", latency, f"one of {', '.join(map(str, offer.latencies))}")
    if head is not None and head not in offer.heads:
        raise _bad("head", head, f"one of {', '.join(offer.heads)}")
    rate = _field(
        message,
        "sample_rate",
        16_000,
        lambda v: _integer(v) and low <= v <= high,
        f"a whole number from {low} to {high} Hz",
    )
    encoding = _field(
        message,
        "encoding",
        "s16le",
        lambda v: isinstance(v, str) and v in ENCODINGS,
        f"one of {', '.join(ENCODINGS)}",
    )
    low, high = CHANNELS
    names = {
        "kind": offer.searches.get(head or offer.default_head, KINDS),
        "lm": offer.language_models,
        "lodr": offer.bigrams,
    }
    options = offer.options(
        sample_rate=rate,
        encoding=cast("Encoding", encoding),
        channels=_field(
            message, "channels", 1, lambda v: _integer(v) and low <= v <= high, f"from {low} to {high}"
        ),
        partials=_field(message, "partials", True, _boolean, "true or false"),
        partial_interval=_field(
            message,
            "partial_interval",
            0.0,
            lambda v: _number(v) and 0 <= v <= LONGEST_INTERVAL,
            f"a number of seconds up to {LONGEST_INTERVAL:g}",
        ),
        words=_field(message, "words", True, _boolean, "true or false"),
        confidence=_field(message, "confidence", True, _boolean, "true or false"),
        search=_search(message.get("search"), message.get("phrases"), before or offer.search, names),
        endpointing=_rules(message.get("endpointing")),
    )
    if options.endpointing.voice is not None and not offer.voice:
        raise RefusedError(
            "bad_field", "endpointing.voice: this server has no voice activity detector; leave it out"
        )
    chosen = {"latency_ms": latency, "head": head}
    return replace(options, **{name: value for name, value in chosen.items() if value is not None})


def changed(message: dict[str, Any], before: Options, offer: Offer) -> tuple[Options, bool]:
    """The options after an `update`, and whether they need a new state of the recogniser. Raises RefusedError."""
    told = resolved(before)
    known(message, tuple(told), "update")
    del told["search"]
    for name in _AUDIO:
        if name in message:
            raise RefusedError("bad_field", f"{name} cannot change within a stream: open a new connection")
    if "model" in message and message["model"] != before.model:
        told |= {"latency_ms": None, "head": None}
    if isinstance(message.get("endpointing"), dict):  # what it leaves out stays as it is
        message = message | {"endpointing": told["endpointing"] | message["endpointing"]}
    options = given(told | message, offer, before.search)
    afresh = any(getattr(options, name) != getattr(before, name) for name in _STATE)
    afresh = afresh or options.search.memory != before.search.memory
    if afresh and options.encoding == "container":
        raise RefusedError(
            "bad_field", "of a container only what does not change the recogniser: open a new connection"
        )
    return options, afresh


def resolved(options: Options) -> dict[str, Any]:
    """Options in the form of `start`, everything told."""
    search = {name: getattr(options.search, name) for name in SEARCH}
    return asdict(options) | {"search": search, "phrases": list(options.search.phrases)}


def known(message: dict[str, Any], names: Sequence[str], where: str) -> None:
    """Raises RefusedError for a field of another name."""
    for name in message:
        if name not in names:
            raise RefusedError(
                "unknown_field", f"unknown field {shown(name)} in {where}; {nearest(name, names)}"
            )


def nearest(name: Any, names: Collection[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(str(name)[:60], names, n=1, cutoff=0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(names)}" if names else "there are none"


def _search(
    value: Any, phrases: Any, before: SearchConfig, names: Mapping[str, tuple[str, ...]]
) -> SearchConfig:
    """names: what the fields that are text may be."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise _bad("search", value, 'an object such as {"kind": "beam", "beam": 4}')
    known(value, SEARCH, "search")
    chosen = {name: one for name, one in value.items() if one is not None or name in _NONE}
    if chosen.get("kind") == "greedy":  # which can have none
        chosen = {"lm": None, "lodr": None} | chosen
    for name, ones in names.items():
        one = chosen.get(name, getattr(before, name))
        if one is not None and one not in ones:
            raise RefusedError("bad_field", f"search.{name} is {shown(one)}; {nearest(one, ones)}")
    for name in chosen.keys() - names:
        if chosen[name] is not None and not _number(chosen[name]):
            raise _bad(f"search.{name}", chosen[name], "a number")
    if not _integer(chosen.get("beam", before.beam)):
        raise _bad("search.beam", chosen["beam"], "a whole number")
    if phrases is not None and not good(phrases):
        raise _bad("phrases", phrases, RULE)
    try:
        return replace(before, **chosen, phrases=before.phrases if phrases is None else tuple(phrases))
    except ConfigError as error:
        raise RefusedError("bad_field", str(error)) from error


def _rules(value: Any) -> Rules:
    if value is None:
        return Rules()
    if not isinstance(value, dict):
        raise _bad("endpointing", value, 'an object such as {"silence": 1.2, "no_text": 2.4, "length": 20}')
    known(value, tuple(x.name for x in fields(Rules)), "endpointing")
    for name, seconds in value.items():
        needed = name in ("length", "threshold")
        if not (_number(seconds) or (seconds is None and not needed)):
            what = "a number" if name == "threshold" else "a number of seconds"
            raise _bad(f"endpointing.{name}", seconds, what if needed else f"{what}, or null for never")
    try:
        return Rules(**value)
    except ValueError as error:
        raise RefusedError("bad_field", str(error)) from error


def _field(
    message: dict[str, Any], name: str, default: Any, good: Callable[[Any], bool], expected: str
) -> Any:
    """The field's value. A missing field and null are both the default."""
    value = message.get(name)
    if value is None:
        return default
    if not good(value):
        raise _bad(name, value, expected)
    return value


def _bad(name: str, value: Any, expected: str) -> RefusedError:
    return RefusedError("bad_field", f"{name} is {shown(value)}; it must be {expected}")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
