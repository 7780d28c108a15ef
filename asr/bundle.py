"""The model on disk: a directory, or one .tar of it.

    model.safetensors   the parameters
    config.yaml         ModelConfig, with nothing left to defaults of a later version
    tokenizer.model     SentencePiece, or tokenizer.json for characters
    card.md             data, measured results, licence

Loading runs no code from the files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from asr import bundle_files as files_of
from asr import config as configuration
from asr.encoders.branches import BranchesConfig
from asr.errors import ConfigError
from asr.model import Model, ModelConfig
from asr.tokenizer import Kind

__all__ = ["load", "save", "set_config"]


@dataclass(frozen=True)
class Description:
    """What config.yaml holds."""

    model: ModelConfig
    tokenizer: Kind


def load(path: str | Path, *, device: str | torch.device = "cpu", fast: bool = False) -> Model:
    """The model of a bundle, ready to decode, in float32.

    With `fast`, a Branchformer or E-Branchformer that was trained with branch dropout leaves its attention out: its
    parameters are not there, and `save` writes a bundle without them.

    Raises:
        BundleError: a file of the bundle is missing, truncated or does not fit the others.
        ConfigError: config.yaml has a key that this version does not know, or the model was not trained to be fast.
    """
    path = Path(path)
    files = files_of.read(path)
    found = files_of.describe(Description, files, path)
    config = _without_attention(found.model, f"{path}/{files_of.CONFIG}") if fast else found.model
    model = Model(config, files_of.tokenizer(found.tokenizer, files, path))
    weights = files_of.weights(files, path)
    if fast:
        weights = {name: weights[name] for name in weights.keys() & model.state_dict().keys()}
    files_of.fill(model, weights, path)
    return model.to(device).eval()


def save(model: Model, path: str | Path, *, card: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write a bundle directory (or .tar), complete or not at all. `dtype` is that of the stored parameters."""
    description = Description(model.config, model.tokenizer.kind)
    return files_of.write(Path(path), model, description, card=card, dtype=dtype)


def set_config(path: str | Path, config: ModelConfig, *, out: str | Path | None = None) -> Path:
    """Write a bundle again with another configuration of the same layers, its weights as they are stored."""
    path, name = Path(path), files_of.CONFIG
    files = files_of.read(path)
    before = files_of.describe(Description, files, path)
    files[name] = configuration.to_yaml(replace(before, model=config)).encode()
    if out is None and path.is_dir():
        partial = path / f".{name}.partial"
        partial.write_bytes(files[name])
        partial.replace(path / name)
        return path
    return files_of.put(Path(out) if out is not None else path, files)


def _without_attention(config: ModelConfig, where: str) -> ModelConfig:
    encoder = config.encoder
    if not isinstance(encoder, BranchesConfig) or not encoder.branch_dropout:
        raise ConfigError(
            f"{where}: fast: the model cannot do without attention; a branchformer or e_branchformer can if "
            "it was trained with encoder.branch_dropout"
        )
    return replace(config, encoder=replace(encoder, fast=True))
