"""`asr doctor`: what is installed, what is missing and how to get it, and whether a model runs here at all."""

from __future__ import annotations

import importlib.util
import os
import platform
import random
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asr.errors import RillError

if TYPE_CHECKING:
    from torch import Tensor

    from asr.model import Model

__all__ = ["Finding", "devices", "examine", "findings", "software"]

REQUIRED = (
    "torch",
    "lightning",
    "lhotse",
    "sentencepiece",
    "soundfile",
    "soxr",
    "websockets",
    "kaldialign",
    "safetensors",
    "typer",
    "rich",
    "prometheus-client",
    "tensorboard",
    "matplotlib",
    "pyyaml",
    "numpy",
)
OPTIONAL = {
    "k2": "one more transducer loss; https://k2-fsa.github.io/k2 lists the build for each torch",
    "torchaudio": "one more transducer loss; pip install torchaudio, of the same version as torch",
    "onnxruntime": "runs exported models; pip install onnxruntime",
    "ray": "transcribes on a cluster; pip install ray",
}
"""What each adds, and how to get it. Distribution and module have one name."""

_OURS = Path(__file__).parent
_MALICIOUS = {"lightning": {"2.6.2", "2.6.3"}}
_CPU_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 bf16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
}

Level = Literal["good", "hint", "bad"]


@dataclass(frozen=True)
class Finding:
    """A line of the report. `bad` means that Rill cannot work; `hint`, that it would work better with the remedy."""

    section: str
    name: str
    text: str
    level: Level = "good"


def examine(model: Path | None = None) -> bool:
    """Print the report, and run a model: the given one, or a small random one. False where anything is bad."""
    good, section = True, ""
    for finding in findings(model):
        if finding.section != section:
            section = finding.section
            print(f"\n{section}")
        mark = {"good": " ok ", "hint": " -- ", "bad": "FAIL"}[finding.level]
        print(f"  [{mark}] {finding.name:<18} {finding.text}", flush=True)
        good = good and finding.level != "bad"
    print("\nRill works here." if good else "\nRill does not work here: mend what is marked FAIL.")
    return good


def findings(model: Path | None = None) -> Iterable[Finding]:
    """The report, line by line as it is found out."""
    yield from software()
    broken = [name for name in ("torch", "lhotse", "numpy") if importlib.util.find_spec(name) is None]
    if broken:
        return
    yield from devices()
    yield from _optional()
    yield from _trial(model)


def software() -> Iterable[Finding]:
    """Python, Rill and what it needs, with versions."""
    version = platform.python_version()
    level: Level = "good" if sys.version_info >= (3, 11) else "bad"
    yield Finding("Software", "python", f"{version}, {platform.system()} {platform.machine()}", level)
    try:
        yield Finding("Software", "rill-asr", metadata.version("rill-asr"))
    except metadata.PackageNotFoundError:
        yield Finding(
            "Software",
            "rill-asr",
            "runs from a folder, not installed; ./tools/quickstart installs it",
            "hint",
        )
    for name in REQUIRED:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(
                "Software", name, f"is missing; pip install {name}, or all with: pip install -e .", "bad"
            )
            continue
        if found in _MALICIOUS.get(name, ()):
            remedy = f"pip install '{name}!=2.6.2,!=2.6.3', and change this machine's secrets"
            yield Finding("Software", name, f"{found} is a malicious release; {remedy}", "bad")
        else:
            yield Finding("Software", name, found)


