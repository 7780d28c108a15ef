"""A language model's way through the one trainer: YAML, texts, checkpoints, resuming, average, bundle, fusion."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from asr.bundle_files import load_tokenizer
from asr.dataset.texts import TextDataConfig, Texts
from asr.errors import ConfigError, DataError
from asr.language_model.neural import NeuralLM
from asr.training.checkpoints import RunFolder
from asr.training.finish import average
from asr.training.recipe import LanguageModelRecipe, RecipeConfig, load_recipe
from asr.training.text import Text
from asr.training.train import train
from tests.models import small_model

RECIPE = """
kind: language_model
model: {kind: lstm, dim: 24}
tokenizer: FOLDER/speech
data: {train: [FOLDER/train.txt], dev: [FOLDER/dev.txt], max_tokens: 120, longest: 60}
train:
  epochs: 30
  clock: budget
  optimizer: adamw
  base_lr: 0.02
  warmup_batches: 2
  average_batches: 1
  log_batches: 1
  validate_batches: 10
  threads: 1
"""
LINES = ["the quick fox", "the lazy dog", "the quick dog", "pack my box", "rill"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    small_model("conformer").save(tmp_path / "speech")
    (tmp_path / "train.txt").write_text("\n".join(LINES * 6) + "\n\n")
    (tmp_path / "dev.txt").write_text("THE LAZY FOX\nrill\n")
    (tmp_path / "lm.yaml").write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    return tmp_path / "lm.yaml"


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(ROOT.glob("recipes/*/lm.yaml"))])
def test_recipes_of_language_models_are_read(name: str):
    recipe = load_recipe(ROOT / "recipes" / name / "lm.yaml")
    assert isinstance(recipe, LanguageModelRecipe)
    assert load_tokenizer(ROOT / recipe.tokenizer).size > 1
    assert isinstance(load_recipe(ROOT / "recipes" / name / "train.yaml"), RecipeConfig)


def test_train(recipe: Path, tmp_path: Path):
    out = tmp_path / "run"
    path = train(recipe, ["train.epochs=10"], out=out)
    log = (out / "train.log").read_text()
    for part in ("tokens in 30 texts", "perplexity", "tokens/s", "the bundle gets"):
        assert part in log
    assert train(recipe, out=out) == path
    assert "going on from" in (out / "train.log").read_text()
    model = NeuralLM.load(path)
    card = (path / "card.md").read_text()
    assert (
        "a language model (lstm)" in card and "perplexity" in card and "speech" not in card.split("\n", 3)[3]
    )

    # It knows its texts by heart, and is far better than a guess.
    tokenizer = model.tokenizer
    known = Text(model).measure(Texts([tmp_path / "train.txt"], _data(tmp_path), tokenizer, training=False))
    assert known.score < 2.5 < tokenizer.size
    texts = Texts([tmp_path / "dev.txt"], _data(tmp_path), tokenizer, training=False)
    dev = Text(model).measure(texts).score
    assert f"{dev:.2f}" in card
    total = sum(
        -float(model(torch.tensor([tokens]))[0][torch.arange(len(tokens) + 1), [*tokens, 0]].double().sum())
        for tokens in (tokenizer.encode("the lazy fox"), tokenizer.encode("rill"))
    )
    count = len(tokenizer.encode("the lazy fox")) + len(tokenizer.encode("rill")) + 2
    assert dev == pytest.approx(math.exp(total / count), rel=1e-4), "in the model's case, ends counted"

    late = RunFolder(out).snapshots()[-1]
    whole = NeuralLM.load(average(out, last=10**6, out=tmp_path / "whole"))
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parameter, late.load()[name])

    again = train(recipe, ["train.epochs=1", "train.base_lr=1e-12"], out=tmp_path / "more", start=path)
    for name, parameter in NeuralLM.load(again).named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="model: not that of"):
        train(recipe, ["model.dim=32"], out=tmp_path / "other", start=path)
    with pytest.raises(ConfigError, match="holds a run with another model"):
        train(recipe, ["model.dim=32"], out=out)


def _data(folder: Path) -> TextDataConfig:
    return TextDataConfig(train=(folder / "train.txt",), max_tokens=120, longest=60)


def test_a_resumed_run_is_the_run_that_was_not_stopped(recipe: Path, tmp_path: Path):
    """To the bit: the order of the texts and dropout follow from seed and batch alone."""
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    for folder, epochs in (
        (whole, 4),
        (parts, 1.5),
        (parts, 4),
    ):  # the rate must not follow the budget for this
        train(recipe, ["train.clock=batches", f"train.epochs={epochs}"], out=folder.path)
    one, other = (folder.load(folder.last)["state_dict"] for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_texts_come_once_each_in_batches_of_their_size(tmp_path: Path):
    tokenizer = small_model("conformer").tokenizer
    (tmp_path / "train.txt").write_text("\n".join(LINES) + "\n")
    config = TextDataConfig(train=(tmp_path / "train.txt",), max_tokens=40, longest=15)
    texts = Texts(config.train, config, tokenizer, training=True)
    assert len(texts) > 1
    first = list(texts)
    assert texts.epoch == 1 and texts.batch == 0
    for batch in first:
        assert len(batch.ids) * (int(batch.token_lens.max()) + 1) <= 40 and int(batch.token_lens.max()) <= 15
    ids = sorted(i for batch in first for i in batch.ids)
    assert len(ids) == len(set(ids)), "each once"
    said = "".join(text for batch in first for text in batch.texts)
    assert len(said.replace(" ", "")) == len("".join(LINES).replace(" ", "")), "long ones in pieces"
    second = Texts(config.train, config, tokenizer, training=True)
    second.load_state_dict({**second.state_dict(), "batch": 1})
    assert [batch.ids for batch in second] == [batch.ids for batch in first[1:]]
    with pytest.raises(DataError, match=r"utterances: 99 then"):
        second.load_state_dict({**second.state_dict(), "utterances": 99})


def test_what_is_wrong_is_named(recipe: Path, tmp_path: Path):
    (tmp_path / "train.txt").write_text("the fox\nthe \N{SNOWMAN}\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2"):
        train(recipe, out=tmp_path / "run")
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="no text in"):
        train(recipe, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        train(recipe, ["data.train=[gone.txt]"], out=tmp_path / "run")
    with pytest.raises(ConfigError, match="longest must be"):
        train(recipe, ["data.longest=500"], out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"kind: expected"):
        train(recipe, ["kind=music"], out=tmp_path / "run")
