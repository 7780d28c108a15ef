"""The `asr` command: one function a verb, no logic of its own.

Each verb imports what it calls when it runs, so that `asr --help` does not wait for torch.
`streaming` is imported here, and nowhere else in `asr`, because the command serves both packages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from asr.options import NOTHING_SAID, Head, Model, SearchOptions, argument, option, searching
from asr.show import complain, explain
from asr.verbs import align, calibrate, evaluate, export, pieces, report, synthesize, transcribe
from streaming.command import serve

__all__ = ["app", "main"]

app = typer.Typer(
    name="asr",
    help="Rill: streaming speech recognition. One model file trains, transcribes and serves live audio.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[bool, option("Show the traceback of an error; may stand anywhere.", "--debug")] = False,
    version: Annotated[bool, option("Show Rill's version.", "--version")] = False,
) -> None:
    """`--debug` is handled by `main`, `--version` too: both are declared here for the help."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def prepare(
    context: typer.Context,
    recipe: Annotated[str, argument("A folder of recipes/, or a path to a prepare.py.", metavar="RECIPE")],
    corpus: Annotated[Path, argument("Where the corpus lies.", metavar="CORPUS")],
    out: Annotated[Path, argument("Folder that gets train, dev and test.jsonl.gz.", metavar="OUT")],
) -> None:
    """Turn a corpus on disk into the manifests that train and evaluate read.

    A recipe's own options, such as --skip-bad, follow its arguments; its README tells them.

    \b
    Example:
      asr prepare an4 corpora/an4 data/an4
    """
    import runpy

    from asr.dataset.corpus import command_line
    from asr.paths import recipe_script

    command_line(
        runpy.run_path(str(recipe_script(recipe)))["prepare"],
        arguments=[str(corpus), str(out), *context.args],
    )


@app.command()
def shards(
    manifests: Annotated[list[Path], argument("Lhotse cuts: train.jsonl.gz.", metavar="MANIFEST...")],
    out: Annotated[Path, option("Folder that gets the shards.", "--out", "-o", metavar="DIR")],
    utterances: Annotated[int, option("In each shard.", metavar="N")] = 1000,
    format: Annotated[str, option("flac, opus, mp3 or wav.", metavar="KIND")] = "flac",
) -> None:
    """Pack audio and texts into shards (Lhotse Shar), for disks that seek slowly and for training over a network.

    data.train of a recipe then names the folder, or where it was copied to: https://..., s3://...

    \b
    Example:
      asr shards data/librispeech/train.jsonl.gz --out shards/train
    """
    from asr.dataset.pack import pack
    from asr.show import progress

    with progress("packing", "utterances") as move:
        typer.echo(pack(manifests, out, utterances=utterances, format=format, progress=move))


app.command()(pieces)
app.command()(synthesize)


@app.command()
def train(
    config: Annotated[Path, argument("The recipe.", metavar="RECIPE.yaml")],
    overrides: Annotated[
        list[str] | None, argument("Changes to it: train.epochs=20", metavar="[KEY=VALUE]...")
    ] = None,
    hours: Annotated[
        float | None, option("Stop after so many hours. Default: as the recipe says.", metavar="H")
    ] = None,
    out: Annotated[
        Path | None,
        option("Folder of the run. Default: runs/ and the recipe's name.", "--out", "-o", metavar="DIR"),
    ] = None,
    preset: Annotated[
        list[str] | None,
        option(
            "One of recipes/presets/, or YAML that changes the recipe; may be given again.", metavar="NAME"
        ),
    ] = None,
    start: Annotated[
        Path | None, option("Begin with this model's weights and tokenizer.", "--from", metavar="BUNDLE")
    ] = None,
    diagnose: Annotated[
        bool, option("Train nothing: show what goes through each part, and how data come.", "--diagnose")
    ] = False,
    find_batch: Annotated[
        bool,
        option("Measure the largest data.max_duration that fits here, and do not train.", "--find-batch"),
    ] = False,
) -> None:
    """Train a recipe and write the model. The same command goes on where it was stopped.

    \b
    Examples:
      asr train recipes/mini/train.yaml --hours 0.05 --out runs/mini
      asr train recipes/an4/train.yaml train.base_lr=0.03 --out runs/an4-slow
      asr train recipes/an4/train.yaml --find-batch
      asr train recipes/english/train.yaml --from data/models/english
      asr train recipes/librispeech/train.yaml --preset conformer-l
      asr train recipes/mini/train.yaml --diagnose
    """
    if diagnose:
        from rich.console import Console

        from asr.training.diagnose import diagnose as examine

        Console().print(examine(config, overrides or (), presets=preset or (), start=start).table())
        return
    if find_batch:
        from asr.training.find_batch import find_batch as measure

        typer.echo(measure(config, overrides or (), presets=preset or ()).to_text())
        return
    from asr.training.train import train as run

    typer.echo(run(config, overrides or (), hours=hours, out=out, presets=preset or (), start=start))


@app.command()
def average(
    run: Annotated[Path, argument("Folder of a run, as train has written it.", metavar="RUN")],
    last: Annotated[
        int | None,
        option("Average over the last N batches. Default: the best span on dev.", metavar="N"),
    ] = None,
    tries: Annotated[
        int, option("Spans that are measured on dev, to find the best one.", metavar="N", min=1)
    ] = 12,
    out: Annotated[
        Path | None, option("Default: bundle/ in the run's folder.", "--out", "-o", metavar="BUNDLE")
    ] = None,
) -> None:
    """Average the parameters of a run's batches into a model.

    \b
    Example:
      asr average runs/an4 --last 2000 --out an4-averaged
      asr average runs/an4 --tries 30
    """
    from asr.training.finish import average as run_average

    typer.echo(run_average(run, last=last, tries=tries, out=out))


