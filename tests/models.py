"""Small models with random weights that tests share."""

from __future__ import annotations

import torch

from asr.encoders import (
    BranchformerConfig,
    Chunk,
    ConformerConfig,
    DepthConfig,
    EBranchformerConfig,
    EncoderConfig,
    FastConformerConfig,
    SqueezeformerConfig,
    TransformerConfig,
    ZipformerConfig,
)
from asr.heads import AttentionConfig, TransducerConfig
from asr.heads.predictors import LabelEncoderConfig, LSTMConfig, PredictorConfig, StatelessConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "rill"]

CHUNKS = (Chunk(4, 8), Chunk(8, 16), Chunk(16, 64))
ENCODERS: dict[str, EncoderConfig] = {
    "zipformer": ZipformerConfig(
        layers=(1, 2, 1, 1, 1, 1),
        dims=(16, 24, 32, 40, 32, 24),
        feed_forward_dims=(24, 24, 32, 32, 32, 24),
        unmasked_dims=(16, 16, 16, 16, 16, 16),
        heads=(2, 2, 2, 4, 2, 2),
        kernels=(9, 31, 15, 15, 15, 31),
        query_dim=8,
        value_dim=4,
        embed_channels=(2, 4, 8),
        chunks=CHUNKS,
    ),
    "conformer": ConformerConfig(dim=16, layers=2, heads=2, kernel=7, chunks=CHUNKS),
    "fast_conformer": FastConformerConfig(
        dim=16, layers=2, heads=2, kernel=7, subsampling_channels=8, chunks=CHUNKS
    ),
    "branchformer": BranchformerConfig(
        dim=16, layers=2, heads=2, cgmlp_dim=40, kernel=7, merge="learned", chunks=CHUNKS
    ),
    "e_branchformer": EBranchformerConfig(
        dim=16, layers=2, heads=2, cgmlp_dim=40, feed_forward_dim=24, kernel=7, merge_kernel=5, chunks=CHUNKS
    ),
    "squeezeformer": SqueezeformerConfig(dim=16, layers=4, heads=2, kernel=7, chunks=CHUNKS),
    "transformer": TransformerConfig(
        dim=16, layers=2, heads=2, head_dim=4, feed_forward_dim=32, subsampling_channels=8, chunks=CHUNKS
    ),
    "dynamic depth": ConformerConfig(
        dim=16, layers=3, heads=2, kernel=7, chunks=CHUNKS, depth=DepthConfig(threshold=0.95)
    ),  # about half of the new gates are open
}
"""One small encoder of each kind, and more where a kind has another form."""


PREDICTORS: dict[str, PredictorConfig] = {
    "stateless": StatelessConfig(dim=16),
    "lstm": LSTMConfig(dim=12, layers=2, embedding=8),
    "transformer": LabelEncoderConfig(dim=16, layers=2, heads=2, head_dim=4, feed_forward_dim=24, left=2),
}
"""One small predictor of each kind."""


def small_model(kind: str = "zipformer", *, seed: int = 0, predictor: str = "stateless") -> Model:
    """A model whose heads talk: they are loud, and hear how a frame differs from the average one."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(TEXTS, kind="characters")
    transducer = TransducerConfig(predictor=PREDICTORS[predictor], joiner_dim=16)
    attention = AttentionConfig(layers=1, heads=2, feed_forward_dim=16, memory_frames=100)
    config = ModelConfig(encoder=ENCODERS[kind], transducer=transducer, attention=attention)
    model = Model(config, tokenizer).eval()
    with torch.no_grad():
        y, _ = model.encode(0.1 * torch.randn(4, 32_000), torch.full((4,), 32_000))
        for layer in (model.heads["transducer"].encoder_projection, model.heads["ctc"].output):
            layer.weight *= 10 / y.std((0, 1)).mean()
            layer.bias -= layer(y.mean((0, 1)))
        model.heads["transducer"].output.weight *= 10
        decoder = model.heads["attention"].decoder
        decoder.layers[0].cross_attention.project_memory.weight *= 10 / y.std((0, 1)).mean()
        decoder.output.weight *= 10
        tokens = torch.randint(tokenizer.size, (4, 1, 20), generator=torch.Generator().manual_seed(0))
        scores, _ = decoder(tokens, decoder.remember(y, torch.full((4,), y.shape[1])), decoder.begin(4, 1))
        decoder.output.bias -= scores.mean((0, 1, 2))
        decoder.output.bias[0] -= 10  # texts of some length
    return model
