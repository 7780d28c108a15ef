"""Voices: what a user has to say texts with. A folder that sherpa-onnx reads, or any program that writes a file.

Imports nothing heavy: each process that speaks has a voice of its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr.audio import Resampler, Samples, read
from asr.errors import AudioError, ConfigError, DataError

__all__ = ["CommandVoice", "SherpaVoice", "Voice", "VoiceConfig", "speaker_names"]

RATE = 175  # words a minute, what espeak-ng and others of its kind call a speed of 1
TIMEOUT = 300  # seconds that a program may take for a text


class Voice(Protocol):
    """speakers: by the names that `say` takes, empty where there is but one."""

    @property
    def speakers(self) -> tuple[str, ...]: ...

    def say(self, text: str, *, speaker: str, speed: float) -> Samples:
        """Speech, (samples,), 16 kHz; speed 2 is twice as fast. Raises DataError: the voice cannot say it."""
        ...


@dataclass(frozen=True)
class VoiceConfig:
    """Either a voice's `folder` or a program's `command`; `speakers` of it, by default all of a folder's."""

    folder: Path | None = None
    command: str | None = None
    speakers: tuple[str, ...] = ()

    def load(self) -> Voice:
        """Raises ConfigError: there is no such voice, or no such speaker of it; sherpa-onnx is not installed."""
        if (self.folder is None) == (self.command is None):
            raise ConfigError("give a voice: either --voice FOLDER or --command '...'")
        if self.folder is not None:
            return SherpaVoice(self.folder, self.speakers)
        return CommandVoice(self.command or "", self.speakers)


def speaker_names(text: str) -> tuple[str, ...]:
    """`0-2,5` -> 0, 1, 2, 5; `anna,ben` -> anna, ben."""
    names: list[str] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        ranged = dash and first.isdecimal() and last.isdecimal()
        names += map(str, range(int(first), int(last) + 1)) if ranged else [part]
    return tuple(names)


class SherpaVoice:
    """Piper's and other VITS voices, Kokoro's and Matcha's, as sherpa-onnx publishes them: a folder with tokens.txt and
    models in ONNX. It computes on one thread.

    Raises ConfigError: see `VoiceConfig.load`.
    """

    def __init__(self, folder: Path, speakers: tuple[str, ...] = ()) -> None:
        try:
            import sherpa_onnx

            make: Any = sherpa_onnx.OfflineTts
        except (
            ImportError,
            AttributeError,
        ) as error:  # of sherpa-onnx-bin alone there is a folder of that name
            raise ConfigError(
                "a voice's folder is read by sherpa-onnx: pip install 'rill-asr[synthesize]'"
            ) from error
        family, settings = _parts(folder)
        config: Any = getattr(sherpa_onnx, f"OfflineTts{family.capitalize()}ModelConfig")(**settings)
        rules = {
            f"rule_{kind}s": ",".join(map(str, sorted(folder.glob(f"*.{kind}")))) for kind in ("fst", "far")
        }
        model = sherpa_onnx.OfflineTtsModelConfig(**{family: config}, num_threads=1)
        self._tts = make(sherpa_onnx.OfflineTtsConfig(model=model, **rules))
        self._count = max(1, self._tts.num_speakers)
        self.speakers = speakers or (tuple(map(str, range(self._count))) if self._count > 1 else ())
        for speaker in speakers:
            self._number(speaker)

    def _number(self, speaker: str) -> int:
        if not speaker.isdecimal() or int(speaker) >= self._count:
            raise ConfigError(f"the voice has no speaker {speaker!r}; there are 0 to {self._count - 1}")
        return int(speaker)

    def say(self, text: str, *, speaker: str, speed: float) -> Samples:
        made = self._tts.generate(text, sid=self._number(speaker or "0"), speed=speed)
        samples = np.asarray(made.samples, dtype=np.float32)
        if not len(samples):
            raise DataError("the voice says nothing")
        resampler = Resampler(made.sample_rate)
        return np.concatenate([resampler.push(samples), resampler.finish()])


