"""The best path against every path, counted one by one; windows against the whole."""

from __future__ import annotations

import importlib.util
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from asr.heads import BLANK
from asr.search import viterbi as module
from asr.search.viterbi import Span, viterbi


def random(frames: int, seed: int, streams: int = 1, vocabulary: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(streams, frames, vocabulary, generator=generator)).log_softmax(-1)


def merged(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t for i, t in enumerate(path) if t != BLANK and (i == 0 or path[i - 1] != t))


def path_of(frames: int, spans: list[Span], tokens: list[int]) -> list[int]:
    path = [BLANK] * frames
    for span, token in zip(spans, tokens, strict=True):
        path[span.begin : span.end] = [token] * (span.end - span.begin)
    return path


def score(x: torch.Tensor, spans: list[Span], tokens: list[int]) -> float:
    path = path_of(len(x), spans, tokens)
    assert merged(tuple(path)) == tuple(tokens)
    return float(x[torch.arange(len(x)), torch.tensor(path)].sum())


@given(seed=st.integers(0, 1000), tokens=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=20)
def test_the_best_of_all_paths(seed: int, tokens: list[int]) -> None:
    x = random(5, seed)
    (spans,) = viterbi(x, torch.tensor([5]), [tokens])
    paths = [path for path in product(range(4), repeat=5) if merged(path) == tuple(tokens)]
    if not paths:
        assert spans is None
        return
    best = max(float(x[0, torch.arange(5), torch.tensor(path)].sum()) for path in paths)
    assert spans is not None and score(x[0], spans, tokens) == pytest.approx(best, abs=1e-5)


def test_a_batch_says_what_each_says_alone() -> None:
    x, lens, texts = random(30, 1, 4), torch.tensor([30, 17, 3, 0]), [[1, 2, 2, 3, 1], [3], [1, 1, 2], [1]]
    together = viterbi(x, lens, texts)
    for b, tokens in enumerate(texts):
        assert together[b] == viterbi(x[b : b + 1, : lens[b]], lens[b : b + 1], [tokens])[0]
    assert together[2] is None and together[3] is None  # four frames are needed; one


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")
def test_torchaudio_finds_the_same() -> None:
    from torchaudio.functional import forced_align

    x, tokens = random(50, 2), [1, 2, 3, 3, 1, 2]
    path = forced_align(x, torch.tensor([tokens], dtype=torch.int32))[0][0].tolist()
    (spans,) = viterbi(x, torch.tensor([50]), [tokens])
    assert spans is not None
    assert score(x[0], spans, tokens) == pytest.approx(
        float(x[0, torch.arange(50), torch.tensor(path)].sum())
    )


def test_torchaudio_found_the_same() -> None:
    """The very paths that torchaudio gave (golden/README.md)."""
    golden = load_file(Path(__file__).parent / "golden" / "forced_align.safetensors")
    x, texts = golden["log_probabilities"], golden["tokens"].tolist()
    for path, spans, tokens in zip(
        golden["paths"].tolist(), viterbi(x, torch.full((len(x),), x.shape[1]), texts), texts, strict=True
    ):
        assert spans is not None and path_of(len(path), spans, tokens) == path


def test_windows_find_what_the_whole_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 40)
    monkeypatch.setattr(module, "MARGIN", 20)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 4, (60,), generator=generator).tolist()
    said = [t for token in tokens for t in (BLANK, BLANK, token, token, BLANK)]
    x = torch.randn(len(said), 4, generator=generator)
    x[torch.arange(len(said)), torch.tensor(said)] += 5
    x = x.log_softmax(-1)
    (whole,) = viterbi(x[None], torch.tensor([len(x)]), [tokens])
    for step in (1, 7, 64, 1000):
        windows = module.Windows(tuple(tokens))
        for begin in range(0, len(x), step):
            windows.push(x[begin : begin + step])
        assert windows.finish() == whole
    windows = module.Windows(tuple(tokens) * 9)
    windows.push(x)
    assert windows.finish() is None  # more than is there
