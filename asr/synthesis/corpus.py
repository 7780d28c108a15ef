"""Texts -> a corpus: audio, a table of it that grows while it is made, and Lhotse cuts in the end."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from asr import config as configuration
from asr.dataset.corpus import to_cuts, write_splits
from asr.dataset.sources import from_table, read_lines
from asr.errors import ConfigError, DataError
from asr.synthesis.utterances import Made, Manner, Task, make, start
from asr.text import normalizer

__all__ = ["TABLE", "Text", "read_texts", "synthesize"]

TABLE = "manifest.tsv"
HEADER = "path\ttext\tspeaker\tduration\n"
DENSEST = 25  # characters a second, which nobody says

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """A line that is to be said, or what is wrong with it. spoken: what the voice gets; speaker: None is drawn."""

    text: str
    spoken: str
    speaker: str | None
    where: str
    wrong: str = ""


def synthesize(
    texts: Path,
    out: Path,
    manner: Manner,
    *,
    times: int = 1,
    jobs: int = 1,
    normalize: Sequence[str] = (),
    language: str = "en",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Say each text `times` times, each with a speaker and a speed drawn for it, in `jobs` processes.

    texts: see `read_texts`. `out` gets `audio/`, `manifest.tsv` (path, text, speaker, duration; a line as soon as its
    audio is there) and, in the end, `train.jsonl.gz`, whose path is returned. What an earlier run of the same command
    has made is kept; what is made of a text depends on its line and the seed alone.
    normalize: names of `asr.text.NORMALIZERS`, put to the transcripts, not to what the voice is given.

    Raises:
        ConfigError: no such voice, speaker or normalizer, or `out` holds speech made in another manner.
        DataError: lines without a text or with one too long, or that the voice cannot say, by their number, unless
            `skip_bad` leaves them out.
    """
    found = read_texts(texts, longest=manner.longest, normalize=normalize)
    bad = [f"{one.where}: {one.wrong}" for one in found if one.wrong]
    if bad and not skip_bad:
        raise _refused(bad, texts)
    if len(bad) == len(found):
        raise DataError(f"{texts}: no text in it; give a sentence a line")
    out.mkdir(parents=True, exist_ok=True)
    _same_manner(out, manner, times)
    tasks = list(_tasks(found, times, out))
    table = out / TABLE
    kept = _kept(table, tasks)
    rest = [task for task in tasks if task.path not in kept]
    if kept:
        log.info("%d of %d utterances are there", len(kept), len(tasks))
    with table.open("a", encoding="utf-8") as rows:
        for done, made in enumerate(_made(rest, manner, jobs), len(kept) + 1):
            if made.wrong:
                bad.append(f"{made.task.where}: {made.wrong}")
                if not skip_bad:
                    raise _refused(bad, texts)
            else:
                rows.write(f"{made.task.path}\t{made.task.text}\t{made.speaker}\t{made.duration:.3f}\n")
                rows.flush()
            if progress is not None:
                progress(done, len(tasks))
    for line in bad:
        log.warning("left out: %s", line)
    write_splits({"train": to_cuts(from_table(table), language=language)}, out)
    return out / "train.jsonl.gz"


def _refused(bad: Sequence[str], texts: Path) -> DataError:
    more = f" (and {len(bad) - 5} more)" if len(bad) > 5 else ""
    return DataError(
        f"{'; '.join(bad[:5])}{more}; mend them in {texts}, or leave them out with --skip-bad; what is made is kept"
    )


def read_texts(texts: Path, *, longest: float, normalize: Sequence[str] = ()) -> list[Text]:
    """Texts to be said within `longest` seconds: a .txt of one a line, or a .tsv with the columns text and, if they are
    to differ from the transcript or not to be drawn, spoken and speaker.

    Raises DataError: it cannot be read as UTF-8, or has no column text.
    """
    put, lines = normalizer(normalize), read_lines(texts)
    columns = ["text"]
    if texts.suffix == ".tsv":
        columns = next(lines, (1, ""))[1].split("\t")
        if "text" not in columns or (unknown := set(columns) - {"text", "spoken", "speaker"}):
            found = f"found {columns}" if "text" not in columns else f"not {', '.join(sorted(unknown))}"
            raise DataError(
                f"{texts}, line 1: expected a header of text and, if wanted, spoken and speaker, {found}"
            )
    return [_text(line, columns, put, longest, f"{texts}, line {number}") for number, line in lines]


def _text(line: str, columns: list[str], put: Callable[[str], str], longest: float, where: str) -> Text:
    fields = line.split("\t") if len(columns) > 1 else [line]
    row = {name: " ".join(field.split()) for name, field in zip(columns, fields, strict=False)}
    text, spoken = put(row.get("text", "")), row.get("spoken") or row.get("text", "")
    wrong = ""
    if len(fields) != len(columns):
        wrong = f"{len(fields)} fields, but the header names {len(columns)}"
    elif not any(letter.isalnum() for letter in text):
        wrong = f"nothing to be said in {line.strip()[:40]!r}"
    elif len(spoken) > DENSEST * longest:
        wrong = (
            f"{len(spoken)} characters do not go into {longest:g} s; make sentences of them, or set --longest"
        )
    return Text(text, spoken, row.get("speaker") or None, where, wrong)


def _tasks(found: Sequence[Text], times: int, out: Path) -> Iterator[Task]:
    """Numbers are those of the lines, so that texts may be added at the end, and bad ones mended."""
    for line, one in enumerate(found):
        for number in range(line * times, (line + 1) * times):
            if not one.wrong:
                path = f"audio/{number // 1000:03d}/{number:06d}.flac"
                yield Task(number, one.text, one.spoken, one.speaker, one.where, path, out)


def _same_manner(out: Path, manner: Manner, times: int) -> None:
    """Note how the speech in a folder is made. Raises ConfigError: it was made otherwise before."""
    path, text = out / "manner.yaml", configuration.to_yaml(manner) + f"times: {times}\n"
    begun = (out / TABLE).exists() and (out / TABLE).read_text(encoding="utf-8") != HEADER
    if begun and path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{out} holds speech of another voice or with other settings, see {path}: give the same, or another folder"
        )
    path.write_text(text, encoding="utf-8")


def _kept(table: Path, tasks: Sequence[Task]) -> set[str]:
    """Paths of what is made already, with the same text; other lines of the table, and a last one cut short, go."""
    wanted = {task.path: task.text for task in tasks}
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if table.exists() else []
    kept = {}
    for line in lines:
        path, _, rest = line.partition("\t")
        if line.endswith("\n") and rest.split("\t")[0] == wanted.get(path) and (table.parent / path).exists():
            kept[path] = line
    partial = table.with_suffix(".partial")
    partial.write_text(HEADER + "".join(kept.values()), encoding="utf-8")
    partial.replace(table)
    return set(kept)


def _made(tasks: Sequence[Task], manner: Manner, jobs: int) -> Iterable[Made]:
    """In order. One job works in this process; more are new ones, for a fork may not survive this one's threads."""
    if not tasks:
        return
    if jobs == 1:
        start(manner)
        yield from map(make, tasks)
        return
    manner.voice.load()  # its errors are told here, and once
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=start, initargs=(manner,)) as pool:
        try:
            for i in range(0, len(tasks), 16 * jobs):  # a few at a time: what is made is noted soon
                yield from pool.map(make, tasks[i : i + 16 * jobs])
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that speaks has ended ({error}), most likely as memory ran out: fewer --jobs"
            ) from error
