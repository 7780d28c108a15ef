"""From a corpus on disk to Lhotse cuts: what the recipes' `prepare.py` share.

A recipe reads its corpus' own layout into cuts (one recording, one supervision each), holds some speakers out
for validation, and writes `train.jsonl.gz`, `dev.jsonl.gz` and `test.jsonl.gz` with absolute paths.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import logging
import runpy
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut
from lhotse.utils import fastcopy

from asr.errors import DataError, RillError

__all__ = [
    "Utterance",
    "audio_files",
    "command_line",
    "hold_out",
    "hold_out_share",
    "require",
    "sibling",
    "speaker_of",
    "to_cuts",
    "write_splits",
]

log = logging.getLogger(__name__)

DEV_SHARE = 0.05  # of train, where a corpus has no dev part
FEWEST_SPEAKERS = 20  # below this, holding whole speakers out would take too much of the training data
SLACK = 0.05  # seconds that a segment may end behind its audio, as rounded tables have it


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One line of a corpus: an audio file, or `duration` seconds of it from `start` on, and what is said in it.

    `where` names the line that the utterance comes from, for messages: "text, line 7".
    """

    id: str
    path: Path
    text: str
    speaker: str
    start: float = 0.0
    duration: float | None = None  # None: to the end of the file
    where: str = ""


def require(corpus: Path, *parts: str, name: str) -> None:
    """Check that `corpus` is the corpus called `name`: that the files and folders `parts` are in it.

    Raises:
        DataError: the directory, or the first missing part of it, by name.
    """
    if not corpus.is_dir():
        raise DataError(
            f"{corpus} is not a directory: give the directory of the {name} corpus, which holds {', '.join(parts)}"
        )
    for part in parts:
        if not (corpus / part).exists():
            raise DataError(
                f"{corpus} is not the {name} corpus: {part} is missing in it (expected {', '.join(parts)}); "
                "give the directory that holds them"
            )


def to_cuts(utterances: Iterable[Utterance], *, language: str = "en", skip_bad: bool = False) -> CutSet:
    """Read the audio files' headers (in parallel) and make one cut for each utterance, in order of id.

    A file of several channels becomes a cut of them all, which is mixed down where it is read.

    Raises:
        DataError: the utterances whose audio is missing, unreadable or too short, unless `skip_bad` leaves them out
            with a warning.
    """
    utterances = list(utterances)
    paths = sorted({utterance.path.absolute() for utterance in utterances})
    with ThreadPoolExecutor() as pool:
        recordings = dict(zip(paths, pool.map(_recording, paths), strict=True))
    results = [_to_cut(u, recordings[u.path.absolute()], language) for u in utterances]
    bad = [result for result in results if isinstance(result, str)]
    if bad and not skip_bad:
        more = f" (and {len(bad) - 5} more)" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} of {len(results)} audio files cannot be read: {'; '.join(bad[:5])}{more}; "
            "mend them, or leave them out with --skip-bad"
        )
    if bad:
        log.warning(
            "left out %d of %d audio files that cannot be read: %s", len(bad), len(results), "; ".join(bad)
        )
    return CutSet.from_cuts(
        sorted((result for result in results if not isinstance(result, str)), key=lambda cut: cut.id)
    )


def _recording(path: Path) -> Recording | str:
    """An audio file's, or what is wrong with it."""
    if not path.is_file():
        return f"{path} is missing"
    try:
        return Recording.from_file(path)
    except Exception as error:  # Lhotse wraps whatever its backends raise in types of its own
        return f"{path} is not audio ({type(error).__name__})"


def _to_cut(utterance: Utterance, recording: Recording | str, language: str) -> MonoCut | MultiCut | str:
    where = f"{utterance.where}: " if utterance.where else ""
    if isinstance(recording, str):
        return where + recording
    left = recording.duration - utterance.start
    duration = left if utterance.duration is None else utterance.duration
    if not 0 < duration <= left + SLACK:
        return (
            f"{where}{utterance.path} lasts {recording.duration:.2f} s, but {utterance.id} is said to go from "
            f"{utterance.start:g} to {utterance.start + duration:g} s"
        )
    duration = min(duration, left)
    whole = utterance.start == 0 and duration == recording.duration
    if whole:
        recording = fastcopy(recording, id=utterance.id)
    single = recording.num_channels == 1
    channel = recording.channel_ids[0] if single else recording.channel_ids
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=recording.id,
        start=0.0,
        duration=duration,
        channel=channel,
        text=utterance.text,
        speaker=utterance.speaker,
        language=language,
    )
    return (MonoCut if single else MultiCut)(
        id=utterance.id,
        start=utterance.start,
        duration=duration,
        channel=channel,
        recording=recording,
        supervisions=[supervision],
    )


def speaker_of(cut: Cut) -> str:
    """The speaker of a cut's first supervision, or the cut's id where none is named."""
    return str((cut.supervisions[0].speaker if cut.supervisions else None) or cut.id)


