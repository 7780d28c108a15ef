"""Who is told of a run: by Lightning's own loggers, going on where the run goes on."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch.loggers
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr import config as configuration
from asr.errors import ConfigError
from asr.training import loggers
from asr.training.checkpoints import RunFolder
from asr.training.config import TrainConfig
from asr.training.history import read_history
from asr.training.loggers import LightningConfig, MLflowConfig, WandbConfig
from asr.training.train import train


def test_one_line_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "loggers: [tensorboard, wandb, {kind: mlflow, experiment: e}, {kind: lightning, logger: CSVLogger, settings: {name: x}}]"
    )
    found = configuration.load(TrainConfig, path)
    assert found.loggers == (
        "tensorboard", "wandb", MLflowConfig(experiment="e"), LightningConfig(logger="CSVLogger", settings={"name": "x"}),
    )  # fmt: skip
    assert configuration.from_dict(TrainConfig, configuration.to_dict(found)) == found
    path.write_text("loggers: [{kind: wandb, projekt: rill}]")
    with pytest.raises(ConfigError, match="nearest known key is loggers.0.project"):
        configuration.load(TrainConfig, path)


def test_what_is_missing_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        loggers.require(["wandb"])
    with pytest.raises(ConfigError, match="mlflow is not installed: pip install mlflow"):
        train(recipe, ["train.loggers=[{kind: mlflow}]"], out=tmp_path / "run")
    with pytest.raises(ConfigError, match="Lightning has no CSVLoger; known are CSVLogger"):
        loggers.require([LightningConfig(logger="CSVLoger")])


def test_tensorboard_and_another_of_lightnings_have_what_the_report_has(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = "train.loggers=[tensorboard, {kind: lightning, logger: CSVLogger}]"
    train(recipe, ["train.epochs=1", told], out=out)
    train(recipe, ["train.epochs=2", told], out=out)
    curves = read_history(RunFolder(out)).curves
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(curves) and "dev/WER ctc" in curves
    for name, curve in curves.items():
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] == curve
    assert set(events.Tags()["images"]) == {"alignment/transducer", "alignment/ctc"}
    tables = [path.read_text().splitlines() for path in sorted(out.rglob("metrics.csv"))]
    rows = [row for table in tables for row in csv.DictReader(table)]
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == [
        pytest.approx(value) for _, value in curves["train/loss"]
    ]


class Service:
    """What stands in for Weights & Biases and MLflow, which need accounts, or packages of their own."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        self.settings, self.told, self.version, self.run_id = settings, [], "run7", "run7"
        self.experiment = self

    def log_hyperparams(self, settings: Any) -> None:
        self.told.append(settings["train"]["seed"])

    def log_metrics(self, scalars: Any, step: int) -> None:
        self.told.append((step, scalars))

    def log_image(self, *names: Any, **settings: Any) -> None:
        self.told.append((*names, settings.get("key"), settings["step"]))

    def finish(self) -> None:
        self.told.append("finished")


class Wandb(Service): ...


class MLflow(Service): ...


def test_services_go_on_with_the_run_and_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Wandb)
    monkeypatch.setattr(lightning.pytorch.loggers, "MLFlowLogger", MLflow)
    folder, configs = RunFolder(tmp_path), (WandbConfig(project="p", tags=("a",), offline=True), "mlflow")
    wandb, mlflow = first = loggers.make(configs, folder, batches=0)
    assert wandb.settings == {
        "project": "p", "name": tmp_path.name, "entity": None, "tags": ["a"], "offline": True, "id": None, "save_dir": tmp_path,
    }  # fmt: skip
    assert mlflow.settings == {
        "run_name": tmp_path.name,
        "tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "artifact_location": f"file://{tmp_path / 'mlflow'}",
        "run_id": None,
    }
    loggers.begin(first, {"train": {"seed": 1}})
    trainer: Any = SimpleNamespace(loggers=first)
    loggers.tell(trainer, {"loss": 1.0}, 5)
    image = np.zeros((2, 2, 3), np.uint8)
    loggers.show(trainer, "alignment/ctc", image, 5)
    loggers.end(first)
    assert wandb.told == [1, (5, {"loss": 1.0}), ("alignment/ctc", [image], None, 5), "finished"]
    assert mlflow.told == [1, (5, {"loss": 1.0}), ("run7", image, "alignment-ctc", 5)]

    again = loggers.make(configs, folder, batches=5)
    assert again[0].settings["id"] == "run7" and again[1].settings["run_id"] == "run7"
    monkeypatch.setattr(Service, "log_metrics", lambda *_, **__: 1 / 0)  # a server that is away
    loggers.tell(SimpleNamespace(loggers=again), {"loss": 1.0}, 6)
    assert caplog.text.count("has missed something: division by zero") == 2

    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(Wandb, "__init__", refused)
    with pytest.raises(ConfigError, match="wandb cannot start .no API key.; mend that, or leave it out"):
        loggers.make(configs, folder, batches=0)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of its packages
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow(recipe: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    out = tmp_path / "run"
    told = "train.loggers=[{kind: mlflow, experiment: tones}]"
    for epochs in (1, 2):
        train(recipe, [f"train.epochs={epochs}", told], out=out)
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tones").experiment_id])
    assert run.data.params["train/seed"] == "1" and run.info.status == "FINISHED"
    curves = read_history(RunFolder(out)).curves
    for name in ("train/loss", "dev/WER ctc"):
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == curves[name]
    assert client.list_artifacts(run.info.run_id, "images")


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for epochs in (1, 2):
        train(recipe, [f"train.epochs={epochs}", "train.loggers=[{kind: wandb, offline: true}]"], out=out)
    runs = list((out / "wandb").glob("offline-run-*"))
    id = json.loads((out / "loggers.json").read_text())["wandb"]
    assert len(runs) == 2 and all(path.name.endswith(id) for path in runs)
    assert all(list(path.glob("*.wandb")) for path in runs)
