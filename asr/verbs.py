"""Verbs of the command that `asr.cli` names. No logic of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr.options import (
    NOTHING_SAID,
    BatchSeconds,
    Fast,
    Head,
    Limit,
    Model,
    SearchOptions,
    argument,
    load_model,
    option,
    searching,
)

__all__ = ["align", "calibrate", "evaluate", "export", "pieces", "report", "synthesize", "transcribe"]


def report(
    run: Annotated[Path, argument("Folder of a run, as train has written it.", metavar="RUN")],
    out: Annotated[
        Path | None, option("Default: report.html in the run's folder.", "--out", "-o", metavar="FILE.html")
    ] = None,
) -> None:
    """Write the page of a training run, readable offline: curves, word errors, pictures, configuration, environment.

    Training writes it at each validation and at its end.

    \b
    Example:
      asr report runs/an4
    """
    from asr.training.checkpoints import RunFolder
    from asr.training.report import write_report

    typer.echo(write_report(RunFolder(run), out))


@searching()
def transcribe(
    audio: Annotated[
        list[str], argument("Files, folders or quoted patterns like 'calls/**/*.wav'.", metavar="AUDIO...")
    ],
    model: Model = None,
    fast: Fast = False,
    latency: Annotated[
        int | None, option("Decode as a live session of this latency. Default: full context.", metavar="MS")
    ] = None,
    head: Head = None,
    search: SearchOptions = NOTHING_SAID,
    words: Annotated[bool, option("Print each word with start, end and confidence.", "--words")] = False,
    formats: Annotated[
        str | None,
        option(
            "Write files: txt, json, srt, vtt, or several with commas.", "--format", "-f", metavar="KINDS"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option("Folder for these files. Default: beside the audio.", "--out", "-o", metavar="DIR"),
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Turn recordings of any length and format into text, or into files of text, JSON or subtitles.

    A file that cannot be read is reported, the others go on, and the exit status is 1.

    \b
    Examples:
      asr transcribe talk.wav --words
      asr transcribe calls/ --format json,srt --out texts/
      asr transcribe calls/ --beam 4 --phrases names.txt
    """
    from asr.batch import Job, run

    job = Job(
        audio=tuple(audio),
        latency_ms=latency,
        head=head,
        search=search.search(),
        words=words,
        formats=formats,
        out=out,
        batch_seconds=batch_seconds,
    )
    if run(load_model(model, fast), job):
        raise typer.Exit(1)


