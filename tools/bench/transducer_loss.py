"""Time and peak memory of the transducer losses, forward and backward, against their torch reference.

    python tools/bench/transducer_loss.py [--threads 2] [--repeats 20] [--peaky] [--quick]

B=8, T=250, S=40, V=500, R=5, a joiner 512 wide, float32. All cases of one table run in turn, round after round,
so that what else the machine does falls on all of them; the slow ones run once, after a warm-up. "full" and "tdt" are
fused with the joiner and hold no logits; "full, naive" makes them all first. warprnnt_numba and k2 join in where they
are installed. "cpu ms" counts all threads, those that wait for others too. "peak MB" is what one case adds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from asr import native
from asr.losses import transducer

B, T, S, V, R, J = 8, 250, 40, 500, 5, 512
DURATIONS = (0, 1, 2, 3, 4)
# k2 1.24's CPU build on a 2-core machine of this kind, milliseconds (issue 2).
K2 = {"smoothed": 58.0, "pruned": 21.0, "whole": 198.0}


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Everything in torch, as where the library was not built."""
    with contextlib.ExitStack() as stack:
        for module in ("durations", "fused", "joiner", "lattice", "transducer"):
            stack.enter_context(mock.patch(f"asr.losses.{module}.available", return_value=False))
        yield


