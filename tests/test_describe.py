from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asr.describe import costs, describe, multiply_adds, parts, reach_seconds
from asr.encoders import FULL_CONTEXT, Chunk, ConformerConfig, FastConformerConfig, build
from asr.errors import BundleError, ConfigError
from asr.heads import CTCConfig
from asr.model import Model
from asr.state import state_bytes
from models import CHUNKS, ENCODERS, small_model

CHUNK = Chunk(4, 8)
FAST, CONFORMER = ENCODERS["fast_conformer"], ENCODERS["conformer"]
assert isinstance(FAST, FastConformerConfig) and isinstance(CONFORMER, ConformerConfig)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_parts_are_all_of_the_model(kind: str) -> None:
    model = small_model(kind)
    found = parts(model)
    whole = sum(p.numel() for p in model.parameters())
    assert sum(part.parameters for part in found if part.depth == 0) == whole
    inside = sum(part.parameters for part in found if part.depth == 1)
    own = sum(p.numel() for p in model.encoder.parameters(recurse=False))
    assert inside + own == sum(p.numel() for p in model.encoder.parameters())


def test_equal_layers_are_one_part() -> None:
    found = {part.name: part for part in parts(small_model("conformer")) if part.depth}
    assert (found["blocks 0-1"].kind, found["blocks 0-1"].count) == ("ConformerBlock", 2)
    assert found["attention"].count == 2
    assert found["attention"].parameters == 2 * (5 * 16 * 16 + 4 * 16 + 2 * 16)


def test_multiply_adds_by_hand() -> None:
    """A step of 4 frames that see 8 + 4; the subsampling's stages leave 41, 21 and 11 columns."""
    rows, dim, heads, channels, hidden, kernel, keys = 4, 16, 2, 8, 64, 7, 12
    front = 9 * channels * (16 * 41 + 8 * 21 + 4 * 11) + channels * channels * (8 * 21 + 4 * 11)
    front += rows * channels * 11 * dim
    feed_forward = 2 * rows * dim * hidden
    attention = rows * dim * (3 * dim + dim) + 2 * rows * dim * keys
    positions = rows * dim * dim + heads * rows * dim * (keys + rows)
    convolution = rows * dim * (2 * dim + dim + kernel)
    step = front + FAST.layers * (2 * feed_forward + attention + positions + convolution)
    found = multiply_adds(build(FAST, 80).double().eval(), CHUNK, 80)
    assert found == pytest.approx(step / 0.32)


def test_what_full_context_costs_grows_with_what_it_sees() -> None:
    encoder = build(CONFORMER, 80).double().eval()
    assert multiply_adds(encoder, FULL_CONTEXT, 80) > 1.2 * multiply_adds(encoder, CHUNK, 80)


@pytest.mark.parametrize("layers", [1, 3])
def test_reach_by_hand(layers: int) -> None:
    """Backwards through a block: its convolution sees six frames before a chunk, two chunks of four; the attention of
    the earlier one sees eight before that. The subsampling's frame sees 14 input frames before its own."""
    frames = 0
    for _ in range(layers):
        frames = -(-(frames + 6) // 4) * 4 + 8
    assert reach_seconds(replace(FAST, layers=layers), CHUNK) == pytest.approx(0.08 * frames + 0.14)


def test_no_layers_reach_where_nothing_is_left() -> None:
    alone = replace(CONFORMER, layers=1, kernel=1)
    assert reach_seconds(alone, Chunk(8, 0)) == pytest.approx(0.03)  # the subsampling's


def test_costs() -> None:
    model = small_model("fast_conformer")
    found = costs(model)
    assert [cost.latency_ms for cost in found] == [320, 640, 1280, None]
    assert [cost.chunk for cost in found] == [*CHUNKS, FULL_CONTEXT]
    assert [cost.state_bytes for cost in found[:3]] == [
        state_bytes(model.init_state(1, chunk)) for chunk in CHUNKS
    ]
    assert found[-1].state_bytes is None and found[-1].reach_seconds is None


def test_what_ctc_tells_the_next_layer_costs_something() -> None:
    """Three products a frame: to the encoder's width, to the tokens, and back."""
    plain = small_model("fast_conformer")
    told = Model(
        replace(plain.config, ctc=CTCConfig(inner_layers=(1,), self_conditioned=True)), plain.tokenizer
    )
    more = [a.multiply_adds - b.multiply_adds for a, b in zip(costs(told), costs(plain), strict=True)]
    dim, vocabulary = plain.encoder.dim, plain.tokenizer.size
    assert more[0] == pytest.approx((dim * dim + 2 * dim * vocabulary) / plain.frame_seconds)


def test_a_bundle_in_words(tmp_path: Path) -> None:
    model = small_model("fast_conformer")
    text = describe(model.save(tmp_path / "model"))
    assert text.startswith("fast_conformer with transducer and ctc")
    assert "12.5 frames a second of 16 values" in text
    for words in ("2 x ConformerBlock", "320 ms", "4 + 8", "full context"):
        assert words in text
    assert f"{state_bytes(model.init_state(1, CHUNK)):,}" in text
    assert describe(tmp_path / "model") == text


def test_a_recipe_with_changes() -> None:
    recipe = Path(__file__).parents[1] / "recipes/mini/train.yaml"
    text = describe(
        recipe, ["model.encoder={kind: conformer, size: s, layers: 1, chunks: [{frames: 4, left: 4}]}"]
    )
    assert text.startswith("conformer with") and "160 ms" in text
    with pytest.raises(ConfigError, match="recurrent"):
        describe(recipe, ["model.encoder.kind=recurrent"])


def test_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        describe(tmp_path / "absent")
    with pytest.raises(ConfigError):
        describe(tmp_path / "absent.yaml")