def _parts(folder: Path) -> tuple[str, dict[str, str]]:
    """Which family of voices lies in a folder, and the files of it."""
    models = sorted(folder.glob("*.onnx"))
    tokens = folder / "tokens.txt"
    if not models or not tokens.exists():
        missing = "tokens.txt" if models else "a model in ONNX"
        raise ConfigError(f"{folder}: no voice that sherpa-onnx reads, for {missing} is missing in it")
    files = {"tokens": str(tokens)}
    if (folder / "espeak-ng-data").is_dir():
        files["data_dir"] = str(folder / "espeak-ng-data")
    if lexicons := sorted(folder.glob("lexicon*.txt")):
        files["lexicon"] = ",".join(map(str, lexicons))
    vocoders = [path for path in models if path.stem.startswith(("vocos", "hifigan"))]
    rest = [path for path in models if path not in vocoders]
    if (folder / "voices.bin").exists():
        return "kokoro", files | {"model": str(models[0]), "voices": str(folder / "voices.bin")}
    if rest and rest[0].stem.startswith("model-steps"):
        if not vocoders:
            raise ConfigError(
                f"{folder}: a Matcha voice needs a vocoder beside it, vocos*.onnx or hifigan*.onnx"
            )
        return "matcha", files | {"acoustic_model": str(rest[0]), "vocoder": str(vocoders[0])}
    if len(models) > 1:
        names = ", ".join(path.name for path in models)
        raise ConfigError(f"{folder}: which is the voice of {names}? Leave one in the folder")
    return "vits", files | {"model": str(models[0])}


class CommandVoice:
    """A program that writes an audio file: a template of a command, run without a shell. In it are replaced

    {out} the file to write; {text} the text, or {text_file} a file with it, else it comes on the standard input;
    {speaker}; and {speed} as a factor, {rate} the same in words a minute, or {length_scale} 1 / speed, as Piper has it.

    Raises ConfigError: no {out}, something else in braces, or speakers that the command does not ask for.
    """

    def __init__(self, template: str, speakers: tuple[str, ...] = ()) -> None:
        try:
            self._words, self.speakers = shlex.split(template), speakers
            self._filled("", out="", text_file="", speaker="", speed=1.0)
        except (ValueError, KeyError, IndexError) as error:
            known = "{out}, {text}, {text_file}, {speaker}, {speed}, {rate}, {length_scale}"
            raise ConfigError(f"--command {template!r}: {error}; in braces may stand {known}") from error
        if "{out}" not in template:
            raise ConfigError(
                f"--command {template!r}: say with {{out}} where the audio file is to be written"
            )
        if speakers and "{speaker}" not in template:
            raise ConfigError(f"--command {template!r}: there are speakers, but no {{speaker}} in it")
        if not speakers and "{speaker}" in template:
            raise ConfigError(f"--command {template!r}: say with --speakers who is to speak")

    def say(self, text: str, *, speaker: str, speed: float) -> Samples:
        with tempfile.TemporaryDirectory() as folder:
            out, text_file = Path(folder) / "speech.wav", Path(folder) / "text.txt"
            text_file.write_text(f"{text}\n", encoding="utf-8")
            words = self._filled(text, out=str(out), text_file=str(text_file), speaker=speaker, speed=speed)
            try:
                done = subprocess.run(
                    words, input=f"{text}\n", capture_output=True, text=True, encoding="utf-8", errors="replace",
                    timeout=TIMEOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                )  # fmt: skip
            except OSError as error:
                raise ConfigError(f"--command: {words[0]} cannot be run: {error.strerror}") from error
            except subprocess.TimeoutExpired as error:
                raise DataError(f"{words[0]} takes more than {TIMEOUT} s") from error
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
                raise DataError(f"{words[0]} ends with status {done.returncode}: {said}")
            try:
                return read(out)
            except (AudioError, OSError) as error:
                raise DataError(f"{words[0]} wrote no audio to {{out}}: {error}") from error

    def _filled(self, text: str, *, out: str, text_file: str, speaker: str, speed: float) -> list[str]:
        values = {"text": text, "out": out, "text_file": text_file, "speaker": speaker}
        values |= {"speed": f"{speed:.3f}", "rate": f"{RATE * speed:.0f}", "length_scale": f"{1 / speed:.3f}"}
        return [word.format(**values) for word in self._words]
