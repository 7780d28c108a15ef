"""Golden values of peers (tests/golden), put into the files in which their checkpoints really come."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from asr.encoders import FULL_CONTEXT, Chunk
from asr.model import Model

__all__ = [
    "archive",
    "assert_alone",
    "assert_close",
    "assert_decoders",
    "config",
    "masked",
    "pickled",
    "sentencepiece_model",
    "streamed",
    "tensors",
    "values",
]

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4


def values(name: str) -> dict[str, Tensor]:
    """The golden inputs and outputs."""
    return load_file(GOLDEN / name / "io.safetensors")


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name / "model.safetensors")


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((GOLDEN / name / "config.yaml").read_text())


def sentencepiece_model(vocabulary: int) -> bytes:
    """A model of so many pieces whose first is <unk>, as NeMo and ESPnet train them."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc cab bca acb"]),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocabulary,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        hard_vocab_limit=True,
        minloglevel=2,
    )
    return out.getvalue()


def archive(path: Path, files: dict[str, bytes], *, mode: str = "w") -> Path:
    """A tar of files, as NeMo writes it: every name begins with ./"""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def pickled(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def assert_alone(
    model: Model, golden: dict[str, Tensor], *, chunk: Chunk = FULL_CONTEXT, blank_last: bool = False
) -> None:
    """Both utterances in one batch give what the peer gives for each by itself, encoder and CTC."""
    y, y_lens = model.encoder(golden["features"], golden["feature_lens"], chunk)
    for i, length in enumerate(y_lens.tolist()):
        assert length == golden[f"alone.{i}.encoder_out_lens"].item()
        assert_close(y[i, :length], golden[f"alone.{i}.encoder_out"][0])
        theirs = golden[f"alone.{i}.ctc_log_probs"][0]
        ours = model.heads["ctc"].log_probabilities(y[i, :length])
        assert_close(ours, theirs.roll(1, -1) if blank_last else theirs)


@torch.inference_mode()
def assert_decoders(model: Model, golden: dict[str, Tensor]) -> None:
    """Each utterance's text scores as the peer's decoders have it, left to right and right to left."""
    head = model.heads["attention"]
    ways = {"decoder": head.decoder, "reverse": head.reverse_decoder}
    for i, length in enumerate(golden["feature_lens"].tolist()):
        y, y_lens = model.encoder(golden["features"][i : i + 1, :length], golden["feature_lens"][i : i + 1])
        text = [token for token in golden[f"alone.{i}.text"].tolist() if token != head.config.sos_eos]
        for name, decoder in ways.items():
            if decoder is not None:
                said = torch.tensor([[[head.config.sos_eos, *(text if name == "decoder" else text[::-1])]]])
                scores, _ = decoder(said, decoder.remember(y, y_lens), decoder.begin(1, 1))
                assert_close(scores[0, 0], golden[f"alone.{i}.{name}_log_probs"])


@torch.inference_mode()
def masked(model: Model, x: Tensor, lens: Tensor, chunk: Chunk = FULL_CONTEXT) -> tuple[Tensor, Tensor]:
    return model.encoder(x, lens, chunk)


@torch.inference_mode()
def streamed(model: Model, x: Tensor, chunk: Chunk) -> Tensor:
    """One utterance (1, T, F) step by step -> (1, U, D)."""
    encoder, outputs, position = model.encoder, [], 0
    state = encoder.init_state(1, chunk)
    while position < x.shape[1]:
        frames = chunk.frames * encoder.subsampling + (encoder.lookahead if position == 0 else 0)
        piece = x[:, position : position + frames]
        length = torch.tensor([piece.shape[1]])
        piece = torch.nn.functional.pad(piece, (0, 0, 0, frames - piece.shape[1]))
        y, y_lens, state = encoder.step(piece, length, state, chunk)
        outputs.append(y[:, : int(y_lens)])
        position += frames
    return torch.cat(outputs, 1)
