"""What is made smaller while training: batch -> features -> SpecAugment -> encoder -> losses of the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asr.audio import HOP
from asr.dataset import Batch
from asr.dataset.augment import SpecAugment, Spectral
from asr.encoders.base import Chunk
from asr.encoders.dynamic_depth import GatedEncoder
from asr.encoders.taps import tapped
from asr.heads.ctc import CTC

if TYPE_CHECKING:
    from asr.model import Model

__all__ = ["head_losses", "losses"]


def losses(
    model: Model, batch: Batch, chunk: Chunk, *, augment: Spectral | SpecAugment | None = None, views: int = 1
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of each utterance, (B,) by "head" or "head.part", and the encoder's output lengths (B,).

    An encoder may add losses of its own: "depth", of one with gates. With two `views` that `augment` makes, losses are
    means over both, and CTC adds "ctc.consistency"; with `inner_layers` it adds "ctc.inner".
    """
    ctc = next((head for head in model.heads.values() if isinstance(head, CTC)), None)
    inner_layers = () if ctc is None else ctc.config.inner_layers
    samples, lens = model.flushed(batch.samples, batch.sample_lens)
    with torch.autocast(samples.device.type, enabled=False), torch.no_grad():
        x = model.features(samples)
    x_lens = -(-lens // HOP)
    if augment is not None:
        x = augment(x, x_lens, views=views)
    with tapped(model.encoder, inner_layers) as inner:
        y, y_lens = model.encoder(x, x_lens.repeat(views), chunk)
    found = head_losses(model, y, y_lens, batch, views=views)
    if ctc is not None and inner:
        tokens, token_lens = batch.tokens.repeat(views, 1), batch.token_lens.repeat(views)
        found["ctc.inner"] = ctc.inner_loss(inner, y_lens, tokens, token_lens)
    if isinstance(model.encoder, GatedEncoder):
        found |= model.encoder.auxiliary_losses()
    means = {name: loss.unflatten(0, (views, -1)).mean(dim=0) for name, loss in found.items()}
    return means, y_lens[: len(lens)]


def head_losses(
    model: Model, y: Tensor, y_lens: Tensor, batch: Batch, *, views: int = 1
) -> dict[str, Tensor]:
    """The losses of each utterance, (views * B,) by "head" or "head.part", from frames (views * B, U, D)."""
    tokens, token_lens = batch.tokens.repeat(views, 1), batch.token_lens.repeat(views)
    found: dict[str, Tensor] = {}
    for name, module in model.heads.items():
        head: Any = module
        more = {"views": views} if isinstance(head, CTC) else {}
        for part, loss in head.loss(y, y_lens, tokens, token_lens, **more).items():
            found[name if part == name else f"{name}.{part}"] = loss
    return found
