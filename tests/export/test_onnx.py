"""What ONNX Runtime makes of the exported graphs is what torch makes of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from asr.encoders import ConformerConfig, FastConformerConfig, ZipformerConfig
from asr.errors import ConfigError
from asr.export import export, with_onnx_runtime
from asr.export.leaves import leaves, names, rebuild
from asr.heads import CTCConfig, TDTConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from models import CHUNKS, ENCODERS, PREDICTORS, TEXTS, small_model
from streaming.engine import TorchEngine
from streaming.events import Final, Options
from streaming.session import run
from test_streaming_equals_offline import speech
from tests.streaming.toy_engine import packets, s16le

CHUNK = CHUNKS[1]
ZIPFORMER = ZipformerConfig(
    layers=(1, 1), dims=(16, 24), feed_forward_dims=(24, 24), unmasked_dims=(16, 16), downsampling=(1, 2), heads=(2, 2),
    kernels=(9, 31), query_dim=8, value_dim=4, embed_channels=(2, 4, 8),
)  # fmt: skip
SHAPES = {name: config for name, config in ENCODERS.items() if name != "dynamic depth"} | {
    "zipformer": ZIPFORMER,
    "causal": FastConformerConfig(dim=16, layers=2, heads=2, kernel=7, subsampling_channels=8, subsampling_padding="causal"),
    "valid": ConformerConfig(dim=16, layers=2, heads=2, kernel=7, subsampling_padding="valid"),
}  # fmt: skip


def model(name: str, **heads: Any) -> Model:
    torch.manual_seed(0)
    config = ModelConfig(encoder=replace(SHAPES[name], chunks=(CHUNK,)), **heads)
    return Model(config, Tokenizer.train(TEXTS, kind="characters")).eval()


def steps(encoder: Any, x: Tensor, lens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As sessions step: the look-ahead in the first step, a chunk more in the last, and some streams end earlier."""
    state, at, ys, y_lens = encoder.init_state(len(x), CHUNK), 0, [], torch.zeros(len(x), dtype=torch.int64)
    while at < int(lens.max()):
        frames = size + (encoder.lookahead if at == 0 else 0)
        frames += size if at + frames >= int(lens.max()) else 0
        piece = torch.nn.functional.pad(x[:, at : at + frames], (0, 0, 0, max(0, at + frames - x.shape[1])))
        with torch.inference_mode():
            y, n, state = encoder.step(piece, (lens - at).clamp(0, frames), state, CHUNK)
        ys.append(y)
        y_lens, at = y_lens + n, at + frames
    return torch.cat(ys, 1), y_lens


