"""icefall's Zipformer checkpoints (egs/*/ASR/zipformer: transducer, CTC or both) -> Rill's model.

The shape of the network is read from the shapes of its tensors. Only the size of a head's position query cannot be
told from them; it is 4 in all of icefall's recipes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from asr.convert.files import read_tensors
from asr.convert.place import Converted, Rule, place
from asr.encoders import ZipformerConfig
from asr.errors import BundleError
from asr.heads import CTCConfig, TransducerConfig
from asr.heads.predictors import StatelessConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer

__all__ = ["convert", "read", "read_tensors"]

# icefall's name -> ours, applied in this order; a layer's own `bypass_scale` has no part in its computation.
NAMES: tuple[Rule, ...] = (
    (r"^encoder_embed\.conv\.0\.", "encoder.embed.convolution1."),
    (r"^encoder_embed\.conv\.4\.", "encoder.embed.convolution2."),
    (r"^encoder_embed\.conv\.7\.", "encoder.embed.convolution3."),
    (r"^encoder_embed\.convnext\.depthwise_conv\.", "encoder.embed.convnext.depthwise."),
    (r"^encoder_embed\.convnext\.pointwise_conv1\.", "encoder.embed.convnext.pointwise_in."),
    (r"^encoder_embed\.convnext\.pointwise_conv2\.", "encoder.embed.convnext.pointwise_out."),
    (r"^encoder_embed\.out_norm\.", "encoder.embed.norm."),
    (r"^encoder_embed\.out\.", "encoder.embed.project."),
    (r"^encoder\.downsample_output\.", "encoder.downsample."),
    (r"^encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.", r"encoder.stacks.\1.blocks.\2."),
    (r"^encoder\.encoders\.(\d+)\.downsample\.", r"encoder.stacks.\1.downsample."),
    (r"^encoder\.encoders\.(\d+)\.out_combiner\.bypass_scale", r"encoder.stacks.\1.bypass.scale"),
    (r"\.bypass_mid\.bypass_scale", ".bypass_middle.scale"),
    (r"\.bypass\.bypass_scale", ".bypass.scale"),
    (r"\.self_attn_weights\.in_proj\.", ".weights.project."),
    (r"\.self_attn_weights\.linear_pos\.", ".weights.project_positions."),
    (r"\.self_attn([12])\.", r".attention\1."),
    (r"\.nonlin_attention\.", ".nonlinear_attention."),
    (r"\.conv_module([12])\.", r".convolution\1."),
    (r"\.depthwise_conv\.causal_conv\.", ".past."),
    (r"\.depthwise_conv\.chunkwise_conv\.", ".chunkwise."),
    (r"\.depthwise_conv\.chunkwise_conv_scale", ".edge_scale"),
    (r"(convolution[12])\.depthwise_conv\.", r"\1.chunkwise."),
    (r"\.in_proj\.", ".project_in."),
    (r"\.out_proj\.", ".project_out."),
    (r"^decoder\.embedding\.", "heads.transducer.predictor.embedding."),
    (r"^decoder\.conv\.", "heads.transducer.predictor.convolution."),
    (r"^joiner\.encoder_proj\.", "heads.transducer.encoder_projection."),
    (r"^joiner\.decoder_proj\.", "heads.transducer.predictor_projection."),
    (r"^joiner\.output_linear\.", "heads.transducer.output."),
    (r"^simple_am_proj\.", "heads.transducer.simple_encoder."),
    (r"^simple_lm_proj\.", "heads.transducer.simple_predictor."),
    (r"^ctc_output\.1\.", "heads.ctc.output."),
)


def read(path: str | Path, tokenizer: str | Path | None = None) -> Converted:
    """The model of a `pretrained.pt` or `epoch-N.pt`, which says nothing about its tokenizer."""
    if tokenizer is None:
        raise BundleError(
            f"{path}: icefall's checkpoints do not say where their tokenizer is; give --tokenizer"
        )
    return convert(read_tensors(path), Tokenizer.from_bytes("unigram", Path(tokenizer).read_bytes()))


def convert(
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    position_head_dim: int = 4,
    downsampling: tuple[int, ...] = (),
) -> Converted:
    """A model with these weights.

    Raises:
        BundleError: tensors are missing, or the tokenizer has another number of tokens.
    """
    model = Model(_config(tensors, position_head_dim, downsampling), tokenizer)
    return Converted(model.eval(), place(tensors, NAMES, model))


def _config(
    tensors: Mapping[str, Tensor], position_head_dim: int, downsampling: tuple[int, ...]
) -> ModelConfig:
    def size(name: str, axis: int = 0) -> int:
        if name not in tensors:
            raise BundleError(f"the checkpoint has no {name}: it is not a Zipformer of icefall's")
        return tensors[name].shape[axis]

    stacks: dict[int, set[int]] = {}
    for name in tensors:
        if found := re.match(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.", name):
            stacks.setdefault(int(found[1]), set()).add(int(found[2]))
    if not stacks:
        raise BundleError("the checkpoint has no encoder.encoders: it is not a Zipformer of icefall's")
    first, factors = [], []
    for i in sorted(stacks):
        slow = f"encoder.encoders.{i}.downsample.bias"
        factors.append(size(slow) if slow in tensors else 1)
        first.append(f"encoder.encoders.{i}.{'encoder.' if slow in tensors else ''}layers.0.")
    heads = [size(f"{p}self_attn_weights.linear_pos.weight") // position_head_dim for p in first]
    queries = size(f"{first[0]}self_attn_weights.in_proj.weight") // heads[0] - position_head_dim
    causal = f"{first[0]}conv_module1.depthwise_conv.chunkwise_conv.weight" in tensors
    kernel = "chunkwise_conv.weight" if causal else "weight"
    dims = tuple(size(f"{p}norm.bias") for p in first)
    convolution = "encoder_embed.conv.{}.weight"
    encoder = ZipformerConfig(
        layers=tuple(len(stacks[i]) for i in sorted(stacks)),
        dims=dims,
        unmasked_dims=tuple(dim * 2 // 3 for dim in dims),
        feed_forward_dims=tuple(size(f"{p}feed_forward2.in_proj.weight") for p in first),
        downsampling=downsampling or tuple(factors),
        heads=tuple(heads),
        kernels=tuple(size(f"{p}conv_module1.depthwise_conv.{kernel}", 2) for p in first),
        query_dim=queries // 2,
        value_dim=size(f"{first[0]}self_attn1.in_proj.weight") // heads[0],
        position_head_dim=position_head_dim,
        position_dim=size(f"{first[0]}self_attn_weights.linear_pos.weight", 1),
        embed_channels=(
            size(convolution.format(0)),
            size(convolution.format(4)),
            size(convolution.format(7)),
        ),
        causal=causal,
    )
    transducer = None
    if "joiner.output_linear.weight" in tensors:
        transducer = TransducerConfig(
            predictor=StatelessConfig(
                dim=size("decoder.embedding.weight", 1),
                context=size("decoder.conv.weight", 2) if "decoder.conv.weight" in tensors else 1,
            ),
            joiner_dim=size("joiner.output_linear.weight", 1),
        )
    ctc = CTCConfig() if "ctc_output.1.weight" in tensors else None
    return ModelConfig(encoder=encoder, transducer=transducer, ctc=ctc)
