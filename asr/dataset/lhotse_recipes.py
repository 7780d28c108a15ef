"""What recipes that go through Lhotse's own recipe of a corpus share: its errors named, its manifests as cuts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from asr.errors import ConfigError, DataError

__all__ = ["manifests_of", "segments"]

log = logging.getLogger(__name__)


def manifests_of(name: str, corpus: Path, prepare: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What Lhotse's recipe `prepare(corpus, *given, **options)` returns.

    Raises:
        ConfigError: the recipe wants a package that is not installed.
        DataError: whatever else it raises. It asserts and unpacks, so any error means files that are not as expected.
    """
    try:
        return prepare(corpus.absolute(), *given, **options)
    except ImportError as error:
        raise ConfigError(f"{name}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
        raise DataError(f"{corpus} cannot be read by Lhotse's {name} recipe ({reason})") from error


def segments(
    manifests: Mapping[str, Any], *, text: Callable[[str], str | None] = str, language: str | None
) -> CutSet:
    """One cut for each supervision of `recordings` and `supervisions`, with its id, made when it is asked for.

    `text` makes a transcript what the recipe wants it to be; utterances that it gives None or nothing of are left out,
    and the log says how many.
    """
    cuts = CutSet.from_manifests(
        recordings=manifests["recordings"], supervisions=manifests["supervisions"], lazy=False
    )
    return CutSet(_Segments(cuts, text, language))


class _Segments:
    """Iterates as often as it is asked to, as a generator would not."""

    def __init__(self, cuts: CutSet, text: Callable[[str], str | None], language: str | None) -> None:
        self.cuts, self.text, self.language = cuts, text, language

    def __iter__(self) -> Iterator[Cut]:
        left_out = 0
        for cut in self.cuts.trim_to_supervisions(keep_overlapping=False):
            (supervision,) = cut.supervisions
            transcript = self.text(supervision.text or "")
            if not transcript:
                left_out += 1
                continue
            supervision.text = transcript
            supervision.language = self.language or supervision.language
            yield cut.with_id(supervision.id)
        if left_out:
            log.info("left out %d segments without words", left_out)
