"""What pages are made of. All text is escaped here; what these functions return is HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from asr.evaluate.errors import Errors, Pair

__all__ = [
    "LEGEND",
    "aligned",
    "details",
    "document",
    "facts",
    "heading",
    "note",
    "percent",
    "picture",
    "source",
    "table",
]


LEGEND = "What was said above what was heard: substituted, left out, or heard where nothing was said."
"""Of `aligned`."""


def document(title: str, body: Iterable[str]) -> str:
    """The whole page, with its style inside it."""
    style = files("asr.pages").joinpath("page.css").read_text(encoding="utf-8")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
    )
    return f"{head}<body><h1>{escape(title)}</h1>{''.join(body)}</body></html>\n"


def heading(text: str, *, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def note(text: str) -> str:
    return f"<p class=note>{escape(text)}</p>"


def table(names: Sequence[str], lines: Sequence[Sequence[str]], caption: str = "") -> str:
    """Scrolls sideways where the window is narrow."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    below = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<div class=wide><table>{below}<tr>{head}</tr>{rows}</table></div>"


def facts(of: Mapping[str, str]) -> str:
    """Names with what there is to say of each."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in of.items())
    return f"<dl>{rows}</dl>"


def details(summary: str, body: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{body}</details>"


def source(text: str) -> str:
    """Text of a file, as it stands."""
    return f"<pre>{escape(text)}</pre>"


def picture(png: bytes, caption: str) -> str:
    """A PNG that lies in the page itself."""
    data = b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def aligned(about: str, pairs: Iterable[Pair]) -> str:
    """An utterance, what was said above what was heard, with what is told `about` it and its errors."""
    pairs = list(pairs)
    e = Errors.of(pairs)
    told = f"{about}: {e.total} errors in {e.length} words"
    return f"{note(told)}<p class=aligned>{''.join(map(_pair, pairs))}</p>"


def _pair(pair: Pair) -> str:
    said, heard = pair
    kind = "" if said == heard else "more" if said is None else "gone" if heard is None else "wrong"
    return f'<span class="{kind}"><b>{escape(said or "·")}</b><b>{escape(heard or "·")}</b></span>'


def percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"
