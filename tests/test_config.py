"""Strict YAML <-> dataclasses: what is accepted, what comes back, and what an error says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from asr import config
from asr.errors import ConfigError


@dataclass(frozen=True)
class Zip:
    dims: tuple[int, ...] = (192, 256)
    causal: bool = True
    kind: Literal["zipformer"] = "zipformer"


@dataclass(frozen=True)
class Con:
    dim: int = 144
    dropout: float = 0.1
    kind: Literal["conformer"] = "conformer"


@dataclass(frozen=True)
class Chunk:
    frames: int
    left: int = 0


@dataclass(frozen=True)
class Optimizer:
    rate: float = 0.045
    betas: tuple[float, float] = (0.9, 0.98)
    name: Literal["scaled_adam", "adam"] = "scaled_adam"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")


@dataclass(frozen=True)
class Recipe:
    title: str
    encoder: Zip | Con = Zip()
    optimizer: Optimizer = Optimizer(rate=0.02)
    chunks: tuple[Chunk, ...] = (Chunk(16, 64),)
    heads: dict[str, Chunk] = field(default_factory=dict)
    hours: float | None = None
    note: str | int | None = None
    names: tuple[str, ...] = ()
    folder: Path = Path("out")
    fallback: Con | None = None
    extra: Any = None


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(Recipe, path, overrides=overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_full_file(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        """
        title: a test
        encoder: {kind: conformer, dim: 256, dropout: 0}
        optimizer:
          rate: 1e-3          # a number in YAML 1.2, text in YAML 1.1
          betas: [0.5, 1]
        chunks: [{frames: 8}, {frames: 16, left: 32}]
        heads: {ctc: {frames: 4}}
        hours: .5
        names: [no, "on", '12', 10:30, 2026-01-01]
        folder: results/first
        extra: {free: [1, two, null]}
        """,
    )
    assert recipe == Recipe(
        title="a test",
        encoder=Con(dim=256, dropout=0.0),
        optimizer=Optimizer(rate=1e-3, betas=(0.5, 1.0)),
        chunks=(Chunk(8), Chunk(16, 32)),
        heads={"ctc": Chunk(4)},
        hours=0.5,
        names=("no", "on", "12", "10:30", "2026-01-01"),
        folder=Path("results/first"),
        extra={"free": [1, "two", None]},
    )
    assert isinstance(recipe.encoder, Con) and isinstance(recipe.encoder.dropout, float)


def test_keys_left_out_get_the_defaults_of_their_class(tmp_path: Path) -> None:
    assert read(tmp_path, "title: x").optimizer == Optimizer(rate=0.02)
    assert read(tmp_path, "title: x\noptimizer: {name: adam}").optimizer == Optimizer(name="adam")
    assert read(tmp_path, "title: x\nencoder: {causal: false}").encoder == Zip(causal=False), "the kind stays"
    assert read(tmp_path, "title: x\nencoder: {kind: conformer}").encoder == Con()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x\nencodr: {}", "recipe.yaml:2: unknown key encodr; the nearest known key is encoder"),
        (
            "title: x\noptimizer:\n  name: adam\n  raet: 3",
            "recipe.yaml:4: unknown key optimizer.raet; the nearest known key is optimizer.rate",
        ),
        ("title: x\nchunks: [{frames: 1}, {q: 2}]", "recipe.yaml:2: unknown key chunks.1.q; known keys: frames, left"),
        ("hours: 2", "recipe.yaml: missing key title, text"),
        ("title: x\nheads:\n  ctc: {left: 2}", "recipe.yaml:3: missing key heads.ctc.frames, a whole number"),
        ("title: 12", "recipe.yaml:1: title: expected text, got the whole number 12; put it in quotes"),
        ("title: x\nhours: fast", "recipe.yaml:2: hours: expected a number or null, got the text 'fast'"),
        ("title: x\nhours: true", "recipe.yaml:2: hours: expected a number or null, got true"),
        (
            "title: x\nencoder: {kind: conformer,\n  dim: 1.5}",
            "recipe.yaml:3: encoder.dim: expected a whole number, got the number 1.5",
        ),
        (
            "title: x\nencoder: {kind: zipfomer}",
            "recipe.yaml:2: encoder.kind: expected one of zipformer, conformer, got the text 'zipfomer'; "
            "did you mean zipformer?",
        ),
        (
            "title: x\noptimizer: {name: scaledadam}",
            "recipe.yaml:2: optimizer.name: expected one of scaled_adam, adam, got the text 'scaledadam'; "
            "did you mean scaled_adam?",
        ),
        (
            "title: x\noptimizer: {betas: [1, 2, 3]}",
            "recipe.yaml:2: optimizer.betas: expected a list of 2 (a number, a number), got a list of 3",
        ),
        (
            "title: x\nencoder:\n  dims:\n    - 1\n    - two",
            "recipe.yaml:5: encoder.dims.1: expected a whole number, got the text 'two'",
        ),
        ("title: x\nencoder: [1]", "recipe.yaml:2: encoder: expected a mapping with the keys of Zip or "
         "a mapping with the keys of Con, got a list of 1"),
        ("title: x\noptimizer: {rate: -1}", "recipe.yaml:2: optimizer: rate must be above 0, got -1.0"),
        ("title: x\ntitle: y", "recipe.yaml:2: the key title is given twice; keep one"),
        ("title: *x", "recipe.yaml:1: not valid YAML: aliases are not supported"),
        ("title: &x y\nnote: *x", "recipe.yaml:2: not valid YAML: aliases are not supported"),
        (
            "title: !!python/object/apply:os.getcwd []",
            "recipe.yaml:1: the tag tag:yaml.org,2002:python/object/apply:os.getcwd is not allowed: values are plain data",
        ),
        ("title: x\n? [1, 2]\n: y", "recipe.yaml:2: a key must be a word, not a list or a mapping"),
        ("- 1", "recipe.yaml: expected keys and values, got a list of 1"),
        ("title: x\nchunks: 3", "recipe.yaml:2: chunks: expected a list, each item a mapping with the keys of Chunk, "
         "got the whole number 3"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    assert message(tmp_path, text) == said


@pytest.mark.parametrize("text", ["title: [1", "title: 'x", "a:\n\tb: 1", "--- 1\n--- 2\n", "title: \x01"])
def test_text_that_is_not_yaml(tmp_path: Path, text: str) -> None:
    assert "not valid YAML" in message(tmp_path, text)


def test_hostile_yaml_is_an_error_and_nothing_more(tmp_path: Path) -> None:
    assert "nested too deeply" in message(tmp_path, "title: " + "[" * 5000)
    assert "expected a number or null, got the text" in message(tmp_path, "title: x\nhours: " + "9" * 100_000)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.yaml: cannot read the configuration: No such file"):
        config.load(Recipe, tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(Recipe, tmp_path / "binary.yaml")


def test_overrides(tmp_path: Path) -> None:
    text = "title: x\nencoder: {kind: zipformer, dims: [1, 2]}\nhours: 3"
    recipe = read(
        tmp_path,
        text,
        "encoder.dims.1=7",
        "hours=null",
        "optimizer.rate=1e-4",
        "title=a=b",
        "heads.ctc={frames: 2}",
    )
    assert recipe.encoder == Zip(dims=(1, 7))
    assert recipe.hours is None and recipe.optimizer.rate == 1e-4 and recipe.title == "a=b"
    assert recipe.heads == {"ctc": Chunk(2)}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hours", "override 'hours': write it as key=value, for example train.hours=0.5"),
        ("a..b=1", "override 'a..b=1': write it as key=value, for example train.hours=0.5"),
        ("encoder.dims.4=1", "override 'encoder.dims.4=1': encoder.dims is a list of 2; '4' is no index of it"),
        ("title.x=1", "override 'title.x=1': title is the text 'x', which has no keys"),
        ("optimizer.rat=1", "override 'optimizer.rat=1': unknown key optimizer.rat; the nearest known key is optimizer.rate"),
        ("hours=soon", "override 'hours=soon': hours: expected a number or null, got the text 'soon'"),
        ("encoder={dims: [x]}", "override 'encoder={dims: [x]}': encoder.dims.0: expected a whole number, got the text 'x'"),
        ("hours=[", "override 'hours=[': not valid YAML: expected the node content, but found '<stream end>'"),
    ],
)  # fmt: skip
def test_errors_of_overrides(tmp_path: Path, override: str, said: str) -> None:
    assert message(tmp_path, "title: x\nencoder: {dims: [1, 2]}", override) == said


def test_base_is_merged_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "all.yaml").write_text(
        "title: all\noptimizer: {rate: 0.5, name: adam}\nnames: [a, b]"
    )
    (tmp_path / "middle.yaml").write_text(
        "base: common/all.yaml\nencoder: {kind: zipformer, dims: [5]}\nhours: 1"
    )
    recipe = read(tmp_path, "base: middle.yaml\noptimizer: {rate: 0.25}\nnames: [c]\nhours: null")
    assert recipe == Recipe(
        "all", Zip(dims=(5,)), Optimizer(rate=0.25, name="adam"), names=("c",), hours=None
    )
    other = read(tmp_path, "base: middle.yaml\nencoder: {kind: conformer, dim: 8}")
    assert other.encoder == Con(dim=8), "another kind takes nothing from the base's"


def test_errors_of_bases_name_the_file_at_fault(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("title: x\noptimizer:\n  rats: 1")
    assert message(tmp_path, "base: base.yaml\nhours: 2").startswith(
        "base.yaml:3: unknown key optimizer.rats"
    )
    (tmp_path / "base.yaml").write_text("base: recipe.yaml")
    assert message(tmp_path, "base: base.yaml") == (
        "recipe.yaml: `base` goes in a circle: recipe.yaml -> base.yaml -> recipe.yaml"
    )
    assert "(named by `base` in recipe.yaml)" in message(tmp_path, "base: absent.yaml")
    assert message(tmp_path, "base: [a, b]") == (
        "recipe.yaml:1: base: expected the path of one YAML file, got a list of 2"
    )


def test_from_dict_names_its_source() -> None:
    with pytest.raises(
        ConfigError, match=r"^model.yaml: unknown key optimizer.x; known keys: rate, betas, name$"
    ):
        config.from_dict(Recipe, {"title": "x", "optimizer": {"x": 1}}, where="model.yaml")
    assert config.from_dict(Optimizer, {"rate": "1e-3"}) == Optimizer(rate=1e-3)
    with pytest.raises(ConfigError, match="expected a number, got the text '0.1'"):
        config.from_dict(Optimizer, {"rate": "0.1"})


def test_what_a_configuration_cannot_hold_is_a_mistake_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="a configuration cannot hold"):
        config.from_dict(Odd, {"value": 3})
    with pytest.raises(TypeError, match="a dataclass is expected"):
        config.to_dict([1])


TEXT = st.text(max_size=12) | st.sampled_from(
    ["no", "on", "null", "~", "1e-3", "1.", ".5", "0x1F", "010", "1_000", "10:30", "2026-01-01", "=", "<<", "- a", "#", "!x", "*a"]
)  # fmt: skip
NUMBER = st.floats(allow_nan=False)
CHUNK = st.builds(Chunk, frames=st.integers(), left=st.integers())
ENCODER = st.builds(Zip, dims=st.lists(st.integers()).map(tuple), causal=st.booleans()) | st.builds(
    Con, dim=st.integers(), dropout=NUMBER
)
RECIPE = st.builds(
    Recipe,
    title=TEXT,
    encoder=ENCODER,
    optimizer=st.builds(
        Optimizer,
        rate=st.floats(min_value=1e-300),
        betas=st.tuples(NUMBER, NUMBER),
        name=st.sampled_from(["scaled_adam", "adam"]),
    ),
    chunks=st.lists(CHUNK, max_size=3).map(tuple),
    heads=st.dictionaries(TEXT, CHUNK, max_size=3),
    hours=st.none() | NUMBER,
    note=st.none() | TEXT | st.integers(),
    names=st.lists(TEXT).map(tuple),
    fallback=st.none() | st.builds(Con, dim=st.integers()),
)


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\r", "\n"])
def test_line_ends_of_all_kinds_stay_what_they_are(end: str) -> None:
    for text in (end, f"a{end}b", f"{end}{end}"):
        assert yaml.safe_load(config.to_yaml(Recipe(text)))["title"] == text


@given(recipe=RECIPE)
def test_round_trip_through_dict_and_yaml(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert config.from_dict(Recipe, config.to_dict(recipe)) == recipe
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(config.to_yaml(recipe), encoding="utf-8")
    again = config.load(Recipe, path)
    assert again == recipe
    assert repr(again) == repr(recipe), "the types come back too"


@given(recipe=RECIPE)
def test_other_readers_of_yaml_see_the_same_text(recipe: Recipe) -> None:
    seen = yaml.safe_load(config.to_yaml(recipe))
    assert seen["title"] == recipe.title and seen["names"] == list(recipe.names)


def test_to_dict_states_every_field() -> None:
    plain = config.to_dict(Recipe("x"))
    assert list(plain) == [f.name for f in dataclasses.fields(Recipe)]
    assert plain["encoder"] == {"dims": [192, 256], "causal": True, "kind": "zipformer"}
    assert plain["folder"] == "out"
