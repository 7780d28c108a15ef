"""Who is told of a run beside its own history: TensorBoard, Weights & Biases, MLflow, others of Lightning's."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from asr.errors import ConfigError, RillError
from asr.training.checkpoints import RunFolder, write_whole
from asr.training.processes import rank

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import numpy as np
    from lightning.pytorch.loggers import Logger
    from numpy.typing import NDArray

__all__ = [
    "LightningConfig",
    "LoggerConfig",
    "MLflowConfig",
    "WandbConfig",
    "begin",
    "end",
    "make",
    "require",
    "show",
    "tell",
]

log = logging.getLogger("asr.training")


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases. name: by default that of the run's folder; offline: written there, for `wandb sync` to send."""

    kind: Literal["wandb"] = "wandb"
    project: str = "rill"
    name: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class MLflowConfig:
    """MLflow. name: by default that of the run's folder; uri: of its server or store, by default $MLFLOW_TRACKING_URI,
    and without that `mlflow.db` in the run's folder.
    """

    kind: Literal["mlflow"] = "mlflow"
    experiment: str = "rill"
    name: str | None = None
    uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class LightningConfig:
    """Any other of `lightning.pytorch.loggers`, as CSVLogger, with settings that its class takes; without pictures."""

    kind: Literal["lightning"] = "lightning"
    logger: str
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)


LoggerConfig = Literal["tensorboard", "wandb", "mlflow"] | WandbConfig | MLflowConfig | LightningConfig
"""A name alone stands for its defaults."""

_PACKAGES = ("tensorboard", "wandb", "mlflow")
_NAMED = {"wandb": WandbConfig(), "mlflow": MLflowConfig()}


def require(configs: Sequence[LoggerConfig]) -> None:
    """Raises ConfigError: a logger that is unknown, or whose package is not installed, with pip's command."""
    from lightning.pytorch import loggers

    for config in configs:
        kind = config if isinstance(config, str) else config.kind
        if kind in _PACKAGES and importlib.util.find_spec(kind) is None:
            raise ConfigError(
                f"train.loggers: {kind} is not installed: pip install {kind}, or leave it out of the list"
            )
        if isinstance(config, LightningConfig) and config.logger not in loggers.__all__:
            raise ConfigError(
                f"train.loggers: Lightning has no {config.logger}; known are {', '.join(sorted(loggers.__all__))}"
            )


def make(configs: Sequence[LoggerConfig], folder: RunFolder, *, batches: int) -> list[Logger]:
    """Those of the configuration; a run that goes on from so many batches goes on in each of them, too.

    Raises:
        ConfigError: one cannot start: nobody is logged in, its server is away, or a setting is unknown.
    """
    ids: dict[str, str] = json.loads(folder.loggers.read_text()) if folder.loggers.exists() else {}
    found = []
    for given in configs:
        kind = given if isinstance(given, str) else given.kind
        config = _NAMED.get(kind, kind) if isinstance(given, str) else given
        try:
            with warnings.catch_warnings(action="ignore"):  # of the services' own packages
                logger = _logger(config, folder, id=ids.get(kind), batches=batches)
                if kind in _NAMED and not rank():
                    _ = logger.experiment  # begins here, where its errors are told
                    ids[kind] = str(logger.version)
        except Exception as error:  # each service has errors of its own
            raise ConfigError(
                f"train.loggers: {kind} cannot start ({error}); mend that, or leave it out of the list"
            ) from error
        found.append(logger)
    if ids and not rank():
        write_whole(folder.loggers, json.dumps(ids) + "\n")
    return found


def _logger(config: Any, folder: RunFolder, *, id: str | None, batches: int) -> Any:
    from lightning.pytorch import loggers

    run = folder.path.absolute().name
    match config:
        case WandbConfig(project=project, name=name, entity=entity, tags=tags, offline=offline):
            return loggers.WandbLogger(
                name=name or run, project=project, entity=entity, tags=list(tags), offline=offline, id=id,
                save_dir=folder.path,
            )  # fmt: skip
        case MLflowConfig(experiment=experiment, name=name, uri=uri):
            uri, artifacts = uri or os.environ.get("MLFLOW_TRACKING_URI"), None
            if uri is None:
                uri = f"sqlite:///{folder.path.absolute() / 'mlflow.db'}"
                artifacts = (folder.path.absolute() / "mlflow").as_uri()
            return loggers.MLFlowLogger(
                experiment, run_name=name or run, tracking_uri=uri, artifact_location=artifacts, run_id=id
            )
        case LightningConfig(logger=logger, settings=settings):
            kind = getattr(loggers, logger)
            return kind(**({"save_dir": folder.path} if logger == "CSVLogger" else {}) | settings)
    # What a killed run has written beyond its last checkpoint comes again.
    purge: dict[str, Any] = {"purge_step": batches + 1} if batches else {}
    return loggers.TensorBoardLogger(
        folder.path, name="", version="tensorboard", default_hp_metric=False, **purge
    )


def begin(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Tell all the resolved configuration of a run."""
    for logger in loggers:
        with _surviving(logger):
            logger.log_hyperparams(dict(settings))


def tell(trainer: pl.Trainer, scalars: Mapping[str, float], batch: int) -> None:
    """Named numbers, as they are after a batch."""
    for logger in trainer.loggers:
        with _surviving(logger):
            logger.log_metrics(dict(scalars), step=batch)


def show(trainer: pl.Trainer, name: str, image: NDArray[np.uint8], batch: int) -> None:
    """A picture (height, width, 3), to those that take pictures."""
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    for logger in trainer.loggers:
        with _surviving(logger):
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, image, batch, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, image, key=name.replace("/", "-"), step=batch)
            elif hasattr(logger, "log_image"):  # Weights & Biases, and a run's own history
                logger.log_image(name, [image], step=batch)


def end(loggers: Sequence[Logger]) -> None:
    """Weights & Biases would otherwise go on until the process ends."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger) and not rank():
            with _surviving(logger):
                logger.experiment.finish()


@contextlib.contextmanager
def _surviving(logger: Logger) -> Iterator[None]:
    """A service that is away for a while does not end a training."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except RillError:
        raise
    except Exception as error:
        log.warning("%s has missed something: %s", type(logger).__name__, error)
