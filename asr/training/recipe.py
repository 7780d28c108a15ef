"""From a recipe to the things that it describes: tokenizer, model, dev set."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from asr import config as configuration
from asr.bundle_files import load_tokenizer
from asr.dataset import DataConfig, Loader, SpecAugmentConfig, Spectral
from asr.dataset.cuts import text_of
from asr.dataset.manifest import Manifest
from asr.dataset.texts import TextDataConfig, Texts
from asr.errors import ConfigError, DataError
from asr.evaluate import spread_loader
from asr.language_model.neural import NeuralConfig, NeuralLM
from asr.model import Model, ModelConfig
from asr.tokenizer import Kind, Tokenizer
from asr.training.checkpoints import RunFolder
from asr.training.config import TrainConfig
from asr.training.fine_tune import adapt, compatible, inherit
from asr.training.processes import rank, world_size
from asr.training.speech import Speech
from asr.training.subject import Subject
from asr.training.text import Text

__all__ = [
    "LanguageModelRecipe", "Recipe", "RecipeConfig", "TokenizerConfig", "build", "dev_loader", "load_recipe",
    "load_run", "load_weights", "subject_of", "train_loader",
]  # fmt: skip

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
    kind: Literal["speech"] = "speech"

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


@dataclass(frozen=True)
class LanguageModelRecipe:
    """A recipe of a neural language model. `tokenizer`: the bundle of the speech model whose tokens it speaks."""

    model: NeuralConfig
    tokenizer: Path
    data: TextDataConfig
    train: TrainConfig = TrainConfig()
    kind: Literal["language_model"] = "language_model"


Recipe = RecipeConfig | LanguageModelRecipe


def load_recipe(
    path: str | PathLike[str], *, over: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> Recipe:
    """A recipe's YAML; its `kind` says what it trains, a speech model if there is none. Raises ConfigError."""
    recipe: Recipe = configuration.load(Recipe, path, over=over, overrides=overrides)  # type: ignore[arg-type]
    return recipe


def build(
    recipe: Recipe,
    folder: RunFolder,
    *,
    leave_out: Collection[tuple[str, int]] = (),
    start: Path | None = None,
) -> Model | NeuralLM:
    """The recipe's model with fresh weights, and the folder's tokenizer, which a new run makes.

    start: a bundle whose tokenizer and weights a new run begins with. Writes `config.yaml` and the tokenizer into the
    folder.

    Raises:
        ConfigError: the folder holds a run of another model, or `start` is one.
        BundleError: `start` is no whole bundle.
    """
    path, resumed = folder.path / "config.yaml", folder.last.exists()
    if resumed and path.exists():
        before = load_recipe(path)
        for name in ("kind", "model", "tokenizer"):
            if getattr(before, name) != getattr(recipe, name):
                raise ConfigError(
                    f"{folder.path} holds a run with another {name}; take another output folder, or remove "
                    f"{folder.checkpoints} to start over"
                )
    begun = None if start is None or resumed else _begin(recipe, start)
    tokenizer = _stored_tokenizer(folder) if resumed else None
    if tokenizer is None:
        keep = begun is not None and recipe.train.fine_tune.tokenizer == "keep"
        tokenizer = begun.tokenizer if begun is not None and keep else _new_tokenizer(recipe, leave_out)
        if not rank():
            (folder.path / f"tokenizer.{tokenizer.kind}").write_bytes(tokenizer.to_bytes())
    if not rank():
        path.write_text(configuration.to_yaml(recipe), encoding="utf-8")
    torch.manual_seed(recipe.train.seed)
    model = _model(recipe, tokenizer)
    if begun is not None:
        log.info("beginning with the weights of %s", start)
        inherit(model, begun)
    adapt(model, recipe.train.fine_tune)
    return model


def _model(recipe: Recipe, tokenizer: Tokenizer) -> Model | NeuralLM:
    if isinstance(recipe, LanguageModelRecipe):
        return NeuralLM(recipe.model, tokenizer)
    return Model(recipe.model, tokenizer)


def _stored_tokenizer(folder: RunFolder) -> Tokenizer | None:
    for kind in get_args(Kind):
        stored = folder.path / f"tokenizer.{kind}"
        if stored.exists():
            return Tokenizer.from_bytes(kind, stored.read_bytes())
    return None


