"""All encoders at about 30 M parameters and Zipformer-M, side by side; beside them the same shapes of NeMo, ESPnet and
icefall, where they can be imported.

    python tools/bench/encoders.py                       # all that there is
    python tools/bench/encoders.py --quick conformer     # a minute; kinds that begin with "conformer"
    PYTHONPATH=. PEER_ENVIRONMENT/bin/python tools/bench/encoders.py

It needs nothing but torch, so that it runs in an environment where a peer is installed, too; icefall's
egs/librispeech/ASR/zipformer must be on the path, and k2. Columns: parameters;
real-time factor of a forward pass in full context; seconds of forward and backward; milliseconds of a step with 2.56 s
of left context, for chunks of 320 and 640 ms and some batches; megabytes that a forward pass of some minutes takes
beside the model, ours in chunks of 640 ms, a peer's as it is.

One round after another measures all encoders in turn, and the best of the rounds counts: machines are noisy, and what
is compared must have been measured at the same time. Seconds are the processor's, which are those of the clock on an
idle machine with one thread. Below the table stand the ratios of ours to each peer of its shape: quote these.
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from encoder_peers import BINS, LEFT_MS, PEERS, Peer
from torch import Tensor

from asr.encoders import (
    BranchformerConfig,
    Chunk,
    ConformerConfig,
    EBranchformerConfig,
    EncoderConfig,
    FastConformerConfig,
    SqueezeformerConfig,
    TransformerConfig,
    ZipformerConfig,
    build,
)

CONFIGS: dict[str, EncoderConfig] = {
    "zipformer": ZipformerConfig(size="s"),
    "conformer": ConformerConfig(size="m"),
    "fast_conformer": FastConformerConfig(size="m"),
    "branchformer": BranchformerConfig(size="m"),
    "e_branchformer": EBranchformerConfig(size="m"),
    "squeezeformer": SqueezeformerConfig(size="sm"),
    "transformer": TransformerConfig(size="m"),
    "m_zipformer": ZipformerConfig(size="m"),
}
ROOM = 8 << 30  # bytes that a pass may take beside the model


class Ours(Peer):
    """An encoder of ours, with what a `Peer` has."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(build(config, BINS))

    def chunk(self, milliseconds: int) -> Chunk:
        frame = 10 * self.module.subsampling
        return Chunk(milliseconds // frame, LEFT_MS // frame)

    def limited(self, x: Tensor, lens: Tensor) -> Tensor:
        y: Tensor = self.module(x, lens, self.chunk(640))[0]
        return y

    def stepper(self, batch: int, milliseconds: int) -> Callable[[], object]:
        chunk, encoder = self.chunk(milliseconds), self.module
        if hasattr(encoder, "pack"):  # as a server does
            encoder = copy.deepcopy(encoder)
            encoder.pack()
        size = chunk.frames * encoder.subsampling
        first = size + encoder.lookahead
        lens = torch.full((batch,), size)
        x = torch.randn(batch, max(first, size), BINS)
        _, _, state = encoder.step(
            x[:, :first], torch.full((batch,), first), encoder.init_state(batch, chunk), chunk
        )
        for _ in range(chunk.left // chunk.frames):
            _, _, state = encoder.step(x[:, :size], lens, state, chunk)
        return lambda: encoder.step(x[:, :size], lens, state, chunk)


def candidates(prefix: str) -> dict[str, Callable[[], Peer]]:
    """Ours, and each followed by those of the same shape."""
    found: dict[str, Callable[[], Peer]] = {}
    for kind, config in CONFIGS.items():
        if kind.startswith(prefix):
            found[kind] = lambda config=config: Ours(config)
            found |= {name: make for name, make in PEERS.items() if name.split()[0] == kind}
    return found


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def forward_backward(peer: Peer, x: Tensor, lens: Tensor) -> None:
    peer.module.train()
    peer.whole(x, lens).square().mean().backward()
    peer.module.zero_grad()
    peer.module.eval()


def tasks(peer: Peer, options: argparse.Namespace) -> dict[str, Callable[[], object] | None]:
    """What is timed, by the heading of its column."""
    long = torch.randn(1, 100 * options.forward, BINS), torch.tensor([100 * options.forward])
    several, of = options.backward
    batch = torch.randn(several, 100 * of, BINS), torch.full((several,), 100 * of)
    found: dict[str, Callable[[], object] | None] = {"forward": lambda: peer.whole(*long)}
    for milliseconds in (320, 640):
        for b in options.batches:
            with torch.inference_mode():
                found[f"{milliseconds}x{b}"] = peer.stepper(b, milliseconds)
    found["train"] = lambda: forward_backward(peer, *batch)
    return found


def measure(peers: dict[str, Peer], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of each task, the best of all rounds."""
    best: dict[str, dict[str, float]] = {name: {} for name in peers}
    todo = {name: tasks(peer, options) for name, peer in peers.items()}
    headings = list(next(iter(todo.values())))
    for heading in headings:
        for _ in range(options.rounds + 1):  # one more, to warm up
            for name in peers:
                f = todo[name][heading]
                if f is None:
                    continue
                with torch.inference_mode(heading != "train"):
                    best[name][heading] = min(seconds(f), best[name].get(heading, float("inf")))
    return best


def memory(make: Callable[[], Peer], minutes: int) -> None:
    """Print the megabytes of a pass. For a process of its own, whose peak is then that of the pass."""
    peer, frames = make(), 6000 * minutes
    x, lens = torch.randn(1, frames, BINS), torch.tensor([frames])
    with open("/proc/self/statm") as file:
        size, resident = (int(field) * resource.getpagesize() for field in file.read().split()[:2])
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    try:
        with torch.inference_mode():
            peer.limited(x, lens)
    except (MemoryError, RuntimeError):
        print(f">{ROOM >> 20}")
        return
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident) >> 20)


def megabytes(name: str, minutes: int) -> str:
    command = [
        sys.executable,
        __file__,
        name,
        "--memory",
        str(minutes),
        "--threads",
        str(torch.get_num_threads()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else "failed"


def table(
    peers: dict[str, Peer], best: dict[str, dict[str, float]], options: argparse.Namespace
) -> list[list[str]]:
    several, of = options.backward
    steps = [heading for heading in best[next(iter(best))] if "x" in heading]
    rows = [
        ["encoder", "M", f"rtf {options.forward} s", f"train {several}x{of} s", *(f"{s} ms" for s in steps)]
    ]
    minutes = () if options.no_memory else options.minutes
    rows[0] += [f"{m} min MB" for m in minutes]
    for name, peer in peers.items():
        found: dict[str, Any] = best[name]
        millions = sum(p.numel() for p in peer.module.parameters()) / 1e6
        row = [name, f"{millions:.1f}", f"{found['forward'] / options.forward:.4f}", f"{found['train']:.2f}"]
        row += [f"{1000 * found[s]:.1f}" if s in found else "-" for s in steps]
        rows.append(row + [megabytes(name, m) for m in minutes])
    return rows


def ratios(best: dict[str, dict[str, float]]) -> list[list[str]]:
    """Of ours to each peer of the same shape, column by column; below 1, ours takes less."""
    headings = list(next(iter(best.values())))
    rows = [["ours / peer", *headings]]
    for name, theirs in best.items():
        ours = best.get(name.split()[0], {})
        if name in PEERS and ours:
            rows.append(
                [name, *(f"{ours[key] / theirs[key]:.2f}" if key in theirs else "-" for key in headings)]
            )
    return rows if len(rows) > 1 else []


def show(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        print(
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="?", default="", help="only those that begin so")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="without the columns of memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=int, metavar="MINUTES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.memory is not None:
        memory({**candidates(""), **PEERS}[options.kinds], options.memory)
        return
    options.forward, options.backward, options.batches, options.minutes = 30, (8, 10), (1, 8, 32), (1, 5, 20)
    if options.quick:
        options.forward, options.backward, options.batches, options.minutes = 10, (1, 5), (1, 8), (1,)
        options.rounds = 1
    peers: dict[str, Peer] = {}
    for name, make in candidates(options.kinds).items():
        try:
            peers[name] = make()
        except (ImportError, AttributeError) as error:
            print(f"{name}: left out ({type(error).__name__}: {error})")
    best = measure(peers, options)
    show(table(peers, best, options))
    show(ratios(best))


if __name__ == "__main__":
    main()