def audio_files(cut: Cut) -> list[str]:
    """The paths of the audio files that a cut is made of; a mixed cut has several."""
    tracks = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    sources = [source for track in tracks if track.has_recording for source in track.recording.sources]
    return [str(source.source) for source in sources if source.type == "file"]


def hold_out(
    cuts: CutSet, *, utterances: int, group: Callable[[Cut], str] = speaker_of
) -> tuple[CutSet, CutSet]:
    """Split cuts into (rest, held out): whole groups (speakers) until about `utterances` are held out.

    The groups are taken in the order of a hash of their names, so the split depends on nothing else: a corpus
    with more speakers keeps those that a smaller part of it held out first. A group that overshoots by more
    than it falls short is passed over, and one group at least stays in the rest.
    """
    groups: dict[str, list[Cut]] = defaultdict(list)
    for cut in cuts:
        groups[group(cut)].append(cut)
    names = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    held: set[str] = set()
    count = 0
    for name in names[: len(names) - 1]:
        size = len(groups[name])
        if count < utterances and count + size - utterances <= utterances - count:
            held.add(name)
            count += size
    rest = CutSet.from_cuts(cut for cut in cuts if group(cut) not in held)
    return rest, CutSet.from_cuts(cut for cut in cuts if group(cut) in held)


def hold_out_share(cuts: CutSet) -> tuple[CutSet, CutSet]:
    """Split cuts into (train, dev), dev 5 %: whole speakers, or single utterances where fewer than 20 speak."""
    speakers = {speaker_of(cut) for cut in cuts}
    group = speaker_of if len(speakers) >= FEWEST_SPEAKERS else (lambda cut: str(cut.id))
    return hold_out(cuts, utterances=max(1, round(DEV_SHARE * len(cuts))), group=group)


def sibling(script: str, recipe: str) -> dict[str, Any]:
    """What the `prepare.py` of another recipe defines; `script` is the `__file__` of the one that asks."""
    return runpy.run_path(str(Path(script).parent.parent / recipe / "prepare.py"))


def write_splits(splits: Mapping[str, Iterable[Cut]], out: Path) -> dict[Path, str]:
    """Write each split that is not empty to `out/NAME.jsonl.gz`; log, and return, its hours, utterances and speakers.

    Each split is gone through once, so that one may be longer than memory. Either all are written, or none.

    Raises:
        DataError: an id that stands twice, or a recording that stands in two splits.
    """
    owners: dict[str, str] = {}
    written: list[tuple[Path, Path, str]] = []
    try:
        for name, cuts in splits.items():
            path = out / f"{name}.jsonl.gz"
            partial = out / f".{name}.partial.jsonl.gz"
            seconds, count, speakers = 0.0, 0, set()
            for cut in cuts:
                _claim(cut, name, owners)
                if not count:
                    out.mkdir(parents=True, exist_ok=True)
                    writer = CutSet.open_writer(partial, overwrite=True)
                    writer.__enter__()
                    written.append((partial, path, ""))
                writer.write(cut)
                seconds, count = seconds + cut.duration, count + 1
                speakers.add(speaker_of(cut))
            if not count:
                log.warning("%s: no utterances, not written", name)
                continue
            writer.close()
            facts = f"{seconds / 3600:.2f} h, {count} utterances, {len(speakers)} speakers"
            written[-1] = (partial, path, facts)
    except BaseException:
        for partial, _, _ in written:
            partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            out.rmdir()  # where it was made for this, and nothing else is in it
        raise
    for partial, path, facts in written:
        partial.replace(path)
        log.info("%s: %s", path, facts)
    return {path: facts for _, path, facts in written}


def _claim(cut: Cut, split: str, owners: dict[str, str]) -> None:
    """Note whose a cut's id and audio are."""
    for key in (f"id {cut.id}", *sorted({f"audio file {path}" for path in audio_files(cut)})):
        if key in owners and (owners[key] != split or key.startswith("id")):
            raise DataError(f"the {key} stands in {owners[key]} and again in {split}; each may stand once")
        owners[key] = split


def command_line(prepare: Callable[..., None], *, arguments: list[str] | None = None) -> None:
    """Run a recipe's `prepare(corpus, out, *, option=default, ...)` as a command: `prepare.py CORPUS OUT
    --option VALUE`.

    The options are the function's keyword parameters: a `False` default makes a switch, text makes text, None a path.
    Errors of the corpus end the process with one line on stderr and status 1.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(prepare), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="the directory of the corpus")
    parser.add_argument("out", type=Path, help="the directory to write the manifests to")
    for name, parameter in list(inspect.signature(prepare).parameters.items())[2:]:
        default = parameter.default
        options: dict[str, Any] = (
            {"action": "store_true"}
            if default is False
            else {"type": Path if default is None else type(default), "default": default}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    chosen = vars(parser.parse_args(arguments))
    corpus, out = chosen.pop("corpus"), chosen.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(corpus, out, **chosen)
    except RillError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
