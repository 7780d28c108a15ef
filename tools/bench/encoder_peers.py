"""The encoders of NeMo, ESPnet and icefall in the shapes and with the dropouts of ours, for `encoders.py`; those that
can be imported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["PEERS", "Peer"]

BINS = 80


class Peer:
    """`whole`: full context; (B, T, 80), (B,) -> the encoder's output. Streams where `stepper` says so."""

    streaming_left: int | None = None

    def __init__(self, module: Any) -> None:
        self.module = module.eval()

    def whole(self, x: Tensor, lens: Tensor) -> Tensor:
        y: Tensor = self.module(x, lens)[0]
        return y

    limited = whole
    """What a long recording goes through. A peer has nothing else for it."""

    def stepper(self, _batch: int, _milliseconds: int) -> Callable[[], object] | None:
        return None


class Nemo(Peer):
    """Streaming is another model at NeMo, causal and with layer norms."""

    def __init__(self, kind: str, streaming: bool, **shape: Any) -> None:
        from nemo.collections.asr import modules

        shape = {
            "feat_in": BINS,
            "ff_expansion_factor": 4,
            "xscaling": True,
            "dropout_att": 0.1,
            "pos_emb_max_len": 5000,
            **shape,
        }
        super().__init__(getattr(modules, kind)(**shape))
        self.causal = None
        if streaming:
            self.causal = modules.ConformerEncoder(
                **shape,
                causal_downsampling=True,
                conv_norm_type="layer_norm",
                conv_context_size="causal",
                att_context_style="chunked_limited",
                att_context_size=[64, 7],
            ).eval()

    def whole(self, x: Tensor, lens: Tensor) -> Tensor:
        y: Tensor = self.module(audio_signal=x.transpose(1, 2), length=lens)[0]
        return y

    limited = whole

    def stepper(self, batch: int, milliseconds: int) -> Callable[[], object] | None:
        encoder = self.causal
        if encoder is None:
            return None
        frame = 10 * encoder.subsampling_factor
        chunk, left = milliseconds // frame, LEFT_MS // frame
        encoder.att_context_size = [left, chunk - 1]
        encoder.setup_streaming_params(chunk_size=chunk, shift_size=chunk, left_chunks=left // chunk)
        c = encoder.streaming_cfg
        frames = c.chunk_size[1] + c.pre_encode_cache_size[1]
        x, lens = torch.randn(batch, BINS, frames), torch.full((batch,), frames)
        caches = encoder.get_initial_cache_state(batch_size=batch)

        def step() -> Any:
            nonlocal caches
            y, _, *caches = encoder.cache_aware_stream_step(
                processed_signal=x,
                processed_signal_length=lens,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=True,
            )
            return y

        for _ in range(left // chunk + 1):
            step()
        return step


class Icefall(Peer):
    """Zipformer and the embedding in front of it; its frames come at 50 Hz."""

    def __init__(self, layers: tuple[int, ...], dims: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        from subsampling import Conv2dSubsampling
        from zipformer import Zipformer2

        self.front = Conv2dSubsampling(in_channels=BINS, out_channels=dims[0]).eval()
        self.encoder = Zipformer2(
            output_downsampling_factor=2,
            downsampling_factor=(1, 2, 4, 8, 4, 2),
            encoder_dim=dims,
            num_encoder_layers=layers,
            encoder_unmasked_dim=tuple(min(192 if dim <= 256 else 256, dim) for dim in dims),
            query_head_dim=(32,),
            pos_head_dim=(4,),
            value_head_dim=(12,),
            pos_dim=48,
            num_heads=(4, 4, 4, 8, 4, 4),
            feedforward_dim=hidden,
            cnn_module_kernel=(31, 31, 15, 15, 15, 31),
            causal=True,
            chunk_size=(-1,),
            left_context_frames=(-1,),
        ).eval()
        super().__init__(torch.nn.ModuleList([self.front, self.encoder]))

    def whole(self, x: Tensor, lens: Tensor) -> Tensor:
        y, lens = self.front(x, lens)
        hidden = torch.arange(y.shape[1]) >= lens[:, None]
        y = self.encoder(y.transpose(0, 1), lens, hidden)[0]
        return y

    limited = whole

    def stepper(self, batch: int, milliseconds: int) -> Callable[[], object]:
        chunk, left = milliseconds // 20, LEFT_MS // 20
        frames = 2 * chunk + 13  # what the embedding sees beyond the chunk
        x, lens = torch.randn(batch, frames, BINS), torch.full((batch,), frames)
        hidden = torch.zeros(batch, left + chunk, dtype=torch.bool)
        self.encoder.chunk_size, self.encoder.left_context_frames = (chunk,), (left,)
        pad, states = self.front.get_init_states(batch), self.encoder.get_init_states(batch)

        def step() -> Any:
            self.encoder.chunk_size, self.encoder.left_context_frames = (chunk,), (left,)
            y, y_lens, _ = self.front.streaming_forward(x, lens, pad)
            found = self.encoder.streaming_forward(y.transpose(0, 1), y_lens, states, hidden)
            self.encoder.chunk_size, self.encoder.left_context_frames = (-1,), (-1,)
            return found

        return step


LEFT_MS = 2560


def _zipformer() -> Peer:
    return Icefall((2,) * 6, (192, 256, 256, 256, 256, 256), (512, 768, 768, 768, 768, 768))


def _zipformer_m() -> Peer:
    return Icefall((2, 2, 3, 4, 3, 2), (192, 256, 384, 512, 384, 256), (512, 768, 1024, 1536, 1024, 768))


def _conformer() -> Peer:
    shape = {"d_model": 256, "n_layers": 16, "n_heads": 4, "conv_kernel_size": 31}
    return Nemo("ConformerEncoder", True, subsampling="striding", subsampling_factor=4, **shape)


def _fast_conformer() -> Peer:
    shape = {
        "d_model": 256,
        "n_layers": 16,
        "n_heads": 4,
        "conv_kernel_size": 9,
        "subsampling_conv_channels": 256,
    }
    return Nemo("ConformerEncoder", True, subsampling="dw_striding", subsampling_factor=8, **shape)


def _squeezeformer() -> Peer:
    shape = {"d_model": 256, "n_layers": 16, "n_heads": 4, "conv_kernel_size": 31, "time_reduce_idx": 7}
    return Nemo("SqueezeformerEncoder", False, subsampling="dw_striding", subsampling_factor=4, **shape)


def _espnet(kind: Any, module: str, **shape: Any) -> Peer:
    from importlib import import_module

    kind = getattr(import_module(f"espnet2.asr.encoder.{module}"), kind)
    return Peer(kind(BINS, attention_dropout_rate=0.1, **shape))


def _branchformer() -> Peer:
    shape = {"output_size": 256, "num_blocks": 24, "attention_heads": 4, "cgmlp_linear_units": 2048}
    return _espnet("BranchformerEncoder", "branchformer_encoder", **shape, cgmlp_conv_kernel=31)


def _e_branchformer() -> Peer:
    shape = {"output_size": 256, "num_blocks": 12, "attention_heads": 4, "cgmlp_linear_units": 1024}
    more = {
        "linear_units": 1024,
        "cgmlp_conv_kernel": 31,
        "merge_conv_kernel": 31,
        "use_ffn": True,
        "macaron_ffn": True,
    }
    return _espnet("EBranchformerEncoder", "e_branchformer_encoder", **shape, **more)


def _espnet_conformer() -> Peer:
    shape = {
        "output_size": 256,
        "num_blocks": 16,
        "attention_heads": 4,
        "linear_units": 1024,
        "cnn_module_kernel": 31,
    }
    more = {"macaron_style": True, "use_cnn_module": True, "rel_pos_type": "latest"}
    types = {"pos_enc_layer_type": "rel_pos", "selfattention_layer_type": "rel_selfattn"}
    return _espnet("ConformerEncoder", "conformer_encoder", **shape, **more, **types)


PEERS: dict[str, Callable[[], Peer]] = {
    "zipformer (icefall)": _zipformer,
    "m_zipformer (icefall)": _zipformer_m,
    "conformer (NeMo)": _conformer,
    "conformer (ESPnet)": _espnet_conformer,
    "fast_conformer (NeMo)": _fast_conformer,
    "branchformer (ESPnet)": _branchformer,
    "e_branchformer (ESPnet)": _e_branchformer,
    "squeezeformer (NeMo)": _squeezeformer,
}
"""By the kind of ours that has the same shape. Where the project is absent: ImportError; too new: AttributeError."""

logging.disable(logging.WARNING)  # NeMo tells on import what it could do with other packages
