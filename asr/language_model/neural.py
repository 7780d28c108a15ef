"""Neural language models over a model's tokens: an LSTM, or a Transformer that sees a limited number of them.

They are what a transducer's predictor is, with a layer that says how likely each next token is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from asr import bundle_files as files_of
from asr.heads.predictors import LabelEncoderConfig, LSTMConfig, build
from asr.search.emission import BLANK
from asr.search.prediction import Prediction
from asr.state import map_tree
from asr.tokenizer import Kind, Tokenizer

__all__ = ["NeuralConfig", "NeuralLM"]

NeuralConfig = LSTMConfig | LabelEncoderConfig


@dataclass(frozen=True, kw_only=True)
class Description:
    """What config.yaml of such a bundle holds."""

    kind: Literal["language_model"] = "language_model"
    model: NeuralConfig
    tokenizer: Kind


class NeuralLM(nn.Module):
    """The next of V tokens, after N texts of S. Token 0, which no text has, is a text's begin, and its end as well."""

    def __init__(self, config: NeuralConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.predictor = build(config, tokenizer.size)
        self.output = nn.Linear(self.predictor.dim, tokenizer.size)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, S) -> natural log-probabilities (N, S + 1, V) of what follows the begin and each token."""
        return self._likely(self.predictor(tokens))

    def loss(self, tokens: Tensor, lens: Tensor) -> Tensor:
        """(N, S), (N,) -> minus the log-probability of each text and its end, (N,)."""
        place = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        target = nn.functional.pad(tokens, (0, 1)).masked_fill(place >= lens[:, None], BLANK)
        said = self(tokens).gather(2, target[..., None])[..., 0]
        return -said.masked_fill(place > lens[:, None], 0.0).sum(dim=1)

    def predict(self, token: Tensor, state: object) -> Prediction:
        """The tokens (N,) that have come and the predictor's state -> log-probabilities (N, V) of the next."""
        output, state = self.predictor.step(token, state)  # type: ignore[arg-type]
        return Prediction(self._likely(output), state)

    @torch.no_grad()
    def start(self, batch: int, count: int) -> Prediction:
        """Of B streams with `count` hypotheses each, that have said nothing: leaves (B, count, ...)."""
        one = torch.full((1,), BLANK, dtype=torch.int64, device=self.output.weight.device)
        nothing = self.predict(one, self.predictor.init_state(1))
        return map_tree(lambda x: x[:, None].repeat(batch, count, *[1] * (x.dim() - 1)), nothing)

    def save(self, path: str | Path, *, card: str = "") -> Path:
        """Write a bundle of its own kind, which `--lm` takes."""
        description = Description(model=self.config, tokenizer=self.tokenizer.kind)
        return files_of.write(Path(path), self, description, card=card)

    @staticmethod
    def load(path: str | Path, *, device: str | torch.device = "cpu") -> NeuralLM:
        """Ready to be asked, with no gradients. Raises BundleError: no bundle of a language model, or a damaged one."""
        path = Path(path)
        files = files_of.read(path)
        found = files_of.describe(Description, files, path)
        model = NeuralLM(found.model, files_of.tokenizer(found.tokenizer, files, path))
        files_of.fill(model, files_of.weights(files, path), path)
        return model.to(device).eval().requires_grad_(False)

    def _likely(self, output: Tensor) -> Tensor:
        logits: Tensor = self.output(output)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
