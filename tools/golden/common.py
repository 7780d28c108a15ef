"""What the golden scripts share: random weights, the inputs, and how a golden folder is written.

The scripts run in an environment that has the peer installed (each tests/golden/NAME/README.md says which); the tests
need only what the scripts have written.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["BINS", "LENS", "features", "randomise", "write"]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
BINS = 80
LENS = (203, 118)  # input frames of the two utterances
LARGEST = 1_000_000  # bytes in a folder


def randomise(module: nn.Module, seed: int) -> None:
    """Random values for every parameter and buffer, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    kinds = {f"{name}.weight" for name, m in module.named_modules() if "Norm" in type(m).__name__}
    for name, x in module.state_dict().items():
        if not x.is_floating_point():
            continue
        noise = torch.randn(x.shape, generator=generator)
        if name.endswith("running_var"):
            value = 0.5 + noise.abs()
        elif name in kinds or name.endswith("scale"):
            value = 1 + 0.3 * noise
        elif x.dim() >= 2 and not name.endswith(("pos_bias_u", "pos_bias_v")):
            value = noise / math.sqrt(x[0].numel())
        else:
            value = 0.3 * noise
        x.copy_(value)


def features(seed: int, lens: tuple[int, ...] = LENS) -> tuple[Tensor, Tensor]:
    """(B, T, F) random values, zero behind the end of the shorter utterance, and their lengths (B,)."""
    x = torch.randn(len(lens), max(lens), BINS, generator=torch.Generator().manual_seed(seed))
    for row, length in zip(x, lens, strict=True):
        row[length:] = 0
    return x, torch.tensor(lens)


def write(
    name: str, *, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], config: Any, about: str
) -> None:
    """model.safetensors, io.safetensors, config.yaml and README.md; the peer's own names and forms throughout."""
    folder = GOLDEN / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: x.detach().clone().contiguous() for k, x in weights.items()}, folder / "model.safetensors")
    save_file({k: x.detach().clone().contiguous() for k, x in values.items()}, folder / "io.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    versions = (
        f"PyTorch {torch.__version__}, Python {platform.python_version()}, float32, {platform.machine()}"
    )
    (folder / "README.md").write_text(f"# {name}\n\n{about}\n\nComputed with {versions}.\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes, {sum(x.numel() for x in weights.values())} values")
    if size > LARGEST:
        raise SystemExit(f"{name} is larger than {LARGEST} bytes")
