"""From a recipe to the things that it describes: tokenizer, model, dev set."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from asr import bundle
from asr import config as configuration
from asr.dataset import DataConfig, Loader, SpecAugmentConfig, Spectral
from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest
from asr.errors import ConfigError
from asr.evaluate import spread_loader
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from asr.training.checkpoints import RunFolder
from asr.training.config import TrainConfig
from asr.training.processes import rank

__all__ = ["RecipeConfig", "TokenizerConfig", "build", "dev_loader", "load_run", "load_weights"]

log = logging.getLogger(__name__)

_TEXTS = 500_000  # transcripts, spread evenly, tell a tokenizer as much as all do


@dataclass(frozen=True)
class TokenizerConfig:
    """Trained on the transcripts of the training data; `vocabulary` counts the blank and is ignored by characters.

    `byte_fallback` spends 256 tokens on bytes, which spell any character that the transcripts lack.
    """

    kind: Literal["unigram", "bpe", "characters"] = "unigram"
    vocabulary: int = 500
    byte_fallback: bool = True


@dataclass(frozen=True)
class RecipeConfig:
    """A recipe: the model, the data and the training, all that `asr train` needs."""

    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        if self.train.consistency is not None and self.model.ctc is None:
            raise ConfigError("train.consistency: compares what the CTC head says, but model.ctc is null")
        self.spectral()

    def spectral(self) -> Spectral:
        """What is done to the features of training batches, or to each view of them. Raises ConfigError."""
        augment, consistency = self.data.augment, self.train.consistency
        if consistency is None:
            return Spectral(augment)
        if not any(isinstance(step, SpecAugmentConfig) for step in augment):
            raise ConfigError(
                "train.consistency: compares two maskings of an utterance, but data.augment has no spec_augment"
            )
        return Spectral(
            [consistency.masking(step) if isinstance(step, SpecAugmentConfig) else step for step in augment]
        )


def build(
    recipe: RecipeConfig,
    folder: RunFolder,
    *,
    leave_out: Collection[tuple[str, int]] = (),
    start: Path | None = None,
) -> Model:
    """The recipe's model with fresh weights, and the folder's tokenizer, trained on the transcripts at first.

    start: a bundle whose tokenizer and weights a new run begins with. Writes `config.yaml` and the tokenizer into the
    folder.

    Raises:
        ConfigError: the folder holds a run of another model, or `start` is one.
        BundleError: `start` is no whole bundle.
    """
    path = folder.path / "config.yaml"
    if folder.last.exists() and path.exists():
        before = configuration.load(RecipeConfig, path)
        for name in ("model", "tokenizer"):
            if getattr(before, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{folder.path} holds a run with another {name}; take another output folder, or remove "
                    f"{folder.checkpoints} to start over"
                )
    stored = folder.path / f"tokenizer.{recipe.tokenizer.kind}"
    begun = None if start is None or folder.last.exists() else _begin(recipe, start)
    if folder.last.exists() and stored.exists():
        tokenizer = Tokenizer.from_bytes(recipe.tokenizer.kind, stored.read_bytes())
    elif begun is not None:
        tokenizer = begun.tokenizer
        if not rank():
            stored.write_bytes(tokenizer.to_bytes())
    else:
        manifest = Manifest(recipe.data.train, leave_out=leave_out, limit=_TEXTS)
        texts = [text_of(manifest[i], case=recipe.data.case) for i in range(len(manifest))]
        c = recipe.tokenizer
        tokenizer = Tokenizer.train(
            texts, kind=c.kind, vocabulary=c.vocabulary, byte_fallback=c.byte_fallback
        )
        if not rank():
            stored.write_bytes(tokenizer.to_bytes())
        log.info(
            "tokenizer: %d %s tokens from %d transcripts", tokenizer.size, recipe.tokenizer.kind, len(texts)
        )
    if not rank():
        path.write_text(configuration.to_yaml(recipe), encoding="utf-8")
    torch.manual_seed(recipe.train.seed)
    model = Model(recipe.model, tokenizer)
    if begun is not None:
        model.load_state_dict(begun.state_dict())
    return model


def _begin(recipe: RecipeConfig, start: Path) -> Model:
    """The model of a bundle that a new run of the recipe begins with."""
    model = bundle.load(start)
    if model.tokenizer.kind != recipe.tokenizer.kind:
        raise ConfigError(
            f"tokenizer.kind: {recipe.tokenizer.kind}, but {start} has a tokenizer of kind {model.tokenizer.kind}; "
            "training goes on with the tokenizer of the model that it begins with"
        )
    for part in ("features", "encoder", "transducer", "ctc"):
        if getattr(model.config, part) != getattr(recipe.model, part):
            raise ConfigError(
                f"model.{part}: not that of {start}, whose weights would have no place; take over `model` from its "
                "config.yaml"
            )
    log.info("beginning with the weights and the tokenizer of %s", start)
    return model


def dev_loader(recipe: RecipeConfig, tokenizer: Tokenizer) -> Loader:
    """At most `train.validate_utterances` of the dev set, spread evenly over it."""
    # One process reads: the batches are few, and the trainer's cores are busy with them.
    config = replace(recipe.data, workers=min(recipe.data.workers, 1))
    return spread_loader(recipe.data.dev, config, tokenizer, limit=recipe.train.validate_utterances)


def load_run(folder: RunFolder) -> tuple[RecipeConfig, Model]:
    """A run's recipe, and its model with the weights of the last checkpoint.

    Raises:
        ConfigError, DataError: the folder holds no run.
    """
    recipe = configuration.load(RecipeConfig, folder.path / "config.yaml")
    stored = folder.path / f"tokenizer.{recipe.tokenizer.kind}"
    model = Model(recipe.model, Tokenizer.from_bytes(recipe.tokenizer.kind, stored.read_bytes()))
    load_weights(model, folder, folder.last)
    return recipe, model


def load_weights(model: Model, folder: RunFolder, path: Path) -> None:
    """Put a checkpoint's weights into a model."""
    weights = folder.load(path)["state_dict"]
    assert isinstance(weights, dict)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
