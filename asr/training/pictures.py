"""Pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import FRAMES_PER_SECOND

__all__ = ["spectrogram"]


def spectrogram(
    features: Tensor, marks: Sequence[tuple[float, str]], *, title: str = ""
) -> NDArray[np.uint8]:
    """Log-mel features (T, F) with a line and a label at each (seconds, label) -> an image (height, width, 3)."""
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = len(features) / FRAMES_PER_SECOND
    figure = Figure(figsize=(max(6.0, 1.5 * seconds), 3.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
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
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
