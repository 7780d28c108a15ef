"""Corpora in their published layouts: prepare -> train -> evaluate, as their READMEs say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import get_args

import pytest
import torch
from lhotse import CutSet

from asr import config as configuration
from asr.cli import main
from asr.dataset import validate
from asr.dataset.cuts import text_of
from asr.encoders import EncoderConfig
from asr.errors import ConfigError, DataError
from asr.model import Model
from asr.paths import preset
from asr.tokenizer import Tokenizer
from asr.training.recipe import RecipeConfig
from tests.recipes.layouts import LAYOUTS, TEXTS, say

# Lhotse's recipe leaves WenetSpeech.json open
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file.*WenetSpeech.json:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*WenetSpeech.json:pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in ROOT.glob("recipes/*/train.yaml"))
PRESETS = sorted(ROOT.glob("recipes/presets/*.yaml"))
OPTIONS = {"wenetspeech": ["--part", "S"], "gigaspeech": ["--part", "S"], "ami": ["--microphone", "sdm"]}
SMALL = [
    "model.encoder={kind: zipformer, layers: [1, 1], dims: [32, 32], feed_forward_dims: [32, 32], unmasked_dims: [16, 16], "
    "downsampling: [1, 2], heads: [2, 2], kernels: [7, 7], query_dim: 8, value_dim: 4, embed_channels: [4, 8, 8], "
    "chunks: [{frames: 8, left: 32}]}",
    "tokenizer={kind: characters}",
    "data.max_duration=8", "data.max_seconds=6", "data.workers=0",
    "train.epochs=1", "train.threads=1", "train.validate_minutes=null",
]  # fmt: skip


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def prepare(name: str, folder: Path) -> Path:
    LAYOUTS[name](folder / "corpus")
    run("prepare", name, str(folder / "corpus"), str(folder / "data"), *OPTIONS.get(name, []))
    return folder / "data"


def texts(path: Path) -> list[str]:
    return [text_of(cut) for cut in CutSet.from_file(path)]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_prepare_train_evaluate(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(name, tmp_path)
    recipe = configuration.load(RecipeConfig, ROOT / f"recipes/{name}/train.yaml")
    assert validate([data / "train.jsonl.gz", data / "dev.jsonl.gz"]).problems == ()
    # The recipe's own YAML, in which only the sizes are others, finds what was prepared.
    for split in ("train", "dev", "test"):
        for path in map(Path, getattr(recipe.data, split)):
            assert (data / path.name).is_file() and path.parent == Path("data") / name
    moved = [f"data.{split}=[{data / (split + '.jsonl.gz')}]" for split in ("train", "dev")]
    without = [] if recipe.model.transducer is None else ["model.transducer=null"]
    run(
        "train",
        str(ROOT / f"recipes/{name}/train.yaml"),
        *SMALL,
        *moved,
        *without,
        "--out",
        str(tmp_path / "run"),
    )
    test = str(data / Path(recipe.data.test[0]).name)
    report = tmp_path / "report.json"
    run("evaluate", test, "--model", str(tmp_path / "run/bundle"), "--out", str(report))
    assert json.loads(report.read_text())
    assert "WER" in capsys.readouterr().out


def test_what_the_recipes_make_of_texts(tmp_path: Path) -> None:
    found = {name: prepare(name, tmp_path / name) for name in LAYOUTS}
    for name, data in found.items():
        if name in ("yesno", "mini_librispeech"):
            continue
        for split in ("train", "dev"):
            wanted = [text.upper() for text in TEXTS] if name in ("ami", "aishell") else TEXTS
            assert sorted(texts(data / f"{split}.jsonl.gz")) == sorted(wanted), name
    assert set(" ".join(texts(found["yesno"] / "train.jsonl.gz")).split()) == {"YES", "NO"}
    assert len(texts(found["yesno"] / "test.jsonl.gz")) == 30
    (meeting,) = CutSet.from_file(found["ami"] / "test-meetings.jsonl.gz")
    assert len(meeting.supervisions) == len(TEXTS)
    assert len(texts(found["wenetspeech"] / "test-meeting.jsonl.gz")) == len(TEXTS)
    (language,) = {
        cut.supervisions[0].language for cut in CutSet.from_file(found["commonvoice"] / "dev.jsonl.gz")
    }
    assert language == "de"


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_another_directory_is_named_with_what_is_missing(name: str, tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "recipes" / name / "prepare.py"))
    with pytest.raises(DataError, match=str(tmp_path)):
        script["prepare"](tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_custom_corpus_of_each_kind(tmp_path: Path) -> None:
    run = runpy.run_path(str(ROOT / "recipes/custom/prepare.py"))["prepare"]
    corpus = tmp_path / "corpus"
    for i, text in enumerate(TEXTS):
        say(corpus / f"audio/{i}.wav", text, i)
    rows = [f"audio/{i}.wav,{text.upper()}!" for i, text in enumerate(TEXTS)]
    (corpus / "all.csv").write_text("\n".join(["path,text", *rows, ""]))
    run(corpus, tmp_path / "a", normalise=True)
    split = [texts(tmp_path / f"a/{name}.jsonl.gz") for name in ("train", "dev")]
    assert sorted(split[0] + split[1]) == sorted(TEXTS) and len(split[1]) == 1
    run(corpus / "all.csv", tmp_path / "b")
    assert "DADA!" in texts(tmp_path / "b/train.jsonl.gz") + texts(tmp_path / "b/dev.jsonl.gz")

    kaldi = tmp_path / "kaldi"
    for part in ("train", "test"):
        (kaldi / part).mkdir(parents=True)
        (kaldi / part / "wav.scp").write_text(
            f"{part}1 {corpus}/audio/{0 if part == 'test' else 1}.wav\n{part}2 {corpus}/audio/{2 if part == 'test' else 3}.wav\n"
        )
        (kaldi / part / "text").write_text(f"{part}1 hello\n{part}2 you\n")
    run(kaldi, tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "dev.jsonl.gz",
        "test.jsonl.gz",
        "train.jsonl.gz",
    ]

    cuts = CutSet.from_file(tmp_path / "a/train.jsonl.gz").to_eager()
    (tmp_path / "lhotse").mkdir()
    cuts.to_file(tmp_path / "lhotse/my_cuts_train.jsonl.gz")
    run(tmp_path / "lhotse", tmp_path / "d")
    assert sorted(texts(tmp_path / "d/train.jsonl.gz") + texts(tmp_path / "d/dev.jsonl.gz")) == sorted(
        split[0]
    )
    recordings, supervisions, _ = cuts.decompose()
    (tmp_path / "pair").mkdir()
    recordings.to_file(tmp_path / "pair/x_recordings_train.jsonl.gz")
    with pytest.raises(DataError, match="x_supervisions_train.jsonl.gz is missing"):
        run(tmp_path / "pair", tmp_path / "e")
    supervisions.to_file(tmp_path / "pair/x_supervisions_train.jsonl.gz")
    run(tmp_path / "pair", tmp_path / "e")
    assert sorted(texts(tmp_path / "e/train.jsonl.gz") + texts(tmp_path / "e/dev.jsonl.gz")) == sorted(
        split[0]
    )
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "f")
    with pytest.raises(DataError, match="expected a table"):
        run(corpus / "audio/0.wav", tmp_path / "f")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_is_whole(path: Path) -> None:
    recipe = configuration.load(RecipeConfig, path)
    assert recipe.data.train and recipe.data.dev and recipe.data.test
    for name in ("prepare.py", "README.md"):
        assert (path.parent / name).is_file()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_goes_over_every_recipe_and_has_the_size_that_is_told(path: Path) -> None:
    for recipe in RECIPES:
        found = configuration.load(RecipeConfig, recipe, over=[path])
        assert path.stem.startswith(found.model.encoder.kind)
    recipe = configuration.load(RecipeConfig, ROOT / "recipes/librispeech/train.yaml", over=[path])
    letters = "".join(chr(0x4E00 + i) for i in range(recipe.tokenizer.vocabulary - 1))
    with torch.device("meta"):
        model = Model(recipe.model, Tokenizer.train([letters], kind="characters"))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"| {path.stem} | {size:.1f} |" in (ROOT / "recipes/presets/README.md").read_text()


def test_every_encoder_has_a_preset() -> None:
    kinds = {
        configuration.load(
            RecipeConfig, ROOT / "recipes/librispeech/train.yaml", over=[path]
        ).model.encoder.kind
        for path in PRESETS
    }
    assert kinds == {config.kind for config in get_args(EncoderConfig)}


def test_an_unknown_preset_names_those_there_are() -> None:
    assert preset("conformer-l") == ROOT / "recipes/presets/conformer-l.yaml"
    with pytest.raises(ConfigError, match="no preset is called 'conformer-xl'.*conformer-l, "):
        preset("conformer-xl")
