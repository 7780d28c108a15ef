"""Corpora of tones in exactly the layouts in which real ones are published; every text is of the letters a to d."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import soundfile
import torch

from tests.training.fakes import tones

TEXTS = ["abcd", "dada", "bd", "cab", "dbca", "acdb"]
PAUSE = 0.25  # seconds between the segments of a long recording


def say(path: Path, text: str, seed: int = 0, *, rate: int = 16_000, format: str | None = None) -> float:
    """Write an audio file that says a text; its seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tones(text.replace(" ", ""), seed).numpy()[:: 16_000 // rate]
    soundfile.write(path, samples, rate, format=format)
    return len(samples) / rate


def say_all(path: Path, texts: list[str], *, format: str | None = None) -> list[tuple[float, float]]:
    """Write one recording that says several texts; start and end of each in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts, spans, at = [], [], 0.0
    for i, text in enumerate(texts):
        samples = tones(text, i)
        spans.append((at, at + len(samples) / 16_000))
        parts += [samples, torch.zeros(int(PAUSE * 16_000))]
        at = spans[-1][1] + PAUSE
    soundfile.write(path, torch.cat(parts).numpy(), 16_000, format=format)
    return spans


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def yesno(folder: Path) -> None:
    for i in range(60):
        bits = [int(bit) for bit in f"{i + 15:08b}"]
        # the first file is 0_0_0_0_1_1_1_1.wav, as in the real corpus
        say(
            folder / "waves_yesno" / f"{'_'.join(map(str, bits))}.wav",
            "".join("ab"[b] for b in bits),
            rate=8000,
        )


def mini_librispeech(folder: Path) -> None:
    for part, speaker in (("train-clean-5", 10), ("dev-clean-2", 20)):
        chapter = folder / part / str(speaker) / "7"
        for i, text in enumerate(TEXTS):
            say(chapter / f"{speaker}-7-{i:04}.flac", text, i)
        lines = (f"{speaker}-7-{i:04} {text}\n" for i, text in enumerate(TEXTS))
        write(chapter / f"{speaker}-7.trans.txt", "".join(lines))


def aishell(folder: Path) -> None:
    lines = []
    for part, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        for i, text in enumerate(TEXTS):
            id = f"BAC009{speaker}W{i:04}"
            say(folder / f"data_aishell/wav/{part}/{speaker}/{id}.wav", text, i)
            lines.append(f"{id} {text[:2]} {text[2:]}\n")
    write(folder / "data_aishell/transcript/aishell_transcript_v0.8.txt", "".join(lines))


def wenetspeech(folder: Path) -> None:
    audios = []
    for part, subsets in (
        ("train", ["S", "M", "L"]),
        ("dev", ["DEV"]),
        ("net", ["TEST_NET"]),
        ("meeting", ["TEST_MEETING"]),
    ):
        path = f"audio/{part}/Y0000.flac"
        spans = say_all(folder / path, TEXTS)
        found = [
            {
                "sid": f"{part}-{i}",
                "begin_time": a,
                "end_time": b,
                "text": text,
                "subsets": subsets,
                "confidence": 1.0,
            }
            for i, (text, (a, b)) in enumerate(zip(TEXTS, spans, strict=True))
        ]
        audios.append({"aid": part, "path": path, "duration": spans[-1][1] + PAUSE, "segments": found})
    write(folder / "WenetSpeech.json", json.dumps({"audios": audios}))


def gigaspeech(folder: Path) -> None:
    audios = []
    for part, subsets in (("POD1", ["{S}", "{XL}"]), ("POD2", ["{DEV}"]), ("POD3", ["{TEST}"])):
        path = f"audio/podcast/{part}.flac"
        texts = [*TEXTS, "aa"]
        spans = say_all(folder / path, texts)
        written = [*(f"{text} <COMMA>" for text in TEXTS), "<MUSIC>"]
        found = [
            {
                "sid": f"{part}_S{i}",
                "begin_time": a,
                "end_time": b,
                "speaker": "N/A",
                "text_tn": text,
                "subsets": subsets,
            }
            for i, (text, (a, b)) in enumerate(zip(written, spans, strict=True))
        ]
        audios.append(
            {"aid": part, "path": path, "sample_rate": 16_000, "channels": 1, "duration": spans[-1][1] + PAUSE,
             "subsets": subsets, "segments": found}
        )  # fmt: skip
    write(folder / "GigaSpeech.json", json.dumps({"audios": audios}))


def commonvoice(folder: Path) -> None:
    for part in ("train", "dev", "test"):
        rows = ["client_id\tpath\tsentence_id\tsentence\tup_votes\tgender"]
        for i, text in enumerate(TEXTS):
            name = f"common_voice_de_{part}{i}.mp3"
            say(folder / "de/clips" / name, text, i, format="MP3")
            rows.append(f"{part}\t{name}\t0\t„{text.upper()}!“\t2\t")
        write(folder / "de" / f"{part}.tsv", "\n".join([*rows, ""]))


def tedlium3(folder: Path) -> None:
    for part in ("train", "dev", "test"):
        talk = f"Speaker_{part}"
        (folder / f"legacy/{part}/sph").mkdir(parents=True)
        spans = say_all(folder / f"legacy/{part}/sph/{talk}.sph", TEXTS, format="NIST")
        lines = [
            f"{talk} 1 {talk} {a:.2f} {b:.2f} <o,f0,male> {text} <unk>\n"
            for text, (a, b) in zip(TEXTS, spans, strict=True)
        ]
        lines.append(f"{talk} 1 {talk} 0.00 0.20 <o,f0,male> ignore_time_segment_in_scoring\n")
        write(folder / f"legacy/{part}/stm/{talk}.stm", "".join(lines))


def voxpopuli(folder: Path) -> None:
    columns = "session_id|id_|original_text|normed_text|speaker_id|gender|start_time|end_time|split"
    rows = [columns]
    for part in ("train", "dev", "test"):
        session = f"20090101-0900-PLENARY-{part}"
        spans = say_all(folder / f"raw_audios/en/2009/{session}_en.ogg", TEXTS)
        rows += [
            f"{session}|{i}|{text}.|{text}.|1|male|{a:.2f}|{b:.2f}|{part}"
            for i, (text, (a, b)) in enumerate(zip(TEXTS, spans, strict=True))
        ]
    (folder / "annotations/asr").mkdir(parents=True)
    with gzip.open(folder / "annotations/asr/asr_en.tsv.gz", "wt") as table:
        table.write("\n".join([*rows, ""]))


def ami(folder: Path) -> None:
    notes = folder / "ami_public_manual_1.6.2"
    meetings = ET.Element("meetings")
    for meeting in ("ES2002a", "ES2011a", "ES2004a"):  # of train, dev and test
        spans = say_all(folder / f"{meeting}/audio/{meeting}.Array1-01.wav", TEXTS)
        element = ET.SubElement(meetings, "meeting", observation=meeting)
        ET.SubElement(element, "speaker", nxt_agent="A", global_name=f"F{meeting}", channel="0")
        segments, words = ET.Element("stream"), ET.Element("stream")
        for text, (a, b) in zip(TEXTS, spans, strict=True):
            times = {"transcriber_start": f"{a - 0.01:.3f}", "transcriber_end": f"{b + 0.01:.3f}"}
            ET.SubElement(segments, "segment", times)
            word = ET.SubElement(words, "w", starttime=f"{a:.3f}", endtime=f"{b:.3f}")
            word.text = text
        for kind, tree in (("segments", segments), ("words", words)):
            write(notes / kind / f"{meeting}.A.{kind}.xml", ET.tostring(tree, encoding="unicode"))
    write(notes / "corpusResources/meetings.xml", ET.tostring(meetings, encoding="unicode"))


def custom(folder: Path) -> None:
    for part in ("train", "valid", "test"):
        for i, text in enumerate(TEXTS):
            say(folder / part / f"anna/{i}.wav", text, i)
            write(folder / part / f"anna/{i}.txt", text + "\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        yesno, mini_librispeech, aishell, wenetspeech, gigaspeech, commonvoice, tedlium3, voxpopuli, ami, custom
    )
}  # fmt: skip