@pytest.mark.parametrize("name", [*SHAPES, "conformer, self-conditioned", "zipformer, self-conditioned"])
def test_every_encoder_steps_the_same_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    name, _, conditioned = name.partition(", ")
    heads = {"ctc": CTCConfig(inner_layers=(1,), self_conditioned=True)} if conditioned else {}
    torch_model, onnx_model = model(name, **heads), with_onnx_runtime(model(name, **heads), threads=1)
    encoder, size = torch_model.encoder, torch_model.samples_next(CHUNK) // 160
    x = torch.randn(3, 5 * size, 80, generator=torch.Generator().manual_seed(1))
    lens = torch.tensor([5 * size, 3 * size + 5, size // 3])
    x = x.masked_fill(torch.arange(5 * size)[None, :, None] >= lens[:, None, None], 0.0)
    for batch in (1, 3):
        wanted, wanted_lens = steps(encoder, x[:batch], lens[:batch], size)
        found, found_lens = steps(onnx_model.encoder, x[:batch], lens[:batch], size)
        assert torch.equal(found_lens, wanted_lens)
        real = torch.arange(wanted.shape[1]) < wanted_lens[:, None]
        torch.testing.assert_close(found[real], wanted[real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_a_session_says_the_same(head: str) -> None:
    def said(*, onnx: bool) -> list[tuple[str, float]]:
        talking = small_model("conformer")
        talking.encoder.chunk_sizes = talking.encoder.chunk_sizes[:1]
        engine = TorchEngine(with_onnx_runtime(talking, threads=1) if onnx else talking)
        options = Options(latency_ms=engine.latencies[0], head=head)
        events = run(engine, options, packets(s16le(speech(3, 2.0)), 3202))
        return [(x.text, x.time) for event in events if isinstance(event, Final) for x in event.tokens]

    wanted = said(onnx=False)
    assert said(onnx=True) == wanted and len(wanted) > 5


@pytest.mark.parametrize("name", PREDICTORS)
def test_heads_in_onnx_are_those_of_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = small_model("conformer", predictor=name)
    export(found, tmp_path)
    sessions = {path.stem: onnxruntime.InferenceSession(path) for path in tmp_path.glob("*.onnx")}
    y = torch.randn(4, 7, found.encoder.dim)
    with torch.inference_mode():
        ctc, head = found.heads["ctc"], found.heads["transducer"]
        (log_probabilities,) = sessions["ctc"].run(None, {"y": y.numpy()})
        np.testing.assert_allclose(log_probabilities, ctc.log_probabilities(y), atol=1e-5)
        (projected,) = sessions["transducer-encoder"].run(None, {"y": y.numpy()})
        np.testing.assert_allclose(projected, head.encoder_projection(y), atol=1e-5)
        state = head.predictor.init_state(4)
        for token in (torch.tensor([0, 1, 2, 3]), torch.tensor([3, 0, 1, 1])):
            wanted = head.predict(token, state)
            given = dict(zip(names(state, "state"), (x.numpy() for x in leaves(state)), strict=True))
            predicted, *after = sessions["transducer-predictor"].run(None, {"token": token.numpy()} | given)
            np.testing.assert_allclose(predicted, wanted.output, atol=1e-5)
            state = rebuild(state, [torch.from_numpy(x) for x in after])
        (logits,) = sessions["transducer-joiner"].run(
            None, {"encoder": projected[:, 0], "predictor": predicted}
        )
        np.testing.assert_allclose(
            logits, head.join(torch.from_numpy(projected[:, 0]), wanted.output), atol=1e-5
        )


def test_a_joiner_with_durations_tells_them(tmp_path: Path) -> None:
    plain = small_model("conformer")
    transducer = replace(plain.config.transducer, loss="full", tdt=TDTConfig())
    found = Model(replace(plain.config, transducer=transducer, ctc=None), plain.tokenizer).eval()
    export(found, tmp_path)
    joiner = onnxruntime.InferenceSession(tmp_path / "transducer-joiner.onnx")
    first, second = torch.randn(2, 4, 16)
    logits, durations = joiner.run(None, {"encoder": first.numpy(), "predictor": second.numpy()})
    head = found.heads["transducer"]
    with torch.inference_mode():
        np.testing.assert_allclose(logits, head.join(first, second), atol=1e-5)
        np.testing.assert_allclose(durations, head.join_durations(first, second), atol=1e-5)


def test_int8_is_near_and_smaller(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    exact, rough = model("zipformer"), with_onnx_runtime(model("zipformer"), int8=True, threads=1)
    size = exact.samples_next(CHUNK) // 160
    x, lens = torch.randn(1, 3 * size, 80), torch.tensor([3 * size])
    wanted, found = steps(exact.encoder, x, lens, size)[0], steps(rough.encoder, x, lens, size)[0]
    error = (found - wanted).norm() / wanted.norm()
    assert 0 < error < 0.1


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    offline = Model(
        ModelConfig(encoder=replace(ZipformerConfig(size="s"), causal=False)), model("zipformer").tokenizer
    )
    for build in (lambda: export(offline, tmp_path), lambda: with_onnx_runtime(offline)):
        with pytest.raises(ConfigError, match="offline model"):
            build()
    with pytest.raises(ConfigError, match=r"encoder-\d+\.onnx: no such file; `asr export` writes it"):
        with_onnx_runtime(model("conformer"), folder=tmp_path)
    with pytest.raises(ConfigError, match="steps streams only"):
        with_onnx_runtime(model("conformer")).transcribe(np.zeros(16_000, np.float32))
