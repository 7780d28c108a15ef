"""Going on from a trained model: what it keeps of itself, what stays as it is, and what is learned beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr import bundle
from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.language_model.neural import NeuralLM
    from asr.model import Model, ModelConfig
    from asr.tokenizer import Tokenizer

__all__ = ["FineTuneConfig", "LoRAConfig", "adapt", "compatible", "inherit", "merge"]


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adaptation (Hu et al. 2021): each matrix W of the encoder becomes W + scale / rank * B A.

    Only A and B are trained. The bundle gets the sums: it is a plain model of the same size.
    """

    rank: int = 8
    scale: float = 16.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank: {self.rank} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """Of a run that begins with a model (`asr train --from`).

    tokenizer: "keep" goes on with the model's; "new" trains one on the new texts, and rows of embeddings and output
    layers are taken over for the pieces that both know. freeze: beginnings of names of parameters that stay as they
    are, such as `encoder.` or `heads.ctc.`. lora: adapters in the encoder, whose own parameters stay.
    """

    tokenizer: Literal["keep", "new"] = "keep"
    freeze: tuple[str, ...] = ()
    lora: LoRAConfig | None = None


def compatible(wanted: ModelConfig, start: Path) -> Model:
    """The model that a run begins with.

    Raises:
        ConfigError: it is not of the architecture that is wanted, by the first field that differs.
        BundleError: `start` is no whole bundle.
    """
    model = bundle.load(start)
    for part in ("features", "encoder", *model.heads):
        if getattr(model.config, part) != getattr(wanted, part):
            raise ConfigError(
                f"model.{part}: not that of {start}, whose weights would have no place; take over `model` from its "
                "config.yaml"
            )
    return model


def inherit(model: Model | NeuralLM, before: Model | NeuralLM) -> None:
    """Give a model the weights of another of the same architecture, whose tokenizer may differ.

    What stands for tokens (rows of the heads' embeddings and output layers) goes with the pieces that both know.
    """
    old = before.state_dict()
    rows = _shared(model.tokenizer, before.tokenizer)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            of_tokens = name.startswith("heads.") and old[name].shape[:1] == (before.tokenizer.size,)
            if of_tokens and rows is not None:
                new, known = rows
                value[new] = old[name][known]
            else:
                value.copy_(old[name])


def _shared(new: Tokenizer, old: Tokenizer) -> tuple[Tensor, Tensor] | None:
    """Tokens of the new tokenizer that the old one knows, and what they are there; None: all, and the same."""
    if new.to_bytes() == old.to_bytes():
        return None
    places = {old.piece(token): token for token in range(old.size)}
    known = [(token, places[piece]) for token in range(new.size) if (piece := new.piece(token)) in places]
    return torch.tensor([token for token, _ in known]), torch.tensor([place for _, place in known])


class LowRank(nn.Module):
    """W (N, M) -> W + scale / rank * B A, with A (rank, M) drawn at random and B (N, rank) zero at first."""

    def __init__(self, shape: torch.Size, config: LoRAConfig) -> None:
        super().__init__()
        self.scale = config.scale / config.rank
        self.a = nn.Parameter(torch.randn(config.rank, shape[1]) / shape[1] ** 0.5)
        self.b = nn.Parameter(torch.zeros(shape[0], config.rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * self.b @ self.a


def adapt(model: Model | NeuralLM, config: FineTuneConfig) -> None:
    """Freeze what the configuration says, and put adapters into the encoder.

    Raises:
        ConfigError: a beginning that no parameter has, or nothing is left to be trained.
    """
    names = [name for name, _ in model.named_parameters()]
    for beginning in config.freeze:
        if not any(name.startswith(beginning) for name in names):
            heads = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ConfigError(
                f"train.fine_tune.freeze: no parameter is called {beginning}...; there are {', '.join(heads)}"
            )
    for name, parameter in model.named_parameters():
        adapted = config.lora is not None and not name.startswith("heads.")
        parameter.requires_grad_(not adapted and not name.startswith(config.freeze))
    if config.lora is not None:
        encoder = model.get_submodule("encoder") if hasattr(model, "encoder") else model
        for module in [m for m in encoder.modules() if isinstance(m, nn.Linear)]:
            low_rank = LowRank(module.weight.shape, config.lora)
            parametrize.register_parametrization(module, "weight", low_rank)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.fine_tune.freeze: nothing is left to be trained")


def merge(model: nn.Module) -> None:
    """Add the adapters to what they adapt, and leave them out."""
    for module in [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]:
        parametrize.remove_parametrizations(module, "weight")
