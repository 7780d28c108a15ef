"""Zipformer against icefall's: golden/icefall-zipformer holds random weights of a small model under icefall's names,
inputs, and what icefall (torch 2.13) made of them in full context, masked to chunks, and streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from asr import bundle
from asr.convert import icefall
from asr.encoders import FULL_CONTEXT, Chunk, conv_embed, zipformer
from asr.errors import BundleError
from asr.heads import Transducer
from asr.model import Model
from asr.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden" / "icefall-zipformer"
CASES = {"full": FULL_CONTEXT, "chunk16_left64": Chunk(8, 32), "chunk32_left128": Chunk(16, 64)}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = Tokenizer.train(["".join(map(chr, range(0x4E00, 0x4E00 + 99)))], kind="characters")
    assert tokenizer.size == 100
    converted = icefall.convert(icefall.read_tensors(GOLDEN / "model.safetensors"), tokenizer)
    assert all(
        name.endswith(".bypass_scale") for name in converted.left_over
    )  # icefall has it and does not use it
    return converted.model


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_encoder_and_ctc(
    case: str, model: Model, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """icefall's Conv-Embed and downsampling read the padding of the shorter utterance; ours does not, unless made to."""
    embed, downsample = conv_embed.ConvEmbed.forward, zipformer.Downsample.forward
    x, x_lens = golden["features"], golden["feature_lens"]
    with torch.inference_mode():
        y, y_lens = model.encoder(x, x_lens, CASES[case])
        monkeypatch.setattr(
            conv_embed.ConvEmbed,
            "forward",
            lambda self, x, n, s: embed(self, x, torch.full_like(n, int(n.max())), s),
        )
        monkeypatch.setattr(
            zipformer.Downsample,
            "forward",
            lambda self, x, n: downsample(self, x, torch.full_like(n, int(n.max()))),
        )
        z, _ = model.encoder(x, x_lens, CASES[case])
        log_probabilities = model.heads["ctc"].log_probabilities(z)
    assert y_lens.tolist() == golden[f"{case}.encoder_out_lens"].tolist()
    assert_close(y[0], golden[f"{case}.encoder_out"][0])
    for b, n in enumerate(y_lens.tolist()):
        assert_close(z[b, :n], golden[f"{case}.encoder_out"][b, :n])
        assert_close(log_probabilities[b, :n], golden[f"{case}.ctc_log_probs"][b, :n])


@torch.inference_mode()
def test_streaming(model: Model, golden: dict[str, Tensor]) -> None:
    chunk, outputs, position = Chunk(8, 32), [], 0
    state = model.encoder.init_state(1, chunk)
    theirs = golden["stream16_left64.encoder_out"]
    for step in range(theirs.shape[1] // chunk.frames):
        frames = 32 + (model.encoder.lookahead if step == 0 else 0)
        x = golden["features"][:1, position : position + frames]
        y, y_lens, state = model.encoder.step(x, torch.tensor([frames]), state, chunk)
        assert y_lens.tolist() == [chunk.frames]
        outputs.append(y)
        position += frames
    assert_close(torch.cat(outputs, 1), theirs)


@torch.inference_mode()
def test_predictor_and_joiner(model: Model, golden: dict[str, Tensor]) -> None:
    head = model.heads["transducer"]
    assert isinstance(head, Transducer)
    tokens = golden["decoder_in"]
    predicted = head.predictor(tokens[:, 2:])[:, : tokens.shape[1] - 1]
    assert_close(predicted, golden["decoder_out"])
    encoder = head.encoder_projection(golden["full.encoder_out"][:, : predicted.shape[1]])
    assert_close(head.join(encoder, head.predictor_projection(predicted)), golden["joiner_logits"])


def test_a_converted_model_survives_its_bundle(model: Model, tmp_path: Path) -> None:
    again = bundle.load(model.save(tmp_path / "model"))
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_checkpoint_of_something_else(tmp_path: Path, model: Model) -> None:
    with pytest.raises(BundleError, match="not a Zipformer of icefall's"):
        icefall.convert({"layer.weight": torch.zeros(2)}, model.tokenizer)
    path = tmp_path / "epoch-1.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BundleError, match=r"epoch-1\.pt: not a checkpoint"):
        icefall.read_tensors(path)
    small = Tokenizer.train(["ab"], kind="characters")
    with pytest.raises(BundleError, match=f"tokenizer has {small.size} tokens"):
        icefall.convert(load_file(GOLDEN / "model.safetensors"), small)