def _new_tokenizer(recipe: Recipe, leave_out: Collection[tuple[str, int]]) -> Tokenizer:
    if isinstance(recipe, LanguageModelRecipe):
        return load_tokenizer(recipe.tokenizer)
    manifest = Manifest(recipe.data.train, leave_out=leave_out, limit=_TEXTS)
    texts = [text_of(manifest[i], case=recipe.data.case) for i in range(len(manifest))]
    c = recipe.tokenizer
    tokenizer = Tokenizer.train(texts, kind=c.kind, vocabulary=c.vocabulary, byte_fallback=c.byte_fallback)
    log.info("tokenizer: %d %s tokens from %d transcripts", tokenizer.size, c.kind, len(texts))
    return tokenizer


def _begin(recipe: Recipe, start: Path) -> Model | NeuralLM:
    """The model of a bundle that a new run of the recipe begins with."""
    if isinstance(recipe, LanguageModelRecipe):
        language_model = NeuralLM.load(start)
        if language_model.config != recipe.model:
            raise ConfigError(f"model: not that of {start}, whose weights would have no place")
        return language_model
    model = compatible(recipe.model, start)
    if recipe.train.fine_tune.tokenizer == "keep" and model.tokenizer.kind != recipe.tokenizer.kind:
        raise ConfigError(
            f"tokenizer.kind: {recipe.tokenizer.kind}, but that of {start} is {model.tokenizer.kind}; say so, or train "
            "a new one with train.fine_tune.tokenizer=new"
        )
    return model


def subject_of(recipe: Recipe, model: Model | NeuralLM) -> Subject:
    """What the trainer is given of a recipe's model."""
    if isinstance(recipe, LanguageModelRecipe):
        assert isinstance(model, NeuralLM)
        return Text(model)
    assert isinstance(model, Model)
    views = 1 if recipe.train.consistency is None else 2
    return Speech(model, augment=recipe.spectral(), plain_epochs=recipe.data.plain_epochs, views=views)


def train_loader(
    recipe: Recipe, tokenizer: Tokenizer, *, leave_out: Collection[tuple[str, int]] = ()
) -> Loader | Texts:
    """This process' batches of the training data."""
    share = {"rank": rank(), "world_size": world_size()}
    if isinstance(recipe, LanguageModelRecipe):
        return Texts(recipe.data.train, recipe.data, tokenizer, training=True, **share)
    data = recipe.data
    return Loader(
        data.train, data, tokenizer, training=True, weights=data.weights, leave_out=leave_out, **share
    )


def dev_loader(recipe: Recipe, tokenizer: Tokenizer, *, part: int | None = None) -> Loader | Texts:
    """Speech: at most `train.validate_utterances` of the dev set, spread evenly over it; texts: all.

    part: only the file of this number of the dev set.
    """
    chosen = slice(None) if part is None else slice(part, part + 1)
    if isinstance(recipe, LanguageModelRecipe):
        return Texts(recipe.data.dev[chosen], recipe.data, tokenizer, training=False)
    # One process reads: the batches are few, and the trainer's cores are busy with them.
    config = replace(recipe.data, workers=min(recipe.data.workers, 1))
    return spread_loader(recipe.data.dev[chosen], config, tokenizer, limit=recipe.train.validate_utterances)


def load_run(folder: RunFolder) -> tuple[Recipe, Model | NeuralLM]:
    """A run's recipe, and its model with the weights of the last checkpoint.

    Raises:
        ConfigError, DataError: the folder holds no run.
    """
    recipe = load_recipe(folder.path / "config.yaml")
    tokenizer = _stored_tokenizer(folder)
    if tokenizer is None:
        raise DataError(f"{folder.path}: the run's tokenizer is missing; copy the whole folder")
    model = _model(recipe, tokenizer)
    adapt(model, recipe.train.fine_tune)
    load_weights(model, folder, folder.last)
    return recipe, model


def load_weights(model: nn.Module, folder: RunFolder, path: Path) -> None:
    """Put a checkpoint's weights into a model."""
    weights = folder.load(path)["state_dict"]
    assert isinstance(weights, dict)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
