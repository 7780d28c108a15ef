"""YAML as plain data: no tags, anchors or aliases, and each key once; nothing that it says can run code.

Scalars follow the core schema of YAML 1.2: `no` is text, `1e-3` is a number and `10:30` is not 630.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from asr.errors import ConfigError

__all__ = ["dump", "parse"]

_INTEGER = re.compile(r"[-+]?\d[\d_]*|0x[\dA-Fa-f]+")
_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.\d*|\.\d+|(\d+\.?\d*|\.\d+)[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
)
_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_LONGEST_NUMBER = 100  # characters; more is text: the time to match and to read digits grows as their square
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # An alias could make the tree endless, or exponentially large, in a file that came with somebody's model.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
        return super().compose_node(parent, index)


# None: a tag is then one that the file itself wrote. `_scalar` reads plain scalars.
_Loader.yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or `_scalar` would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # Unicode's own line ends would be read back as spaces, except where double quotes let them be escaped.
    style = '"' if any(end in text for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

for _name, _number in ("float", _FLOAT), ("int", _INTEGER):
    _short = re.compile(rf"(?=.{{0,{_LONGEST_NUMBER}}}\Z)(?:{_number.pattern})\Z")
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _short, list("-+.0123456789"))


def parse(text: str, source: str, *, lines: bool = True) -> tuple[Any, dict[tuple[str, ...], str]]:
    """YAML text -> (plain value, the place of each key as `file:line`)."""
    places: dict[tuple[str, ...], str] = {}

    def place(mark: Any) -> str:
        return f"{source}:{mark.line + 1}" if lines and mark is not None else source

    def convert(node: yaml.Node, at: tuple[str, ...]) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise ConfigError(
                f"{place(node.start_mark)}: the tag {node.tag} is not allowed: values are plain data"
            )
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node.value) if node.style is None else node.value
        if isinstance(node, yaml.SequenceNode):
            items = []
            for i, child in enumerate(node.value):
                places[*at, str(i)] = place(child.start_mark)
                items.append(convert(child, (*at, str(i))))
            return items
        mapping: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place(key.start_mark)}: a key must be a word, not a list or a mapping")
            inner = (*at, key.value)
            if key.value in mapping:
                raise ConfigError(
                    f"{place(key.start_mark)}: the key {'.'.join(inner)} is given twice; keep one"
                )
            places[inner] = place(key.start_mark)
            mapping[key.value] = convert(child, inner)
        return mapping

    try:
        node = _Loader(text).get_single_node()
        return (None if node is None else convert(node, ())), places
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{place(error.problem_mark)}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply") from error


def dump(plain: Any) -> str:
    """Plain mappings, lists and scalars as YAML text that `parse` reads back as equal values."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 16) if text.startswith("0x") else int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
