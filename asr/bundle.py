"""The model on disk: a directory, or one .tar of it.

    model.safetensors   the parameters
    config.yaml         ModelConfig, with nothing left to defaults of a later version
    tokenizer.model     SentencePiece, or tokenizer.json for characters
    card.md             data, measured results, licence

Loading runs no code from the files.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from asr import config as configuration
from asr import strict_yaml
from asr.encoders.branches import BranchesConfig
from asr.errors import BundleError, ConfigError
from asr.model import Model, ModelConfig
from asr.tokenizer import Kind, Tokenizer

__all__ = ["load", "save", "set_config"]

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "card.md"
TOKENIZERS: dict[Kind, str] = {
    "unigram": "tokenizer.model",
    "bpe": "tokenizer.model",
    "characters": "tokenizer.json",
}


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
    files = _read(path)
    where = f"{path}/{CONFIG}"
    tree, _ = strict_yaml.parse(files[CONFIG].decode(errors="replace"), where)
    if not isinstance(tree, dict):
        raise BundleError(f"{where}: truncated; copy the bundle again")
    found = configuration.from_dict(Description, tree, where=where)
    vocabulary = TOKENIZERS[found.tokenizer]
    if vocabulary not in files:
        raise BundleError(f"{path}: {vocabulary} is missing; copy the bundle again")
    config = _without_attention(found.model, where) if fast else found.model
    model = Model(config, Tokenizer.from_bytes(found.tokenizer, files[vocabulary]))
    weights = _weights(path, files[WEIGHTS])
    if fast:
        weights = {name: weights[name] for name in weights.keys() & model.state_dict().keys()}
    _fill(model, weights, f"{path}/{WEIGHTS}")
    return model.to(device).eval()


def save(model: Model, path: str | Path, *, card: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write a bundle directory (or .tar), complete or not at all. `dtype` is that of the stored parameters."""
    path = Path(path)
    if path.is_file() and path.suffix != ".tar":
        raise BundleError(f"{path}: is a file; a bundle is a directory, or a .tar")
    tensors = {name: x.detach().cpu().to(dtype).contiguous() for name, x in model.state_dict().items()}
    files = {
        WEIGHTS: save_tensors(tensors),
        CONFIG: configuration.to_yaml(Description(model.config, model.tokenizer.kind)).encode(),
        TOKENIZERS[model.tokenizer.kind]: model.tokenizer.to_bytes(),
        CARD: (card or f"# {path.stem}\n\nNo card was given.\n").encode(),
    }
    return _write(path, files)


def set_config(path: str | Path, config: ModelConfig, *, out: str | Path | None = None) -> Path:
    """Write a bundle again with another configuration of the same layers, its weights as they are stored."""
    path = Path(path)
    files = _read(path)
    tree, _ = strict_yaml.parse(files[CONFIG].decode(errors="replace"), f"{path}/{CONFIG}")
    before = configuration.from_dict(Description, tree, where=f"{path}/{CONFIG}")
    files[CONFIG] = configuration.to_yaml(replace(before, model=config)).encode()
    if out is None and path.is_dir():
        partial = path / f".{CONFIG}.partial"
        partial.write_bytes(files[CONFIG])
        partial.replace(path / CONFIG)
        return path
    return _write(Path(out) if out is not None else path, files)


def _write(path: Path, files: Mapping[str, bytes]) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tar":
        with tarfile.open(partial, "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        partial.mkdir()
        for name, data in files.items():
            (partial / name).write_bytes(data)
        if path.is_dir():
            shutil.rmtree(path)
    partial.replace(path)
    return path


def _read(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    elif path.is_file():
        try:
            with tarfile.open(path) as archive:
                files = {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
        except (tarfile.TarError, OSError) as error:
            raise BundleError(f"{path}: not a whole .tar of a bundle ({error}); copy it again") from error
    else:
        raise BundleError(f"{path}: no such bundle; give the directory that `asr train` wrote, or its .tar")
    for name in (CONFIG, WEIGHTS):
        if name not in files:
            raise BundleError(
                f"{path}: {name} is missing; a bundle holds {CONFIG}, {WEIGHTS} and a tokenizer"
            )
    return files


def _without_attention(config: ModelConfig, where: str) -> ModelConfig:
    encoder = config.encoder
    if not isinstance(encoder, BranchesConfig) or not encoder.branch_dropout:
        raise ConfigError(
            f"{where}: fast: the model cannot do without attention; a branchformer or e_branchformer can if "
            "it was trained with encoder.branch_dropout"
        )
    return replace(config, encoder=replace(encoder, fast=True))


def _weights(path: Path, data: bytes) -> Mapping[str, Tensor]:
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise BundleError(
            f"{path}/{WEIGHTS}: truncated or damaged ({error}); copy the bundle again"
        ) from error


def _fill(model: Model, tensors: Mapping[str, Tensor], where: str) -> None:
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        fault = "is missing" if name in expected else "is not part of the model"
        raise BundleError(f"{where}: {name} {fault}; {CONFIG} and the weights are of different models")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise BundleError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, {CONFIG} says {tuple(expected[name].shape)}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
