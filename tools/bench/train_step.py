"""Seconds of speech trained per second: forward, backward and optimizer step on a batch of noise.

    python tools/bench/train_step.py                        # Zipformer-M, 8 x 10 s, fp32
    python tools/bench/train_step.py --size s --precision bf16 --threads 2
    python tools/bench/train_step.py --recipe recipes/librispeech/train.yaml --preset conformer-l
    python tools/bench/train_step.py --size s --activation-checkpointing --threads 1     # both ways, and their ratio

For scale: icefall's Zipformer-M encoder takes 8.2 s (6.9 s on a quiet machine) and 3.6 GB for forward and backward of
8 x 10 s in fp32 on two cores with AMX. Machines are noisy: the best of the repeats is what the code can do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from asr import config as configuration
from asr.audio import SAMPLE_RATE
from asr.dataset import Batch
from asr.encoders.base import FULL_CONTEXT
from asr.encoders.zipformer import ZipformerConfig
from asr.model import Model, ModelConfig
from asr.native.memory import keep_freed_memory
from asr.paths import preset
from asr.tokenizer import Tokenizer
from asr.training.blockwise import blocks_of, checkpoint_activations
from asr.training.losses import losses
from asr.training.memory import peak
from asr.training.optimizer import ScaledAdam
from asr.training.recipe import RecipeConfig
from asr.training.trainer import precision

ICEFALL_SECONDS = 8.2
ICEFALL_GIGABYTES = 3.6
WORDS = (
    "the quick brown fox jumps over a lazy dog while seven wizards make toxic brew for evil queens".split()
)


def noise(tokenizer: Tokenizer, utterances: int, seconds: float, tokens_per_second: float) -> Batch:
    """A batch of equal lengths with as many tokens as speech has."""
    generator = torch.Generator().manual_seed(1)
    samples = 0.1 * torch.randn(utterances, int(seconds * SAMPLE_RATE), generator=generator)
    tokens = torch.randint(
        3, tokenizer.size, (utterances, int(tokens_per_second * seconds)), generator=generator
    )
    lens = torch.full((utterances,), samples.shape[1]), torch.full((utterances,), tokens.shape[1])
    return Batch(tuple(map(str, range(utterances))), samples, lens[0], tokens, lens[1], ("",) * utterances)


def vocabulary_of(size: int) -> Tokenizer:
    """A tokenizer of exactly so many characters; only its size matters here."""
    letters = "".join(chr(0x4E00 + i) for i in range(size - 1))
    return Tokenizer.train([letters], kind="characters")


def best(f: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest call after one to warm up: of one thread's processor time, else of the clock."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    f()
    times = []
    for _ in range(repeats):
        start = clock()
        f()
        times.append(clock() - start)
    return min(times)


@dataclass(frozen=True)
class Measured:
    """Seconds by part, and the most bytes in use: of the whole process, and by a training step beyond its start."""

    what: str
    seconds: dict[str, float]
    bytes: int
    of_step: int


def measure(options: argparse.Namespace, way: str) -> Measured:
    """In a process of its own, whose peak of memory is then this one's."""
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `asr train` does
    torch.manual_seed(0)
    config = ModelConfig(encoder=ZipformerConfig(size=options.size))
    if options.recipe is not None:
        over = [preset(name) for name in options.preset]
        config = configuration.load(RecipeConfig, options.recipe, over=over).model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model(config, vocabulary_of(options.vocabulary)).to(device).train()
    for module in (model.encoder, *model.heads.values()):
        if hasattr(module, "set_batch_count"):
            module.set_batch_count(options.batch_count)
    if way == "activation checkpointing":
        checkpoint_activations(blocks_of(model.encoder))
    batch = noise(model.tokenizer, options.utterances, options.seconds, options.tokens).to(device)
    chunk = model.encoder.chunk_sizes[options.chunk] if options.chunk >= 0 else FULL_CONTEXT
    kind = precision(options.precision)
    optimizer = ScaledAdam(model.parameters())
    with torch.no_grad():
        features = model.features(batch.samples)
    lens = torch.full((options.utterances,), features.shape[1], device=device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16-mixed")

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def encoder() -> None:
        optimizer.zero_grad()
        with autocast():
            y, _ = model.encoder(features, lens, chunk)
        y.float().square().mean().backward()
        wait()

    def whole() -> None:
        optimizer.zero_grad()
        with autocast():
            found, y_lens = losses(model, batch, chunk)
        (torch.stack(list(found.values())).sum() / y_lens.sum()).backward()
        wait()

    def step() -> None:
        optimizer.step()
        wait()

    millions = sum(p.numel() for p in model.parameters()) / 1e6
    of_encoder = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    before = peak(device)
    seconds = {
        name: best(f, options.repeats)
        for name, f in (("encoder", encoder), ("model", whole), ("optimizer", step))
    }
    seconds["step"] = seconds["model"] + seconds["optimizer"]
    what = (
        f"{millions:.1f} M parameters ({of_encoder:.1f} M in the encoder), "
        f"{options.utterances} x {options.seconds:g} s, {kind}, {torch.get_num_threads()} threads, {device}, {way}"
    )
    return Measured(what, seconds, peak(device), peak(device) - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["s", "m", "l"], default="m", help="of the Zipformer")
    parser.add_argument("--recipe", type=Path, help="take the model from this recipe instead")
    parser.add_argument("--preset", action="append", default=[], help="over the recipe")
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each utterance")
    parser.add_argument("--vocabulary", type=int, default=500)
    parser.add_argument("--tokens", type=float, default=4.0, help="per second of speech")
    parser.add_argument("--precision", choices=["auto", "32", "bf16"], default="32")
    parser.add_argument("--batch-count", type=int, default=20_000, help="where the modules' schedules are")
    parser.add_argument("--chunk", type=int, default=-1, help="which of the chunk sizes; -1 is full context")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--activation-checkpointing", action="store_true", help="without and with it")
    options = parser.parse_args()
    ways = ["plain", "activation checkpointing"] if options.activation_checkpointing else ["plain"]
    speech = options.utterances * options.seconds
    first: Measured | None = None
    for way in ways:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            found = process.submit(measure, options, way).result()
        first = first or found
        print(found.what)
        for name, seconds in found.seconds.items():
            ratio = f"   {seconds / first.seconds[name]:.2f} of plain" if found is not first else ""
            print(f"{name:10s} {seconds:7.3f} s   {speech / seconds:7.1f} s of speech per second{ratio}")
        ratio = f"   {found.of_step / first.of_step:.2f} of plain" if found is not first else ""
        print(f"peak memory {found.bytes / 1e9:.2f} GB, of training {found.of_step / 1e9:.2f} GB{ratio}")
    assert first is not None
    if options.recipe is None and options.size == "m" and speech == 80:
        print(
            f"icefall's encoder, fp32, 2 cores: {ICEFALL_SECONDS} s, {ICEFALL_GIGABYTES} GB; "
            f"this one {ICEFALL_SECONDS / first.seconds['encoder']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
