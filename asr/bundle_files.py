"""The files of a bundle, whatever model is in it: a directory, or one .tar of it. See `asr/bundle.py`."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from asr import config as configuration
from asr import strict_yaml
from asr.errors import BundleError
from asr.tokenizer import Kind, Tokenizer

__all__ = ["CONFIG", "WEIGHTS", "describe", "fill", "load_tokenizer", "read", "tokenizer", "weights", "write"]

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "card.md"
TOKENIZERS: dict[Kind, str] = {
    "unigram": "tokenizer.model",
    "bpe": "tokenizer.model",
    "characters": "tokenizer.json",
}

D = TypeVar("D")


def read(path: Path) -> dict[str, bytes]:
    """Raises BundleError: there is no bundle, or a file of it is missing."""
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


def describe(kind: type[D], files: Mapping[str, bytes], path: Path) -> D:
    """What config.yaml says, as a dataclass. Raises BundleError, ConfigError."""
    where = f"{path}/{CONFIG}"
    tree, _ = strict_yaml.parse(files[CONFIG].decode(errors="replace"), where)
    if not isinstance(tree, dict):
        raise BundleError(f"{where}: truncated; copy the bundle again")
    is_one, wanted = tree.get("kind") == "language_model", hasattr(kind, "kind")
    if is_one and not wanted:
        raise BundleError(f"{path}: is a language model; give it as one, with --lm")
    if wanted and not is_one:
        raise BundleError(f"{path}: is a speech model, and no language model")
    return configuration.from_dict(kind, tree, where=where)


def load_tokenizer(path: Path) -> Tokenizer:
    """Of any bundle, whatever model is in it. Raises BundleError."""
    files = read(path)
    tree, _ = strict_yaml.parse(files[CONFIG].decode(errors="replace"), f"{path}/{CONFIG}")
    kind = tree.get("tokenizer") if isinstance(tree, dict) else None
    if kind not in TOKENIZERS:
        raise BundleError(f"{path}/{CONFIG}: names no tokenizer; copy the bundle again")
    return tokenizer(kind, files, path)


def tokenizer(kind: Kind, files: Mapping[str, bytes], path: Path) -> Tokenizer:
    vocabulary = TOKENIZERS[kind]
    if vocabulary not in files:
        raise BundleError(f"{path}: {vocabulary} is missing; copy the bundle again")
    return Tokenizer.from_bytes(kind, files[vocabulary])


def weights(files: Mapping[str, bytes], path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(files[WEIGHTS])
    except (SafetensorError, ValueError) as error:
        raise BundleError(
            f"{path}/{WEIGHTS}: truncated or damaged ({error}); copy the bundle again"
        ) from error


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises BundleError: the weights are another model's."""
    where, expected = f"{path}/{WEIGHTS}", model.state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        fault = "is missing" if name in expected else "is not part of the model"
        raise BundleError(f"{where}: {name} {fault}; {CONFIG} and the weights are of different models")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise BundleError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, {CONFIG} says {tuple(expected[name].shape)}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def write(
    path: Path, model: Any, description: Any, *, card: str = "", dtype: torch.dtype = torch.float32
) -> Path:
    """A model that has a `tokenizer`, complete or not at all; `dtype` is that of the stored parameters."""
    if path.is_file() and path.suffix != ".tar":
        raise BundleError(f"{path}: is a file; a bundle is a directory, or a .tar")
    tensors = {name: x.detach().cpu().to(dtype).contiguous() for name, x in model.state_dict().items()}
    files = {
        WEIGHTS: save_tensors(tensors),
        CONFIG: configuration.to_yaml(description).encode(),
        TOKENIZERS[model.tokenizer.kind]: model.tokenizer.to_bytes(),
        CARD: (card or f"# {path.stem}\n\nNo card was given.\n").encode(),
    }
    return put(path, files)


def put(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a bundle, all or none."""
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
