"""Voices: programs that write files, and folders of sherpa-onnx's, of which the package itself is faked here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asr.errors import ConfigError, DataError
from asr.synthesis.voices import CommandVoice, SherpaVoice, VoiceConfig, speaker_names


def pitch(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples))


@pytest.mark.parametrize("text", ["", " {text}"], ids=["standard input", "argument"])
def test_a_program(hum: str, text: str) -> None:
    voice = VoiceConfig(command=hum + text, speakers=("2", "4")).load()
    assert voice.speakers == ("2", "4")
    samples = voice.say('it\'s "ten $letters"', speaker="4", speed=1.0)
    assert samples.dtype == np.float32 and len(samples) == 19 * 960
    assert pitch(samples) == pytest.approx(400, abs=2)
    assert len(voice.say("ten", speaker="2", speed=2.0)) == 3 * 480


def test_a_program_that_fails(hum: str) -> None:
    voice = CommandVoice(hum, ("1",))
    with pytest.raises(DataError, match="ends with status 1: no tongue"):
        voice.say("mute", speaker="1", speed=1.0)
    with pytest.raises(ConfigError, match="no-such-program cannot be run: No such file"):
        CommandVoice("no-such-program {out}").say("a", speaker="", speed=1.0)
    with pytest.raises(DataError, match="true wrote no audio to .out."):
        CommandVoice("true {out}").say("a", speaker="", speed=1.0)


def test_what_a_program_is_asked() -> None:
    echo = CommandVoice(
        f"{sys.executable} -c 'import sys; sys.exit(str(sys.argv[1:]))' {{rate}} {{length_scale}} {{out}}"
    )
    with pytest.raises(DataError, match=r"\['350', '0.500', '.*speech.wav'\]"):
        echo.say("a", speaker="", speed=2.0)
    read = CommandVoice(
        f"{sys.executable} -c 'import sys; sys.exit(open(sys.argv[1]).read())' {{text_file}} {{out}}"
    )
    with pytest.raises(DataError, match="what is to be said"):
        read.say("what is to be said", speaker="", speed=1.0)


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (VoiceConfig(command="say {text}"), "say with {out} where"),
        (VoiceConfig(command="say {texts} {out}"), "in braces may stand {out}, {text}"),
        (VoiceConfig(command="say 'a {out}"), "No closing quotation"),
        (VoiceConfig(command="say {out}", speakers=("a",)), "no {speaker} in it"),
        (VoiceConfig(command="say {out} {speaker}"), "say with --speakers who"),
        (VoiceConfig(), "give a voice: either --voice"),
        (VoiceConfig(folder=Path("x"), command="say {out}"), "give a voice: either --voice"),
    ],
)
def test_what_is_no_voice(voice: VoiceConfig, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        voice.load()
    assert message in str(caught.value)


def test_speaker_names() -> None:
    assert speaker_names("0-2,7") == ("0", "1", "2", "7")
    assert speaker_names("en-us,anna") == ("en-us", "anna")


class Tts:
    num_speakers, rate = 3, 22_050

    def __init__(self, config: Any) -> None:
        self.config = config

    def generate(self, text: str, *, sid: int, speed: float) -> Any:
        t = np.arange(int(len(text) * 2205 / speed)) / self.rate
        return SimpleNamespace(
            samples=np.sin(2 * np.pi * (300 + 100 * sid) * t).tolist(), sample_rate=self.rate
        )


@pytest.fixture
def sherpa(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        f"OfflineTts{family}Config" for family in ("VitsModel", "KokoroModel", "MatchaModel", "Model", "")
    ]
    monkeypatch.setitem(
        sys.modules, "sherpa_onnx", SimpleNamespace(OfflineTts=Tts, **dict.fromkeys(names, lambda **given: given))
    )  # fmt: skip


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).mkdir() if "." not in name else (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("names", "family", "settings"),
    [
        (["en.onnx", "espeak-ng-data"], "vits", {"model": "en.onnx", "data_dir": "espeak-ng-data"}),
        (["zh.onnx", "lexicon.txt"], "vits", {"model": "zh.onnx", "lexicon": "lexicon.txt"}),
        (["model.onnx", "voices.bin", "espeak-ng-data"], "kokoro", {"model": "model.onnx", "voices": "voices.bin", "data_dir": "espeak-ng-data"}),
        (["model-steps-3.onnx", "vocos-22khz.onnx"], "matcha", {"acoustic_model": "model-steps-3.onnx", "vocoder": "vocos-22khz.onnx"}),
    ],
)  # fmt: skip
def test_a_folder(
    tmp_path: Path, sherpa: None, names: list[str], family: str, settings: dict[str, str]
) -> None:
    voice: Any = VoiceConfig(folder(tmp_path, "tokens.txt", "number.fst", *names)).load()
    config = voice._tts.config
    expected = {name: str(tmp_path / file) for name, file in settings.items()}
    assert config["model"] == {family: expected | {"tokens": str(tmp_path / "tokens.txt")}, "num_threads": 1}
    assert config["rule_fsts"] == str(tmp_path / "number.fst") and config["rule_fars"] == ""
    assert voice.speakers == ("0", "1", "2")
    samples = voice.say("ten", speaker="2", speed=1.5)
    assert len(samples) == 3200 and pitch(samples) == pytest.approx(500, abs=10)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tokens.txt"], "a model in ONNX is missing"),
        (["a.onnx"], "tokens.txt is missing"),
        (["tokens.txt", "a.onnx", "b.onnx"], "which is the voice of a.onnx, b.onnx"),
        (["tokens.txt", "model-steps-3.onnx"], "needs a vocoder"),
    ],
)
def test_a_folder_without_a_voice(tmp_path: Path, sherpa: None, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SherpaVoice(folder(tmp_path, *names))


def test_speakers_that_a_voice_has_not(tmp_path: Path, sherpa: None, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, "tokens.txt", "a.onnx")
    with pytest.raises(ConfigError, match="no speaker '3'; there are 0 to 2"):
        SherpaVoice(place, ("1", "3"))
    monkeypatch.setattr(Tts, "generate", lambda *_, **__: SimpleNamespace(samples=[], sample_rate=8000))
    with pytest.raises(DataError, match="says nothing"):
        SherpaVoice(place).say("a", speaker="", speed=1.0)
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'rill-asr\[synthesize\]'"):
        SherpaVoice(place)
