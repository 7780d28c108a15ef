"""Pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import FRAMES_PER_SECOND

__all__ = ["gates", "merge_weights", "spectrogram"]


def spectrogram(
    features: Tensor, marks: Sequence[tuple[float, str]], *, title: str = ""
) -> NDArray[np.uint8]:
    """Log-mel features (T, F) with a line and a label at each (seconds, label) -> an image (height, width, 3)."""
    seconds = len(features) / FRAMES_PER_SECOND
    figure = _figure(max(6.0, 1.5 * seconds))
    axes = figure.add_subplot()
    image = features.T.numpy()
    axes.imshow(
        image, origin="lower", aspect="auto", extent=(0.0, seconds, 0.0, float(len(image))), cmap="magma"
    )
    for second, label in marks:
        axes.axvline(second, color="white", linewidth=0.6)
        # A piece may hold characters that the font lacks, and "$" would start a formula.
        shown = label.replace("$", r"\$").encode("ascii", "replace").decode()
        axes.text(second, len(image) * 0.97, shown, color="white", fontsize=7, rotation=90, va="top")
    axes.set_xlabel("seconds")
    axes.set_title(title.replace("$", r"\$").encode("ascii", "replace").decode()[:120], fontsize=8)
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


def _figure(width: float) -> Any:
    """A figure of so many inches, on a canvas of its own."""
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Any) -> NDArray[np.uint8]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