def devices() -> Iterable[Finding]:
    """What computes here; needs torch."""
    import torch

    flags = _cpu_flags()
    seen = (
        ", ".join(label for flag, label in _CPU_FLAGS.items() if flag in flags)
        or "no vector extensions known here"
    )
    yield Finding("Devices", "cpu", f"{_cores()} cores, {torch.get_num_threads()} threads in torch; {seen}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            yield Finding("Devices", f"cuda:{i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda is None:
        yield Finding(
            "Devices",
            "cuda",
            "none: this torch is built for the CPU; for a GPU: pip install --force-reinstall torch",
        )
    else:
        yield Finding("Devices", "cuda", "none is found; nvidia-smi tells whether the driver sees a GPU")
    if torch.backends.mps.is_available():
        yield Finding("Devices", "mps", "Apple GPU")
    try:
        from asr import native
    except ImportError as error:
        yield Finding("Devices", "C kernels", f"cannot be loaded: {error}", "bad")
        return
    if native.available():
        yield Finding("Devices", "C kernels", "compiled and in use")
    else:
        yield Finding(
            "Devices",
            "C kernels",
            f"not in use, torch does their work more slowly: {native.reason()}",
            "hint",
        )


def _optional() -> Iterable[Finding]:
    for name, what in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding("Optional", name, f"not installed: {what}", "hint")
        else:
            yield Finding("Optional", name, metadata.version(name))


def _trial(path: Path | None) -> Iterable[Finding]:
    import torch

    began = time.monotonic()
    try:
        model = _small_model() if path is None else _given(path)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        kind = "small random model" if path is None else str(path)
        yield Finding("Trial", "model", f"{kind}, {parameters / 1e6:.1f} M parameters ({_since(began)})")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
        generator = torch.Generator().manual_seed(0)
        samples = (0.1 * torch.randn(2, 32_000, generator=generator)).to(device)
        lens = torch.tensor([32_000, 24_000], device=device)
        for name, step in ("forward, backward", _learn), ("decode", _decode):
            began = time.monotonic()
            result = step(model, samples, lens)
            yield Finding("Trial", name, f"{result} on {device} ({_since(began)})")
    except RillError as error:
        yield Finding("Trial", "stopped", str(error), "bad")
    except Exception as error:  # whatever is wrong with this machine is what the doctor is asked for
        reason = " ".join(str(error).split()) or "no reason given"
        frames = traceback.extract_tb(error.__traceback__)
        at = next((frame for frame in reversed(frames) if _OURS in Path(frame.filename).parents), frames[-1])
        place = f"{Path(at.filename).name}, line {at.lineno}"
        yield Finding("Trial", "stopped", f"{type(error).__name__}: {reason} ({place})", "bad")


def _small_model() -> Model:
    import torch

    from asr.encoders import Chunk, ZipformerConfig
    from asr.heads import CTCConfig, TransducerConfig
    from asr.heads.predictors import StatelessConfig
    from asr.model import Model, ModelConfig
    from asr.tokenizer import Tokenizer

    encoder = ZipformerConfig(
        layers=(1,) * 6,
        dims=(32, 32, 48, 64, 48, 32),
        unmasked_dims=(32,) * 6,
        feed_forward_dims=(64,) * 6,
        heads=(2,) * 6,
        chunks=(Chunk(16, 64),),
    )
    config = ModelConfig(
        encoder=encoder,
        transducer=TransducerConfig(predictor=StatelessConfig(dim=64), joiner_dim=64),
        ctc=CTCConfig(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(config, Tokenizer.train(["a bcd e", "fg h"], kind="characters", vocabulary=12))


def _given(path: Path) -> Model:
    from asr.bundle import load

    return load(path)


def _learn(model: Model, samples: Tensor, lens: Tensor) -> str:
    import torch

    model.train()
    random.seed(0)  # regularizers are drawn; a report should say the same each time
    torch.manual_seed(0)
    y, y_lens = model.encode(samples, lens)
    tokens = torch.randint(1, model.tokenizer.size, (2, 6)).to(y.device)
    token_lens = torch.tensor([6, 4], device=y.device)
    losses = [head.loss(y, y_lens, tokens, token_lens) for head in model.heads.values()]  # type: ignore[operator]
    total = torch.stack([part.sum() for parts in losses for part in parts.values()]).sum()
    total.backward()
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.stack(norms).norm()
    model.zero_grad()
    if not (total.isfinite() and norm.isfinite()):
        raise RillError(
            f"loss {total.item():.3g}, gradient {norm.item():.3g}: this torch computes wrongly here"
        )
    return f"loss {total.item() / 2:.1f}, gradients finite"


def _decode(model: Model, samples: Tensor, lens: Tensor) -> str:
    model.eval()
    latencies = (None, *model.latencies[:1])
    audio = samples[1, : int(lens[1])].cpu().numpy()
    counts = [len(model.transcribe(audio, latency_ms=latency).words) for latency in latencies]
    ways = "offline and streamed" if len(counts) > 1 else "offline"
    return f"{ways}, {' and '.join(map(str, counts))} words of noise"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