def peak_memory(f: Callable[[], None]) -> float:
    """Megabytes that `f` adds to what the process holds, at the most; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    with contextlib.suppress(AttributeError):  # else what earlier cases freed hides what this one takes
        ctypes.CDLL(None).malloc_trim(0)

    def field(name: str) -> float:
        return next(float(x.split()[1]) / 1024 for x in status.read_text().splitlines() if x.startswith(name))

    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = field("VmRSS")
        f()
        return field("VmHWM") - before
    except OSError:
        return float("nan")


def cases(peaky: bool) -> dict[str, Callable[[], None]]:
    """Name -> one forward and backward pass. `peaky`: a trained model's lattice, where one path has nearly all."""
    torch.manual_seed(0)
    tokens = torch.randint(1, V, (B, S))
    token_lens, frame_lens = torch.full((B,), S), torch.full((B,), T)
    am, lm = torch.randn(B, T, V), torch.randn(B, S + 1, V)
    encoder, predictor = torch.randn(B, T, J), torch.randn(B, S + 1, J)
    weight, bias = torch.randn(V, J) / J**0.5, torch.zeros(V)
    if peaky:  # token k at frame 6 k, blank elsewhere
        target = torch.zeros(B, T, dtype=torch.int64)
        target[:, : 6 * S : 6] = tokens
        am += 20.0 * torch.nn.functional.one_hot(target, V)
        encoder, predictor, weight = 6.0 * weight[target], 0.1 * predictor, 20.0 * weight
    duration_weight, duration_bias = torch.randn(len(DURATIONS), J) / J**0.5, torch.zeros(len(DURATIONS))
    leaves = [
        x.requires_grad_() for x in (am, lm, encoder, predictor, weight, bias, duration_weight, duration_bias)
    ]
    joiner = transducer.Joiner(*leaves[2:6])
    with_durations = transducer.Joiner(*leaves[2:])
    lens = tokens, token_lens, frame_lens

    def simple(**scales: float) -> tuple[Tensor, transducer.Occupation]:
        return transducer.simple_loss(am, lm, *lens, **scales)

    ranges = transducer.pruning_ranges(simple()[1], *lens[1:], width=R)
    first, second = transducer.gather_pruned(encoder, predictor, ranges)
    logits = (torch.tanh(first + second) @ weight.T).detach().requires_grad_()
    leaves.append(logits)

    def passes(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            loss().sum().backward()

        return run

    def whole() -> Tensor:
        loss, occupation = simple(lm_scale=0.25)
        kept = transducer.pruning_ranges(occupation, *lens[1:], width=R)
        return loss + transducer.joiner_pruned_loss(joiner, tokens, kept, *lens[1:])

    found: dict[str, Callable[[], None]] = {
        "simple": passes(lambda: simple()[0]),
        "smoothed": passes(lambda: simple(lm_scale=0.25)[0]),
        "pruned": passes(lambda: transducer.pruned_loss(logits, tokens, ranges, *lens[1:])),
        "whole": passes(whole),
        "full": passes(lambda: transducer.joiner_full_loss(joiner, *lens)),
        "tdt": passes(lambda: transducer.joiner_tdt_loss(with_durations, *lens, durations=DURATIONS)),
    }
    return found | others([*leaves[:6], logits], lens, ranges)


def others(leaves: list[Tensor], lens: tuple[Tensor, ...], ranges: Tensor) -> dict[str, Callable[[], None]]:
    """The same work by other libraries, those that are installed."""
    am, lm, encoder, predictor, weight, bias, logits = leaves
    tokens, token_lens, frame_lens = lens
    found: dict[str, Callable[[], None]] = {}

    def joined() -> Tensor:
        return torch.tanh(encoder[:, :, None] + predictor[:, None]) @ weight.T + bias

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    with contextlib.suppress(ImportError):
        numba = importlib.import_module("warprnnt_numba").RNNTLossNumba(blank=0, reduction="sum")
        lens32 = tokens.int(), frame_lens.int(), token_lens.int()

        def warprnnt() -> None:
            clear()
            numba(joined().log_softmax(3), *lens32).backward()

        found["full, warprnnt_numba"] = warprnnt

    def naive() -> None:
        clear()
        transducer.full_loss(joined(), tokens, token_lens, frame_lens).sum().backward()

    found["full, naive"] = naive
    with contextlib.suppress(ImportError):
        k2 = importlib.import_module("k2")
        boundary = torch.stack([token_lens * 0, token_lens * 0, token_lens, frame_lens], 1)

        def smoothed() -> None:
            clear()
            k2.rnnt_loss_smoothed(lm, am, tokens, 0, lm_only_scale=0.25, boundary=boundary).sum().backward()

        def pruned() -> None:
            clear()
            k2.rnnt_loss_pruned(logits, tokens, ranges, 0, boundary).sum().backward()

        found |= {"smoothed, k2": smoothed, "pruned, k2": pruned}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--peaky", action="store_true", help="a trained model's lattice instead of a random one"
    )
    parser.add_argument("--quick", action="store_true", help="leave out the references and other libraries")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, C kernels: {native.reason() or 'in use'}")

    def in_torch(f: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with reference():
                f()

        return run

    ours = cases(options.peaky)
    runs = ours | {f"{name}, torch reference": in_torch(ours[name]) for name in (*K2, "simple", "tdt")}
    quick = {*K2, "full", "tdt", "full, naive"}
    runs = {name: run for name, run in runs.items() if name in quick or not options.quick}
    slow = {name for name in runs if name.startswith(("full", "tdt")) or "torch reference" in name}
    times: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, list[float]] = {name: [] for name in runs}
    memory = {}

    def timed(name: str) -> None:
        start, work_start = time.perf_counter(), time.process_time()
        runs[name]()
        work[name].append(1000 * (time.process_time() - work_start))
        times[name].append(1000 * (time.perf_counter() - start))

    for name, run in runs.items():
        print(f"warming up: {name}", end="\x1b[K\r", flush=True)
        run()
        memory[name] = peak_memory(lambda name=name: timed(name))
    for _ in range(options.repeats):
        for name in runs.keys() - slow:
            timed(name)

    heads = " ".join(f"{head:>9}" for head in ("best ms", "median ms", "cpu ms", "peak MB"))
    print(f"\x1b[K{'forward + backward':40} {heads}   ratio to ours (best)")
    for name in sorted(runs):
        best, base = min(times[name]), name.split(",")[0]
        ratio = "" if name == base else f"{best / min(times[base]):.1f}"
        if name in K2:
            ratio = f"{K2[name] / best:.1f} times as fast as k2's {K2[name]:.0f} ms"
        numbers = best, statistics.median(times[name]), min(work[name]), memory[name]
        print(f"{name:40} {' '.join(f'{number:9.1f}' for number in numbers)}   {ratio}")


if __name__ == "__main__":
    main()
