"""Commands in documents and help texts, held against the command line that there is."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import typer

from asr.cli import app

ROOT = Path(__file__).parents[1]


def verbs() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def console_commands(text: str) -> list[str]:
    """The commands of a document's fenced `console` blocks: lines that begin with `$ `, joined where one ends with a backslash."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    joined = [re.sub(r"\\\n\s*", "", block) for block in blocks]
    return [line[2:] for block in joined for line in block.splitlines() if line.startswith("$ ")]


def help_commands(text: str) -> list[str]:
    """The commands of a help text: its lines that begin with `asr `."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("asr ")]


def problems(command: str) -> list[str]:
    """What in a command does not exist: its program, verb, options, or files of the checkout that it names."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["asr"]:
        return _verb_problems(words[1:])
    if words and words[0].startswith("./"):
        program = ROOT / words[0]
        return (
            []
            if program.is_file() and os.access(program, os.X_OK)
            else [f"{words[0]} is no program of the checkout"]
        )
    if words and words[0] in {
        "python",
        "git",
        "pip",
        "cd",
        "curl",
        "docker",
        "apt",
        "kubectl",
        "nginx",
        "tensorboard",
    }:
        return [
            f"{word} does not exist"
            for word in words[1:2]
            if word.endswith(".py") and not (ROOT / word).is_file()
        ]
    return [f"{' '.join(words[:1])!r} is no program that is known here"]


def _verb_problems(words: list[str]) -> list[str]:
    if words[:1] == ["--debug"]:
        words = words[1:]
    if not words or words[0] in {"--help", "--version"}:
        return []
    verb = verbs().get(words[0])
    if verb is None:
        return [f"asr has no verb {words[0]!r}"]
    known = {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "-h",
        "--help",
    }
    free = bool(verb.context_settings.get("ignore_unknown_options"))
    given = [
        word.partition("=")[0]
        for word in words[1:]
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word)
    ]
    found = [
        f"asr {words[0]} has no option {word}"
        for word in given
        if word not in known | {"--debug"} and not free
    ]
    paths = [word for word in words[1:] if re.match(r"recipes/|data/mini", word) and "=" not in word]
    return found + [f"{path} does not exist" for path in paths if not (ROOT / path).exists()]
