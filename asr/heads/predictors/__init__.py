"""Predictors: the tokens so far -> what the joiner is told of them. `build` makes what a configuration says."""

from __future__ import annotations

from asr.heads.predictors.base import Predictor
from asr.heads.predictors.label_encoder import LabelEncoder, LabelEncoderConfig
from asr.heads.predictors.lstm import LSTMConfig, LSTMPredictor
from asr.heads.predictors.stateless import StatelessConfig, StatelessPredictor

__all__ = [
    "LSTMConfig",
    "LSTMPredictor",
    "LabelEncoder",
    "LabelEncoderConfig",
    "Predictor",
    "PredictorConfig",
    "StatelessConfig",
    "StatelessPredictor",
    "build",
]

PredictorConfig = StatelessConfig | LSTMConfig | LabelEncoderConfig


def build(config: PredictorConfig, vocabulary: int) -> StatelessPredictor | LSTMPredictor | LabelEncoder:
    """The predictor of a configuration, for a vocabulary with the blank."""
    match config:
        case StatelessConfig():
            return StatelessPredictor(config, vocabulary)
        case LSTMConfig():
            return LSTMPredictor(config, vocabulary)
        case LabelEncoderConfig():
            return LabelEncoder(config, vocabulary)
