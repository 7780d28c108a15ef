"""The command: helps with examples that exist, errors in one line, and what each verb calls."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import asr.bundle
from asr import cli
from asr.errors import DataError
from asr.search.config import SearchConfig
from tests.commands import ROOT, help_commands, problems, verbs

VERBS = [
    "prepare",
    "shards",
    "pieces",
    "synthesize",
    "train",
    "average",
    "report",
    "transcribe",
    "align",
    "evaluate",
    "calibrate",
    "export",
    "serve",
    "stream",
    "convert",
    "describe",
    "doctor",
]


def help_of(*words: str) -> str:
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0
    return result.output


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_all_verbs_are_there() -> None:
    assert list(verbs()) == VERBS
    assert all(verb in help_of() for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_help_has_examples_that_exist(verb: str) -> None:
    examples = help_commands(help_of(verb))
    assert any(example.startswith(f"asr {verb}") for example in examples)
    existing = [
        example for example in examples if "/train.yaml" not in example
    ]  # recipes are held by their own tests
    assert not [fault for example in existing for fault in problems(example)]


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_is_explained(verb: str) -> None:
    unexplained = [
        parameter.name for parameter in verbs()[verb].params if not getattr(parameter, "help", None)
    ]
    assert not unexplained


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from asr import cli\n"
        "try: cli.main(['transcribe', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lhotse', 'lightning', 'numpy', 'websockets', 'rich.progress'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asr", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "transcribe" in done.stdout


def test_an_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "absent"
    code, out, err = run(capsys, "transcribe", "a.wav", "--model", str(missing))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {missing}: no such bundle") and err.count("\n") == 1


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for words in (["--debug", "average", str(tmp_path)], ["average", str(tmp_path), "--debug"]):
        with pytest.raises(DataError, match="no checkpoint"):
            cli.main(words)


def test_an_unknown_key_of_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text("model: {}\ntokenizer: {kind: bpe}\ndata: {train: [a.jsonl.gz]}\ntrain:\n  hourz: 1\n")
    code, _, err = run(capsys, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 1
    assert f"{recipe}:5: unknown key train.hourz; the nearest known key is train.hours" in err


def test_a_wrong_option_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "transcribe", "a.wav", "--wrds")
    assert code == 2 and "--words" in err


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"7 of {name}")
    cli.main(["--version"])
    assert capsys.readouterr().out == "rill-asr 7 of rill-asr\n"


def test_mistakes_of_ours_say_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object, fast: bool) -> object:
        raise KeyError("x")

    monkeypatch.setattr(asr.bundle, "load", broken)
    code, _, err = run(capsys, "transcribe", "a.wav", "--model", "m")
    assert code == 1 and err.startswith("error: KeyError: 'x' (a mistake in Rill") and err.count("\n") == 1


def test_prepare_runs_the_recipe_with_its_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "prepare.py"
    script.write_text(
        "def prepare(corpus, out, *, skip_bad=False):\n    print(corpus.name, out.name, skip_bad)\n"
    )
    code, out, _ = run(capsys, "prepare", str(tmp_path), "c", "o", "--skip-bad")
    assert (code, out) == (0, "c o True\n")
    code, _, err = run(capsys, "prepare", "an5", "c", "o")
    assert code == 1 and "no recipe is called 'an5'" in err and "an4" in err


def test_train_hands_over_what_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("asr.training.train")
    seen: dict[str, Any] = {}

    def train(config: Path, overrides: Any, **options: Any) -> Path:
        seen.update(config=config, overrides=list(overrides), **options)
        return Path("runs/x/bundle")

    monkeypatch.setattr(sys.modules["asr.training.train"], "train", train)
    code, out, _ = run(
        capsys,
        "train",
        "r.yaml",
        "train.epochs=2",
        "--hours",
        "0.5",
        "-o",
        "runs/x",
        "--from",
        "m",
        "--preset",
        "p",
    )
    assert (code, out) == (0, "runs/x/bundle\n")
    assert seen == {
        "config": Path("r.yaml"),
        "overrides": ["train.epochs=2"],
        "hours": 0.5,
        "out": Path("runs/x"),
        "presets": ["p"],
        "start": Path("m"),
    }


def test_serve_hands_over_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import streaming.engines
    import streaming.server

    seen: dict[str, Any] = {}

    def serve(engine: Any, settings: streaming.server.Settings, *, started: Any) -> None:
        seen.update(engine=engine, settings=settings)
        started(SimpleNamespace(url="wss://host:9/v1/stream"))

    monkeypatch.setattr(streaming.engines, "load", lambda path, **options: f"model of {path}, {options}")
    monkeypatch.setattr(streaming.engines, "TorchEngine", lambda model, **options: (model, *options.values()))
    monkeypatch.setattr(streaming.server, "run", serve)
    options = [
        "--fast",
        "--port",
        "0",
        "--token",
        "a",
        "--token",
        "b",
        "--sessions",
        "3",
        "--latency",
        "640",
        "--threads",
        "3",
        "--device",
        "cpu",
    ]
    options += ["-m", "a/m", "-m", "de=b/m", "--precision", "int8", "--limit", "idle_seconds=300"]
    options += ["--limit", "address_sessions=2", "--proxy", "10.0.0.0/8"]
    options += ["--lm", "news=c/n.arpa", "--lm", "de:own=d", "--default-lm", "news", "--blank-penalty", "0.5"]
    code, out, _ = run(capsys, "serve", *options)
    loaded = {"device": "cpu", "fast": True}
    assert code == 0 and seen["engine"] == {
        "m": (f"model of a/m, {loaded}", 1, "int8", {"news": "c/n.arpa"}),
        "de": (f"model of b/m, {loaded}", 1, "int8", {"news": "c/n.arpa", "own": "d"}),
    }
    limits = seen["settings"].limits
    assert (limits.idle_seconds, limits.address_sessions, limits.token_sessions) == (300, 2, None)
    assert seen["settings"].proxies == ("10.0.0.0/8",)
    assert seen["settings"].processes == (3 if sys.platform == "linux" else 1)
    assert seen["settings"].search == SearchConfig(kind="beam", lm="news", blank_penalty=0.5)
    settings = seen["settings"]
    assert (settings.port, settings.tokens, settings.limits.sessions, settings.default_latency_ms) == (
        0,
        ("a", "b"),
        3,
        640,
    )
    assert "listening on wss://host:9/v1/stream\n" in out and "https://host:9/\n" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "idle=3"], "nearest known key is idle_seconds"),
        (["--limit", "idle_seconds"], "write it as NAME=N"),
        (["--limit", "idle_seconds=soon"], "idle_seconds"),
        (["--limit", "backlog_seconds=-1"], "must be more than 0"),
        (["--engine", "tensorflow"], "use torch or onnx"),
        (["--engine", "onnx", "--precision", "bfloat16"], "use float32 or int8"),
        (["--precision", "int4"], "use float32, bfloat16, int8"),
        (["-m", "x=data/models/mini", "-m", "x=data/models/mini"], "two are named x"),
        (["-m", "no/such/model"], "no such bundle"),
        (["-m", "data/models/mini", "--lm", "news.arpa"], "write it as NAME=PATH"),
        (["--proxy", "nginx"], "no address or network"),
    ],
)
def test_serve_refuses_what_cannot_be(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, _, err = run(capsys, "serve", *options)
    assert code == 1 and message in err and err.count("\n") == 1


def test_stream_to_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "stream", str(tmp_path / "absent.wav"))
    assert code == 1 and "absent.wav" in err and err.count("\n") == 1


def test_convert_knows_its_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "convert", "x", "y", "--from", "kaldi")
    assert code == 1 and "known are nemo, espnet, wenet, icefall" in err


def test_doctor_with_a_broken_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "doctor", "--model", str(tmp_path))
    assert code == 1 and "FAIL" in out and "config.yaml" in out
