"""What a run remembers of itself, from which its report is made: `history.jsonl`, a line each, and `pictures/`."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray

from asr.doctor import devices, software
from asr.training.checkpoints import RunFolder, write_whole, writing

__all__ = ["History", "Session", "Told", "read_history"]


@dataclass(frozen=True)
class Session:
    """A start of the command. batch: that the run went on from; git: a line for each checkout that was used;
    environment: versions and devices by name."""

    batch: int
    began: str
    command: str
    git: tuple[str, ...]
    environment: dict[str, str]

    @staticmethod
    def now(batch: int, *places: Path) -> Session:
        """This one. places: the recipe's, beside that of Rill itself."""
        found = [*software(), *devices()]
        states = [state for place in (Path(__file__), *places) if (state := git_state(place))]
        return Session(
            batch,
            datetime.now(UTC).astimezone().isoformat(" ", "seconds"),
            shlex.join(sys.argv),
            tuple(dict.fromkeys(states)),
            {one.name: one.text for one in found},
        )


@dataclass(frozen=True)
class Told:
    """sessions: in order; curves: by name, (batch, value) in order."""

    sessions: tuple[Session, ...] = ()
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class History(Logger):
    """One of Lightning's loggers. What a session told beyond where the next one goes on does not count."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    def begin(self, session: Session) -> None:
        path = self.folder.history
        cut = (
            path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
        )  # killed within a line
        self._append({"session": vars(session)}, before="\n" if cut else "")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """`config.yaml` has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._append({"batch": step, "scalars": dict(metrics)})

    def log_image(self, key: str, images: list[NDArray[np.uint8]], step: int | None = None) -> None:
        """Keeps the newest picture of each name."""
        import matplotlib.image

        png = io.BytesIO()
        matplotlib.image.imsave(png, images[0])
        name = key.replace("/", "-").replace(" ", "-")
        write_whole(self.folder.pictures / f"{name}.png", png.getvalue())

    def _append(self, line: Mapping[str, Any], before: str = "") -> None:
        with writing(self.folder.history), self.folder.history.open("a", encoding="utf-8") as file:
            file.write(f"{before}{json.dumps(line)}\n")


def read_history(folder: RunFolder) -> Told:
    """All that counts of a run, over all its sessions; of a run that has no history, nothing."""
    sessions: list[Session] = []
    curves: dict[str, list[tuple[int, float]]] = {}
    if not folder.history.exists():
        return Told()
    with folder.history.open(encoding="utf-8") as lines:
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:  # a session was killed while it wrote this
                continue
            if "session" in line:
                session = Session(**line["session"] | {"git": tuple(line["session"]["git"])})
                sessions.append(session)
                for curve in curves.values():
                    while curve and curve[-1][0] > session.batch:
                        curve.pop()
                continue
            for name, value in line["scalars"].items():
                curves.setdefault(name, []).append((line["batch"], value))
    return Told(tuple(sessions), {name: curve for name, curve in curves.items() if curve})


def git_state(place: Path) -> str | None:
    """Commit, branch and what is changed of the checkout that a file lies in; None where it lies in none."""

    def git(*words: str) -> str:
        folder = place.absolute() if place.is_dir() else place.absolute().parent
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=60
        ).stdout.rstrip()

    try:
        top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
        branch, changed = git("rev-parse", "--abbrev-ref", "HEAD"), git("status", "--porcelain").splitlines()
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or none of this user's
        return None
    files = ", ".join(line[3:] for line in changed[:20]) + (" ..." if len(changed) > 20 else "")
    state = f"with changes to {files}" if changed else "unchanged"
    return f"{Path(top).name} at {commit[:12]} ({branch}), {state}"
