"""k2 and torchaudio against the reference where they are installed, and how they are asked where they are not."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.losses import backends
from asr.losses.backends import solve_with_k2, solve_with_torchaudio
from asr.losses.lattice import Lattice, solve_in_torch


def draw(topology: Any, *, banded: bool) -> Lattice:
    make = torch.Generator().manual_seed(3)
    symbol, blank = -3 * torch.rand(2, 4, 12, 4, generator=make)
    frame_lens, token_lens = (
        torch.tensor([12, 9, 12, 0]),
        torch.tensor([7, 3, 0, 0] if banded else [3, 2, 0, 0]),
    )
    begin = None
    if banded:
        begin = (torch.arange(12) // 2).clamp(max=(token_lens - 3).clamp(min=0)[:, None])
    return Lattice(symbol, blank, begin, token_lens, frame_lens, topology)


def compare(solver: Any, topology: Any, *, banded: bool) -> None:
    lattice = draw(topology, banded=banded)
    expected, flow = solve_in_torch(lattice)
    scores, found = solver(lattice)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.symbol, flow.symbol, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.blank, flow.blank, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("topology", ["regular", "modified"])
def test_k2(topology: Any, banded: bool) -> None:
    pytest.importorskip("k2", reason="k2 is not installed; https://k2-fsa.github.io/k2 lists the builds")
    compare(solve_with_k2, topology, banded=banded)


@pytest.mark.parametrize("banded", [False, True])
def test_torchaudio(banded: bool) -> None:
    pytest.importorskip("torchaudio", reason="torchaudio is not installed, or not for this torch")
    compare(solve_with_torchaudio, "regular", banded=banded)


def recursion(px: Tensor, py: Tensor, boundary: Tensor, *, calc_gradients: bool) -> Any:
    """k2's `mutual_information_recursion` as it is documented: p[s, t] from p[s - 1, t] or, where px has no more frames
    than py, from p[s - 1, t - 1]; and from p[s, t - 1]."""
    assert calc_gradients and px.shape[1] + 1 == py.shape[1]
    px, py = px.detach().requires_grad_(), py.detach().requires_grad_()
    regular = px.shape[2] == py.shape[2] + 1
    totals = []
    with torch.enable_grad():
        for b, (_, _, tokens, frames) in enumerate(boundary.tolist()):
            p: dict[tuple[int, int], Tensor] = {(0, 0): torch.zeros(())}
            for t in range(frames + 1):
                for s in range(tokens + 1):
                    ways = [p[s, t - 1] + py[b, s, t - 1]] if t else []
                    before = t if regular else t - 1
                    ways += [p[s - 1, before] + px[b, s - 1, before]] if s and before >= 0 else []
                    if ways:
                        p[s, t] = torch.stack(ways).logsumexp(0)
                    elif (s, t) != (0, 0):
                        p[s, t] = torch.tensor(-torch.inf)
            totals.append(p[tokens, frames])
        scores = torch.stack(totals)
        gradients = torch.autograd.grad(scores.sum(), (px, py))
    return scores.detach(), tuple(g.nan_to_num() for g in gradients)


def rnnt_loss(logits: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, **options: Any) -> Tensor:
    """torchaudio's, as it is documented, of log-probabilities."""
    assert options == {"blank": 0, "reduction": "none", "fused_log_softmax": False}
    assert {x.dtype for x in (targets, frames, tokens)} == {torch.int32} and int(frames.min()) > 0
    assert logits.shape[1:3] == (int(frames.max()), int(tokens.max()) + 1)
    losses = []
    for b, (n, m) in enumerate(zip(frames.tolist(), tokens.tolist(), strict=True)):
        alpha = {(0, 0): torch.zeros(())}
        for t in range(n):
            for s in range(m + 1):
                ways = [alpha[t - 1, s] + logits[b, t - 1, s, 0]] if t else []
                ways += [alpha[t, s - 1] + logits[b, t, s - 1, int(targets[b, s - 1])]] if s else []
                if ways:
                    alpha[t, s] = torch.stack(ways).logsumexp(0)
        losses.append(-alpha[n - 1, m] - logits[b, n - 1, m, 0])
    return torch.stack(losses)


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("topology", ["regular", "modified"])
def test_what_k2_is_asked(topology: Any, banded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = types.ModuleType("k2")
    fake.mutual_information_recursion = recursion
    monkeypatch.setitem(sys.modules, "k2", fake)
    compare(solve_with_k2, topology, banded=banded)


@pytest.mark.parametrize("banded", [False, True])
def test_what_torchaudio_is_asked(banded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = types.ModuleType("torchaudio.functional")
    fake.rnnt_loss = rnnt_loss
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    monkeypatch.setitem(sys.modules, "torchaudio.functional", fake)
    compare(solve_with_torchaudio, "regular", banded=banded)


def test_which_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    regular, modified = draw("regular", banded=False), draw("modified", banded=False)
    assert backends.installed(regular) is None
    there |= {"torchaudio"}
    assert backends.installed(regular) is solve_with_torchaudio
    assert backends.installed(modified) is None
    there |= {"k2"}
    assert backends.installed(modified) is backends.installed(regular) is solve_with_k2
