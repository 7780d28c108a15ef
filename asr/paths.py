"""What the words of a command line mean: files to read and to write, recipes, the embedded model, latencies."""

from __future__ import annotations

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.errors import BundleError, ConfigError, DataError

__all__ = [
    "AUDIO_SUFFIXES",
    "Recording",
    "cache_folder",
    "embedded_model",
    "find_audio",
    "outputs",
    "parse_latencies",
    "preset",
    "recipe_script",
]

AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .nist .oga .ogg .opus .rf64 .sph .w64 .wav .wave .wavex".split()
)
"""By which audio is recognised in a folder. A file that is named itself may be called anything."""

_ROOT = Path(__file__).parents[1]


def cache_folder() -> Path:
    """Where indexes of manifests and fetched shards lie: $RILL_CACHE, else `rill` in $XDG_CACHE_HOME or ~/.cache.

    All in it is made again when it is missing. A home that cannot be written to gives way to the temporary folder.
    """
    if named := os.environ.get("RILL_CACHE"):
        return Path(named)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    there = next(folder for folder in (base, *base.parents) if folder.exists())
    if os.access(there, os.W_OK):
        return base / "rill"
    return Path(tempfile.gettempdir()) / f"rill-{os.getuid()}"


@dataclass(frozen=True)
class Recording:
    """An audio file, and its place below the folder that was named, which the output's place mirrors."""

    path: Path
    place: Path


def find_audio(given: Sequence[str | os.PathLike[str]]) -> list[Recording]:
    """Files as they are named, folders walked for audio, patterns such as `calls/**/*.wav` expanded; each file once.

    A named file that does not exist stays in the list, for its reader to report.
    Raises DataError for a folder or pattern without audio.
    """
    found: dict[Path, Recording] = {}
    for one in given:
        name = os.fspath(one)
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            recordings = [Recording(p, p.relative_to(path)) for p in inside]
            if not recordings:
                raise DataError(
                    f"{path}: no audio in this folder (looked for {' '.join(sorted(AUDIO_SUFFIXES))})"
                )
        elif not path.exists() and glob.has_magic(name):
            recordings = [
                Recording(Path(p), Path(Path(p).name)) for p in sorted(glob.glob(name, recursive=True))
            ]
            recordings = [recording for recording in recordings if recording.path.is_file()]
            if not recordings:
                raise DataError(f"{name}: no file matches this pattern")
        else:
            recordings = [Recording(path, Path(path.name))]
        for recording in recordings:
            found.setdefault(recording.path, recording)
    return list(found.values())


def outputs(recordings: Sequence[Recording], *, out: Path | None, suffix: str) -> list[Path]:
    """Where each recording's text goes: `talk.wav` -> `talk.txt`, beside it or at the same place below `out`.

    Recordings that would share a name keep their own suffix: `talk.wav.txt`, `talk.flac.txt`.
    Raises DataError where they would share it still.
    """
    stems = [(r.path if out is None else out / r.place).with_suffix("") for r in recordings]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    chosen = []
    for recording, stem in zip(recordings, stems, strict=True):
        ending = recording.path.suffix if stem in shared else ""
        chosen.append(stem.with_name(f"{stem.name}{ending}.{suffix}"))
    twice = [path for path, count in Counter(chosen).items() if count > 1]
    if twice:
        raise DataError(
            f"{twice[0]}: two recordings would be written here; transcribe their folders one by one"
        )
    return chosen


def embedded_model() -> Path:
    """The model that comes with the checkout, or the one that the environment variable RILL_MODEL names.

    Raises BundleError where there is neither.
    """
    if chosen := os.environ.get("RILL_MODEL"):
        return Path(chosen)
    bundles = sorted(_ROOT.glob("data/models/*/config.yaml"))
    if not bundles:
        raise BundleError("no model was named: give one with --model, a folder that `asr train` has written")
    return bundles[0].parent


def recipe_script(name: str) -> Path:
    """`prepare.py` of a recipe: by its name in the checkout's recipes/, or by the path of its folder or file.

    Raises ConfigError, listing the recipes there are.
    """
    for path in (Path(name), Path(name) / "prepare.py", _ROOT / "recipes" / name / "prepare.py"):
        if path.is_file():
            return path
    known = (
        ", ".join(sorted(path.parent.name for path in _ROOT.glob("recipes/*/prepare.py"))) or "none are here"
    )
    raise ConfigError(
        f"no recipe is called {name!r}: give one of recipes/ ({known}) or a path to a prepare.py"
    )


def preset(name: str) -> Path:
    """The YAML of a preset: by its name in the checkout's recipes/presets/, or by its path.

    Raises ConfigError, listing the presets there are.
    """
    for path in (Path(name), _ROOT / "recipes" / "presets" / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in _ROOT.glob("recipes/presets/*.yaml"))) or "none are here"
    raise ConfigError(
        f"no preset is called {name!r}: give one of recipes/presets/ ({known}) or a path to a YAML file"
    )


def parse_latencies(text: str, offered: tuple[int, ...]) -> list[int | None]:
    """`offline,450` -> [None, 450]; `all` -> offline and all that the model offers."""
    if text == "all":
        return [None, *offered]
    try:
        return [None if part.strip() == "offline" else int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--latency {text}: give offline, milliseconds or all, as in offline,450") from None
