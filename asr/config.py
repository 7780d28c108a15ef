"""Configuration: frozen dataclasses <-> strict YAML.

A YAML file holds data only: no tags, anchors or aliases, and each key once. An unknown key, a value of the wrong
type or a missing key is a `ConfigError` that names the file, the line, the dotted key and what would have been right.

    base: ../common/train.yaml      # optional: start from that file; what follows is merged into it, key by key
    encoder:
      kind: zipformer               # a union of dataclasses is told apart by its members' `kind: Literal[...]`
      dims: [192, 256, 384]
    optimizer: {rate: 1e-3}

Scalars follow the core schema of YAML 1.2, so that `no` is text, `1e-3` is a number and `10:30` is not 630.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from asr import strict_yaml
from asr.errors import ConfigError

__all__ = ["from_dict", "load", "to_dict", "to_yaml"]

T = TypeVar("T")
Key = tuple[str, ...]

_EXPONENT = re.compile(r"[-+]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})[eE][-+]?\d{1,4}")


def load(
    kind: type[T],
    path: str | PathLike[str],
    *,
    over: Sequence[str | PathLike[str]] = (),
    overrides: Sequence[str] = (),
) -> T:
    """Read a `kind` (a dataclass, or a union of such, told apart by the file's `kind`: the first if it has none) from a
    YAML file, then apply `overrides` such as `encoder.dims.0=256` in order.

    The files of `over` are merged over it before, key by key. The value of an override is YAML itself: `a.b=[1, 2]`,
    `a.b={c: 3}`, `a.b=null`.
    Raises ConfigError: unreadable file, syntax, unknown or missing key, wrong type, a cycle of `base`.
    """
    tree, places = _read_file(Path(path), ())
    for layer in over:
        upper, upper_places = _read_file(Path(layer), ())
        tree, places = _merge(tree, upper), places | upper_places
    for override in overrides:
        _override(tree, places, override)
    reader, members = _Reader(str(path), places), get_args(kind)
    value: T = reader.union(kind, members, tree, (), members[0]) if members else reader.build(kind, tree, ())
    return value


def from_dict(kind: type[T], mapping: Mapping[str, Any], *, where: str = "configuration") -> T:
    """Build a `kind` (a dataclass) from plain mappings, lists and scalars; `where` names their source in errors."""
    value: T = _Reader(where, {}).build(kind, mapping, ())
    return value


def to_dict(value: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: every field, defaults included, as plain mappings, lists and scalars."""
    plain = _plain(value)
    if not isinstance(plain, dict):
        raise TypeError(f"a dataclass is expected, not {type(value).__name__}")
    return plain


def to_yaml(value: Any) -> str:
    """A dataclass as YAML text that `load` reads back as an equal value."""
    return strict_yaml.dump(to_dict(value))


# ---- files, bases and overrides -> plain values, with the place of each key


def _read_file(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Key, str]]:
    """A file merged over the chain of its bases; `children` are the files that led here."""
    if path.resolve() in (child.resolve() for child in children):
        raise ConfigError(
            f"{children[0]}: `base` goes in a circle: {' -> '.join(map(str, (*children, path)))}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        by = f" (named by `base` in {children[-1]})" if children else ""
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}{by}") from error
    tree, places = strict_yaml.parse(text, str(path))
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, got {_describe(tree)}")
    base = tree.pop("base", None)
    if base is None:
        return tree, places
    if not isinstance(base, str):
        raise ConfigError(
            f"{places['base',]}: base: expected the path of one YAML file, got {_describe(base)}"
        )
    base_tree, base_places = _read_file(path.parent / base, (*children, path))
    return _merge(base_tree, tree), base_places | places


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, mapping by mapping. Another `kind` replaces the whole mapping: its keys are others."""
    merged = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            same_kind = value.get("kind", before.get("kind")) == before.get("kind")
            value = _merge(before, value) if same_kind else value
        merged[key] = value
    return merged


def _override(tree: dict[str, Any], places: dict[Key, str], override: str) -> None:
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    where = f"override {override!r}"
    if not equals or not all(key):
        raise ConfigError(f"{where}: write it as key=value, for example train.hours=0.5")
    value, inner = strict_yaml.parse(text, where, lines=False)
    target: Any = tree
    for i, part in enumerate(key):
        index: Any = part
        if isinstance(target, list):
            if not part.isdecimal() or int(part) >= len(target):
                raise ConfigError(
                    f"{where}: {_dotted(key[:i])} is a list of {len(target)}; {part!r} is no index of it"
                )
            index = int(part)
        elif not isinstance(target, dict):
            raise ConfigError(f"{where}: {_dotted(key[:i])} is {_describe(target)}, which has no keys")
        if i == len(key) - 1:
            target[index] = value
        elif isinstance(target, dict) and target.get(index) is None:
            target[index] = {}
            target = target[index]
        else:
            target = target[index]
    for old in [place for place in places if place[: len(key)] == key]:
        del places[old]
    places[key] = where
    places |= {(*key, *path): place for path, place in inner.items()}


# ---- plain values -> dataclasses


@dataclass(frozen=True)
class _Reader:
    source: str
    places: Mapping[Key, str]

    def error(self, at: Key, message: str) -> ConfigError:
        for length in range(len(at), 0, -1):
            if place := self.places.get(at[:length]):
                return ConfigError(f"{place}: {message}")
        return ConfigError(f"{self.source}: {message}")

    def wrong(self, at: Key, kind: Any, value: Any, hint: str = "") -> ConfigError:
        return self.error(at, f"{_dotted(at)}: expected {_expected(kind)}, got {_describe(value)}{hint}")

    def build(self, kind: Any, value: Any, at: Key) -> Any:
        """Keys that the mapping leaves out get the defaults of their class, whatever the field's own default is:
        fields that a `__post_init__` derives from others would be wrong beside the new values.
        """
        if not isinstance(value, Mapping):
            raise self.wrong(at, kind, value)
        value = self.moved(getattr(kind, "FORMER", {}), value, at)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        for key in value:
            if key not in fields:
                raise self.unknown((*at, str(key)), fields)
        arguments = {}
        for name, field in fields.items():
            required = field.default is MISSING and field.default_factory is MISSING
            if name in value:
                default = None if required else _default(field)
                arguments[name] = self.value(_hints(kind)[name], value[name], (*at, name), default)
            elif required:
                raise self.error(at, f"missing key {_dotted((*at, name))}, {_expected(_hints(kind)[name])}")
        try:
            return kind(**arguments)
        except (ConfigError, ValueError) as error:  # raised by the dataclass's own __post_init__
            raise self.error(at, f"{_dotted(at)}: {error}" if at else str(error)) from error

    def moved(self, former: Mapping[str, str], value: Mapping[str, Any], at: Key) -> Mapping[str, Any]:
        """Keys that files of earlier versions have, put where they are now: {"width": "joiner.dim"}."""
        tree = dict(value)
        for old in [old for old in former if old in value]:
            outer, inner = former[old].split(".")
            below = tree.get(outer, {})
            if not isinstance(below, Mapping) or inner in below:
                now = _dotted((*at, outer, inner))
                raise self.error((*at, old), f"{_dotted((*at, old))}: is called {now} now; give that alone")
            tree[outer] = {**below, inner: tree.pop(old)}
        return tree

    def unknown(self, at: Key, known: Iterable[str]) -> ConfigError:
        near = difflib.get_close_matches(at[-1], list(known), n=1, cutoff=0.5)
        hint = f"known keys: {', '.join(known)}"
        if near:
            hint = f"the nearest known key is {_dotted((*at[:-1], *near))}"
        return self.error(at, f"unknown key {_dotted(at)}; {hint}")

    def value(self, kind: Any, value: Any, at: Key, default: Any = None) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if origin in (Union, types.UnionType):
            return self.union(kind, arguments, value, at, default)
        if origin is Literal:
            if any(value == choice and type(value) is type(choice) for choice in arguments):
                return value
            near = difflib.get_close_matches(str(value), [str(choice) for choice in arguments], n=1)
            raise self.wrong(at, kind, value, f"; did you mean {near[0]}?" if near else "")
        if origin in (tuple, list):
            return self.sequence(kind, origin, arguments, value, at)
        if origin is dict:
            if not isinstance(value, Mapping):
                raise self.wrong(at, kind, value)
            return {str(key): self.value(arguments[1], item, (*at, str(key))) for key, item in value.items()}
        if dataclasses.is_dataclass(kind):
            return self.build(kind, value, at)
        return self.scalar(kind, value, at)

    def scalar(self, kind: Any, value: Any, at: Key) -> Any:
        if kind is float and not isinstance(value, bool):
            if isinstance(value, int | float):
                return float(value)
            if isinstance(value, str) and _EXPONENT.fullmatch(value):  # what a YAML 1.1 reader makes of 1e-3
                return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind in (bool, int, str, types.NoneType) and type(value) is kind:
            return value
        if kind not in (bool, int, float, str, Path, types.NoneType):
            raise TypeError(f"{_dotted(at)}: a configuration cannot hold {kind!r}")
        quotes = kind is str and isinstance(value, int | float)
        raise self.wrong(at, kind, value, "; put it in quotes" if quotes else "")

    def sequence(self, kind: Any, origin: Any, arguments: tuple[Any, ...], value: Any, at: Key) -> Any:
        if not isinstance(value, list | tuple):
            raise self.wrong(at, kind, value)
        if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
            kinds: Sequence[Any] = [arguments[0]] * len(value)
        else:
            kinds = [] if arguments == ((),) else arguments
        if len(kinds) != len(value):
            raise self.wrong(at, kind, value)
        return origin(self.value(kinds[i], item, (*at, str(i))) for i, item in enumerate(value))

    def union(self, kind: Any, members: tuple[Any, ...], value: Any, at: Key, default: Any) -> Any:
        classes: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
        if isinstance(value, Mapping) and classes:
            if len(classes) == 1:
                return self.build(classes[0], value, at)
            kinds = {name: member for member in classes for name in _kinds(member)}
            name = value.get("kind", getattr(default, "kind", MISSING))
            if name is MISSING:
                raise self.error(at, f"missing key {_dotted((*at, 'kind'))}, one of {', '.join(kinds)}")
            self.value(Literal[tuple(kinds)], name, (*at, "kind"))
            return self.build(kinds[name], value, at)
        for member in sorted(members, key=lambda member: not _is_exactly(value, member)):
            if member in classes:
                continue
            try:
                return self.value(member, value, at)
            except ConfigError:
                if isinstance(value, list | tuple | Mapping) and get_origin(member) and len(members) == 2:
                    raise  # an optional list or mapping: its own error says more
        raise self.wrong(at, kind, value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _kinds(kind: Any) -> tuple[str, ...]:
    hint = _hints(kind).get("kind")
    if get_origin(hint) is not Literal:
        raise TypeError(f"{kind.__name__} is a member of a union and needs a field `kind: Literal[...]`")
    return get_args(hint)


def _is_exactly(value: Any, kind: Any) -> bool:
    runtime: Any = get_origin(kind) or kind
    return type(value) is runtime


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# ---- words for messages


def _dotted(key: Key) -> str:
    return ".".join(key) if key else "the top level"


def _describe(value: Any) -> str:
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case int():
            return f"the whole number {value}"
        case float():
            return f"the number {value}" if math.isfinite(value) else f"the number .{value}"
        case str():
            return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {type(value).__name__}"


def _expected(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(argument) for argument in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(str, arguments))
    if origin is dict:
        return f"a mapping of names to {_expected(arguments[1])}"
    if origin is list or (origin is tuple and Ellipsis in arguments):
        return f"a list, each item {_expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} ({', '.join(map(_expected, arguments))})"
    if dataclasses.is_dataclass(kind):
        return f"a mapping with the keys of {getattr(kind, '__name__', kind)}"
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Path: "a path",
    }
    return words.get(kind, "null" if kind is types.NoneType else "any value")