app.command()(report)
app.command()(transcribe)
app.command()(align)
app.command()(evaluate)
app.command()(calibrate)
app.command()(export)
app.command()(serve)


@app.command()
@searching(
    lm=option("One of the server's language models. Makes it a beam search.", metavar="NAME"),
    lodr=option("One of its bigrams, whose scores are taken away.", metavar="NAME"),
)
def stream(
    audio: Annotated[Path, argument("A recording of any format.", metavar="AUDIO")],
    url: Annotated[
        str, option("The server's native protocol.", metavar="URL")
    ] = "ws://127.0.0.1:8000/v1/stream",
    latency: Annotated[
        int | None, option("One of those that the server offers. Default: the server's.", metavar="MS")
    ] = None,
    head: Head = None,
    search: SearchOptions = NOTHING_SAID,
    fast: Annotated[
        bool, option("Send as fast as the server takes it, not as it was spoken.", "--fast")
    ] = False,
    token: Annotated[
        str | None, option("For a server that wants one.", metavar="SECRET", envvar="RILL_TOKEN")
    ] = None,
) -> None:
    """Send a recording to a server as if it were spoken now, and show the text as it comes.

    \b
    Example:
      asr stream talk.wav --latency 450
      asr stream talk.wav --lm news --beam 8 --phrases names.txt
    """
    from asr.show import LiveText, latency_line
    from streaming.client import start_fields, stream_file
    from streaming.events import Final

    live = LiveText()
    summary = stream_file(
        audio,
        url,
        on_event=lambda event: live.show(event.text, final=isinstance(event, Final)),
        latency_ms=latency,
        realtime=not fast,
        token=token,
        options=start_fields(head, search.given()),
    )
    if not fast:
        typer.echo(latency_line(summary.first_word_latency, summary.final_latency))


@app.command()
def convert(
    checkpoint: Annotated[Path, argument("A .nemo, .pth, .pt or .safetensors.", metavar="CHECKPOINT")],
    out: Annotated[Path, argument("Where the bundle is written.", metavar="OUT")],
    origin: Annotated[str, option("Whose it is: nemo, espnet, wenet or icefall.", "--from", metavar="KIND")],
    tokenizer: Annotated[
        Path | None, option("Its SentencePiece model, where it is not found by itself.", metavar="FILE")
    ] = None,
) -> None:
    """Turn a checkpoint of another toolkit into a Rill model, and say which of its tensors have no place in it.

    NeMo's archive holds all that is needed. ESPnet's config.yaml and WeNet's train.yaml and units.txt lie beside the
    checkpoint; icefall's needs --tokenizer. Nothing in the files is run.

    \b
    Examples:
      asr convert stt_en_fastconformer_ctc_large.nemo fast --from nemo
      asr convert exp/asr_train/valid.acc.ave.pth espnet --from espnet --tokenizer data/en_token_list/bpe.model
      asr convert exp/u2pp_conformer/final.pt wenet --from wenet
      asr convert exp/pretrained.pt zipformer --from icefall --tokenizer data/lang_bpe_500/bpe.model
    """
    from asr.convert import convert as run

    converted = run(origin, checkpoint, tokenizer=tokenizer)
    for note in converted.notes:
        typer.echo(f"note: {note}", err=True)
    unused = ", ".join(converted.left_over) or "none"
    typer.echo(f"{converted.model.save(out)} (tensors of the checkpoint without a place in it: {unused})")


@app.command()
def describe(
    model: Annotated[Path, argument("A recipe or a model.", metavar="RECIPE.yaml|BUNDLE")],
    overrides: Annotated[
        list[str] | None, argument("Changes to the recipe: model.encoder.size=l", metavar="[KEY=VALUE]...")
    ] = None,
    picture: Annotated[
        Path | None,
        option("Draw what gates or merge weights make of the recordings into a PNG file.", metavar="FILE"),
    ] = None,
    audio: Annotated[
        list[str] | None, option("Recordings, or folders of them, for --picture.", metavar="AUDIO")
    ] = None,
) -> None:
    """Show layers and parameters; for each latency what is seen, what a stream holds, and how much is computed.

    \b
    Examples:
      asr describe recipes/mini/train.yaml "model.encoder={kind: fast_conformer, size: l}"
      asr describe data/models/mini
    """
    from asr.describe import describe as run

    if picture is None:
        typer.echo(run(model, overrides or ()))
        return
    from asr.bundle import load
    from asr.inside import draw
    from asr.paths import find_audio

    typer.echo(draw(load(model), [one.path for one in find_audio(audio or ())], picture))


@app.command()
def doctor(model: Model = None) -> None:
    """Show versions, devices and what is missing; run a small model forward, backward and decoding.

    \b
    Example:
      asr doctor
    """
    from asr.doctor import examine

    if not examine(model):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Errors become one line on stderr and status 1; with `--debug`, a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    if given[:1] == ["--version"]:
        from importlib.metadata import version

        typer.echo(f"rill-asr {version('rill-asr')}")
        return
    try:
        app([argument for argument in given if argument != "--debug"])
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        complain(explain(error))
        sys.exit(1)
