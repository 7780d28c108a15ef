"""Models for other runtimes: ONNX, and an encoder that ONNX Runtime steps."""

from __future__ import annotations

from asr.export.onnx import export
from asr.export.onnx_encoder import OnnxEncoder, with_onnx_runtime

__all__ = ["OnnxEncoder", "export", "with_onnx_runtime"]
