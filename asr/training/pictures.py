"""Pictures of what a model does with speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import FRAMES_PER_SECOND

__all__ = ["attention", "gates", "merge_weights", "spectrogram"]


def spectrogram(
    features: Tensor, marks: Sequence[tuple[float, str]], *, title: str = ""
) -> NDArray[np.uint8]:
    """Log-mel features (T, F) with a line and a label at each (seconds, label) -> an image (height, width, 3)."""
    seconds = len(features) / FRAMES_PER_SECOND
    figure = _figure(min(20.0, max(6.0, 1.5 * seconds)))
    axes = figure.add_subplot()
    image = features.T.numpy()
    axes.imshow(
        image, origin="lower", aspect="auto", extent=(0.0, seconds, 0.0, float(len(image))), cmap="magma"
    )
    for second, label in marks:
        axes.axvline(second, color="white", linewidth=0.6)
        axes.text(second, len(image) * 0.97, _plain(label), color="white", fontsize=7, rotation=90, va="top")
    axes.set(xlabel="seconds", ylabel="mel band")
    axes.set_title(_plain(title)[:120], fontsize=8)
    return _drawn(figure)


def merge_weights(weights: Tensor) -> NDArray[np.uint8]:
    """What a Branchformer's layers give to their branches -> an image (height, width, 3).

    weights: (B, layers, 2), of `Branchformer.merge_weights`: a bar is their mean, its line their standard deviation.
    """
    mean, spread = weights.mean(0).T.numpy(), weights[..., 0].std(0, correction=0).numpy()
    layers = np.arange(1, weights.shape[1] + 1)
    figure = _figure(max(4.0, 1.5 + 0.3 * len(layers)))
    axes = figure.add_subplot()
    axes.bar(layers, mean[0], yerr=spread, label="attention")
    axes.bar(layers, mean[1], bottom=mean[0], label="cgMLP")
    axes.set(xlabel="layer", ylabel="weight", xticks=layers, ylim=(0, 1))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _drawn(figure)


def gates(probabilities: Tensor, *, threshold: float, across: str = "utterance") -> NDArray[np.uint8]:
    """Probabilities (n, N) that each of N blocks runs, for n utterances or chunks -> an image (height, width, 3).

    A gate that stays shut, below `threshold`, is crossed out.
    """
    image = probabilities.float().T.cpu().numpy()
    figure = _figure(min(20.0, 3.0 + 0.2 * image.shape[1]))
    axes = figure.add_subplot()
    shown = axes.imshow(image, origin="lower", aspect="auto", vmin=0, vmax=1, interpolation="none")
    block, column = (image < threshold).nonzero()
    axes.plot(column, block, "x", color="white", markersize=4)
    axes.set(xlabel=across, ylabel="block")
    figure.colorbar(shown, label="probability that it runs")
    return _drawn(figure)


def attention(weights: Tensor, pieces: Sequence[str]) -> NDArray[np.uint8]:
    """What each layer attends to (layers, S, U) while it says the S pieces of a text -> an image (height, width, 3)."""
    layers = len(weights)
    figure = _figure(min(20.0, 1.0 + 3.0 * layers), height=max(2.5, 1.2 + 0.16 * len(pieces)))
    columns = figure.subplots(1, layers, sharey=True, squeeze=False)[0]
    for number, (axes, image) in enumerate(zip(columns, weights.float().numpy(), strict=True), 1):
        axes.imshow(image, aspect="auto", vmin=0, interpolation="none", cmap="magma")
        axes.set(xlabel="frame", title=f"layer {number}")
    columns[0].set_yticks(range(len(pieces)), [_plain(piece) for piece in pieces], fontsize=7)
    return _drawn(figure)


def _plain(text: str) -> str:
    """A piece may hold characters that the font lacks, and "$" would start a formula."""
    return text.replace("$", r"\$").replace("▁", "_").encode("ascii", "replace").decode()


def _figure(width: float, height: float = 3.0) -> Any:
    """A figure of so many inches, on a canvas of its own."""
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Any) -> NDArray[np.uint8]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
