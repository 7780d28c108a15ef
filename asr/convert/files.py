"""The files that checkpoints come in. Reading them runs no code from them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from asr.errors import BundleError

__all__ = ["beside", "read_archive", "read_tensors", "read_yaml"]


def read_tensors(path: str | Path, data: bytes | None = None) -> dict[str, Tensor]:
    """The tensors of a .pt or .pth checkpoint or a .safetensors file; `data` is what `path` holds, if it is at hand.

    Raises BundleError: no such file, or one that weights-only loading refuses.
    """
    path = Path(path)
    if data is None and not path.is_file():
        raise BundleError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(
            path if data is None else io.BytesIO(data), map_location="cpu", weights_only=True
        )
    except Exception as error:
        raise BundleError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}: {error})"
        ) from error
    for key in ("model", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        raise BundleError(
            f"{path}: holds no tensors by name; give averaged or last weights, not a training state"
        )
    return content


def read_yaml(path: str | Path, data: bytes | None = None) -> dict[str, Any]:
    """A peer's configuration. Raises BundleError: no such file, or no mapping in it."""
    path = Path(path)
    if data is None and not path.is_file():
        raise BundleError(
            f"{path} is missing: it lies beside the checkpoint, and says what the model is made of"
        )
    try:
        tree = yaml.safe_load(path.read_bytes() if data is None else data)
    except yaml.YAMLError as error:
        raise BundleError(f"{path}: not YAML ({error})") from error
    if not isinstance(tree, Mapping):
        raise BundleError(f"{path}: not a mapping of settings")
    return dict(tree)


def read_archive(path: str | Path) -> dict[str, bytes]:
    """The files of a tar archive, compressed or not, by name without folders. Raises BundleError."""
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint")
    try:
        with tarfile.open(path, "r:*") as archive:
            return {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BundleError(f"{path}: not a whole tar archive ({error}); copy it again") from error


def beside(checkpoint: Path, name: str | None) -> Path | None:
    """A file that a configuration names: at its path from the checkpoint's folder or one above, or in that folder."""
    if not name:
        return None
    folder = checkpoint.resolve().parent
    places = [*(parent / name for parent in (folder, *folder.parents)), folder / Path(name).name]
    return next((place for place in places if place.is_file()), None)