def align(
    audio: Annotated[str, argument("A recording, or a folder of them.", metavar="AUDIO")],
    text: Annotated[
        Path, argument("Its text; for a folder, one of files of the same names: talk.txt.", metavar="TEXT")
    ],
    model: Model = None,
    formats: Annotated[
        str, option("textgrid, ctm, json, or several with commas.", "--format", "-f", metavar="KINDS")
    ] = "textgrid",
    out: Annotated[
        Path | None,
        option("Folder for these files. Default: beside the audio.", "--out", "-o", metavar="DIR"),
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Find when each word of a known text was said. Needs a model with a CTC head.

    \b
    Example:
      asr align talk.wav talk.txt --format textgrid,ctm
    """
    from asr.batch import align as run

    if run(load_model(model, False), audio, text, formats=formats, out=out, batch_seconds=batch_seconds):
        raise typer.Exit(1)


@searching()
def evaluate(
    manifest: Annotated[Path, argument("Lhotse cuts with transcripts: test.jsonl.gz.", metavar="MANIFEST")],
    model: Model = None,
    fast: Fast = False,
    latency: Annotated[
        str, option("offline, milliseconds, or both with commas; all for every latency.", metavar="MS,...")
    ] = "offline",
    head: Annotated[
        str | None, option("Heads to decode with. Default: all of the model's.", metavar="NAME,...")
    ] = None,
    search: SearchOptions = NOTHING_SAID,
    normalize: Annotated[
        str | None,
        option(
            "Put to both texts before they are compared: lower, punctuation, numbers ... with commas, or none. "
            "Default: as the model's recipe says.",
            metavar="NAME,...",
        ),
    ] = None,
    limit: Limit = None,
    report: Annotated[
        Path | None,
        option("Write a page with plots and aligned errors, readable offline.", metavar="FILE.html"),
    ] = None,
    out: Annotated[
        Path | None, option("Write all numbers and texts to this JSON file.", "--out", "-o", metavar="FILE")
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Measure errors, delays, word times, confidences and speed on a manifest.

    \b
    Examples:
      asr evaluate data/mini/test.jsonl.gz
      asr evaluate data/an4/test.jsonl.gz --latency all --report an4.html --out an4.json
      asr evaluate data/an4/test.jsonl.gz --beam 4 --phrases names.txt
    """
    from rich.console import Console

    from asr.evaluate import evaluate as run
    from asr.evaluate.page import html
    from asr.paths import parse_latencies
    from asr.show import progress

    loaded = load_model(model, fast)
    with progress("decoding", "utterances") as move:
        found = run(
            loaded,
            manifest,
            latencies=parse_latencies(latency, loaded.latencies),
            heads=None if head is None else head.split(","),
            search=search.search(),
            normalize=None
            if normalize is None
            else [name for name in normalize.split(",") if name != "none"],
            batch_seconds=batch_seconds,
            limit=limit,
            progress=move,
        )
    Console().print(found.table())
    if report is not None:
        report.write_text(html(found), encoding="utf-8")
    if out is not None:
        out.write_text(found.to_json(), encoding="utf-8")


def export(
    model: Annotated[Path, argument("The model.", metavar="BUNDLE")],
    out: Annotated[
        Path | None,
        option(
            "Default: onnx/ in the bundle, where `asr serve --engine onnx` looks.",
            "--out",
            "-o",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Write a model's streaming step and heads as ONNX, with its state as named inputs and outputs.

    \b
    Example:
      asr export runs/an4/bundle
    """
    from asr.bundle import load
    from asr.export import export as run

    for path in run(load(model), out or model / "onnx"):
        typer.echo(path)


def calibrate(
    model: Annotated[Path, argument("The model, which is changed.", metavar="BUNDLE")],
    manifest: Annotated[Path, argument("Lhotse cuts with transcripts: dev.jsonl.gz.", metavar="MANIFEST")],
    limit: Limit = None,
    out: Annotated[
        Path | None, option("Leave the model, write another one here.", "--out", "-o", metavar="BUNDLE")
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Fit times and confidences of a model's words to a dev set, for each head and latency. Training has done so.

    \b
    Example:
      asr calibrate averaged data/an4/dev.jsonl.gz
    """
    from asr.bundle import load, set_config
    from asr.evaluate import evaluation_loader
    from asr.evaluate.calibrate import calibrate as run

    loaded = load(model)
    config = run(loaded, evaluation_loader(manifest, loaded.tokenizer, batch_seconds, limit=limit)).config
    for one in config.calibration:
        latency = "offline" if one.latency_ms is None else f"{one.latency_ms} ms"
        typer.echo(
            f"{one.head} {latency}: temperature {one.temperature:.2f}, bias {one.bias:.2f}, "
            f"tokens {one.tokens:.2f}, pace {one.pace:.2f}, "
            f"starts {1000 * one.start:+.0f} ms, ends {1000 * one.end:+.0f} ms"
        )
    typer.echo(set_config(model, config, out=out))


def pieces(
    manifest: Annotated[Path, argument("Lhotse cuts to train on: train.jsonl.gz.", metavar="MANIFEST")],
    out: Annotated[Path, option("The manifest of the pieces.", "--out", "-o", metavar="FILE.jsonl.gz")],
    model: Model = None,
    quiet: Annotated[
        float,
        option("Decibels below the speech that a place to cut at must have.", "--quiet", metavar="DB", min=0),
    ] = 15.0,
    shortest: Annotated[
        float, option("Seconds that a piece lasts at least.", "--shortest", metavar="S", min=0.1)
    ] = 0.3,
    least: Annotated[
        int,
        option("Write pieces of rarer words several times, so that each comes N times.", metavar="N", min=1),
    ] = 1,
) -> None:
    """Cut a small corpus between its words, for training to join them anew: it cannot learn whole utterances by heart.

    A recipe that takes both, and {kind: concatenate, pause: 0} in `data.augment`, hears each word beside ever others.

    \b
    Example:
      asr pieces data/an4/train.jsonl.gz --model runs/an4-first/bundle --out data/an4/pieces.jsonl.gz
    """
    from asr.dataset.pieces import write_pieces

    facts = write_pieces(manifest, load_model(model, False), out, quiet=quiet, shortest=shortest, least=least)
    typer.echo(f"{out}: {facts}")


def synthesize(
    texts: Annotated[
        Path, argument("A .txt of a sentence a line, or a .tsv: text, spoken, speaker.", metavar="TEXTS")
    ],
    out: Annotated[Path, option("Folder of the corpus.", "--out", "-o", metavar="FOLDER")],
    voice: Annotated[
        Path | None, option("A Piper, VITS, Kokoro or Matcha voice for sherpa-onnx.", metavar="FOLDER")
    ] = None,
    command: Annotated[
        str | None,
        option(
            "Or a program that writes {out}; {text}, {speaker}, {speed} are filled in.", metavar="TEMPLATE"
        ),
    ] = None,
    speakers: Annotated[
        str | None, option("Who speaks, drawn for each. Default: all of the voice.", metavar="0-9,12")
    ] = None,
    speeds: Annotated[str, option("Slowest and fastest, drawn between.", metavar="A,B")] = "0.85,1.2",
    times: Annotated[int, option("How often each text is said.", metavar="N", min=1)] = 1,
    longest: Annotated[float, option("Seconds that an utterance may take.", metavar="S", min=1)] = 20.0,
    normalize: Annotated[
        str,
        option(
            "Put to the transcripts: upper, lower, punctuation, numbers ... with commas.", metavar="NAME,..."
        ),
    ] = "",
    language: Annotated[str, option("What is spoken.", metavar="CODE")] = "en",
    seed: Annotated[int, option("Of all that is drawn.", metavar="N")] = 1,
    jobs: Annotated[int, option("Processes, each with a voice on one core.", metavar="N", min=1)] = 1,
    skip_bad: Annotated[
        bool, option("Leave out lines that cannot be said, and tell which.", "--skip-bad")
    ] = False,
) -> None:
    """Make training speech from texts with a voice that you have: for words that no recording at hand has.

    The same command goes on where it was stopped. `data.train` of a recipe takes the manifest that it prints.

    \b
    Examples:
      asr synthesize names.txt --voice vits-piper-en_US-libritts_r-medium --times 4 --out data/names
      asr synthesize names.txt --command "piper --model en.onnx --output_file {out}" --out data/names --jobs 4
      asr synthesize names.txt --command "espeak-ng -s {rate} -w {out} {text}" --out data/names
    """
    from asr.show import progress
    from asr.synthesis.corpus import synthesize as run
    from asr.synthesis.utterances import Manner, pair
    from asr.synthesis.voices import VoiceConfig, speaker_names

    chosen = VoiceConfig(voice, command, () if speakers is None else speaker_names(speakers))
    with progress("speaking", "utterances") as move:
        manifest = run(
            texts,
            out,
            Manner(chosen, pair(speeds), longest, seed),
            times=times,
            jobs=jobs,
            normalize=[name for name in normalize.split(",") if name],
            language=language,
            skip_bad=skip_bad,
            progress=move,
        )
    typer.echo(manifest)
