"""Transducer losses: the full lattice (Graves 2012), the pruned one (Kuang et al. 2022), and with durations (TDT).

The pruned loss in three steps, as a head uses them:

    simple, occupation = simple_loss(am, lm, tokens, token_lens, frame_lens, lm_scale=0.25)
    ranges = pruning_ranges(occupation, token_lens, frame_lens, width=5)
    pruned = joiner_pruned_loss(Joiner(encoder, predictor, weight, bias), tokens, ranges, token_lens, frame_lens)

Letters: B utterances, T frames, S tokens of the longest, R states kept a frame, V tokens with blank, J width of
the joiner, D durations. Blank is token 0. All losses are per utterance, (B,), minus a natural logarithm; one that has
no path (more tokens than frames in the modified topology, tokens but no frames) is infinite and has no gradient.
Padding of `tokens` beyond `token_lens` is ignored, whatever it holds. Wrong shapes and lengths raise ValueError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr.losses.fused import fused_logits_loss
from asr.losses.joiner import Activation, Joiner, joiner_loss
from asr.losses.lattice import Lattice, Occupation, Topology, lattice_loss
from asr.losses.simple import log_inner_product
from asr.losses.solver import Solver, arcs_loss, duration_solver, lattice_solver
from asr.native.library import available, plain

__all__ = [
    "Activation",
    "Joiner",
    "Occupation",
    "Topology",
    "full_loss",
    "gather_pruned",
    "joiner_full_loss",
    "joiner_pruned_loss",
    "joiner_tdt_loss",
    "pruned_loss",
    "pruning_ranges",
    "simple_loss",
    "tdt_loss",
]

BLANK = 0


def simple_loss(
    am: Tensor,
    lm: Tensor,
    tokens: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    lm_scale: float = 0.0,
    am_scale: float = 0.0,
    topology: Topology = "regular",
) -> tuple[Tensor, Occupation]:
    """The loss of a joiner that only adds: logits (t, s) are am[t] + lm[s]. Nothing of size T x S x V is made.

    am: (B, T, V), lm: (B, S + 1, V), tokens: (B, S). Smoothing (Kuang et al. 2022) mixes into the arcs'
    log-probabilities those of `lm` alone, by `lm_scale`, and those of `am` with the batch's mean of `lm`, by
    `am_scale`, which keeps either from taking over. Returns the losses and the arcs' occupation, which is all
    that `pruning_ranges` needs. Computed in float32, float64 where given.
    """
    am, lm = _at_least_float32(am), _at_least_float32(lm)
    batch, frames, size = am.shape
    _check(tokens, token_lens, frame_lens, batch=batch, frames=frames, states=lm.shape[1], size=size)
    with torch.autocast(am.device.type, enabled=False):
        symbol, blank = _simple_arcs(
            am, lm, _padded(tokens, token_lens, states=lm.shape[1]), lm_scale, am_scale
        )
    return lattice_loss(Lattice(symbol, blank, None, token_lens, frame_lens, topology))


def _simple_arcs(
    am: Tensor, lm: Tensor, tokens: Tensor, lm_scale: float, am_scale: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, S + 1) of each state's token and blank; tokens: (B, S + 1)."""
    joint = 1.0 - lm_scale - am_scale

    am_symbol = am.gather(2, tokens[:, None].expand(-1, am.shape[1], -1))  # (B, T, S + 1)
    lm_symbol = lm.gather(2, tokens[:, :, None]).transpose(1, 2)  # (B, 1, S + 1)
    am_blank, lm_blank = am[:, :, :1], lm[:, None, :, BLANK]
    normaliser = joint * log_inner_product(am, lm)
    symbol_bias, blank_bias = (joint + lm_scale) * lm_symbol, (joint + lm_scale) * lm_blank
    if lm_scale:
        lm_total = lm_scale * lm.logsumexp(2)[:, None]
        symbol_bias, blank_bias = symbol_bias - lm_total, blank_bias - lm_total
    if am_scale:
        mean = lm.softmax(2).mean((0, 1)) + torch.finfo(lm.dtype).tiny
        normaliser = normaliser + am_scale * torch.logsumexp(am + mean.log(), 2, keepdim=True)
        symbol_bias = symbol_bias + am_scale * mean.log()[tokens][:, None]
        blank_bias = blank_bias + am_scale * mean.log()[BLANK]
    symbol = (joint + am_scale) * am_symbol + symbol_bias - normaliser
    blank = (joint + am_scale) * am_blank + blank_bias - normaliser
    return symbol, blank


def pruning_ranges(
    occupation: Occupation,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    width: int,
    topology: Topology = "regular",
) -> Tensor:
    """Which `width` consecutive states each frame keeps: (B, T, R) int64, R = min(width, S + 1).

    The window with the most occupation whose paths do not come into it within the frame (Kuang et al.
    2022), then moved so that windows never go back, never leave a gap that paths could not cross, begin at
    0 and end at the last token.
    """
    if width < 2:
        raise ValueError(f"a width of {width}: to come from one token to the next takes 2 states a frame")
    symbol, blank = occupation
    frames, states = symbol.shape[1:]
    width = min(width, states)
    frame = torch.arange(frames, device=symbol.device)
    kept = blank.unfold(2, width, 1).sum(3)  # (B, T, S + 2 - R)
    kept[:, :, 1:] -= symbol[:, :, : states - width]
    begin = kept.argmax(2)
    last = (token_lens - width + 1).clamp(min=0)[:, None]
    begin = torch.where(frame < frame_lens[:, None] - 1, begin, last)
    begin = _lowest_ahead(begin)
    # How far one frame can come: a whole window but for the state that both share, or one token.
    reach = frame * (width - 1 if topology == "regular" else 1)
    begin = reach - _lowest_ahead(reach - begin).clamp(min=0)
    return begin[:, :, None] + torch.arange(width, device=begin.device)


def _lowest_ahead(x: Tensor) -> Tensor:
    return x.flip(1).cummin(1).values.flip(1) if x.shape[1] else x


def gather_pruned(encoder: Tensor, predictor: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that a joiner is to join: (B, T, J), (B, S + 1, J), (B, T, R) -> two of (B, T, R, J)."""
    batch, frames, width = ranges.shape
    index = ranges.clamp(max=predictor.shape[1] - 1).reshape(batch, -1, 1).expand(-1, -1, predictor.shape[2])
    return (
        encoder[:, :, None].expand(-1, -1, width, -1),
        predictor.gather(1, index).view(batch, frames, width, -1),
    )


def pruned_loss(
    logits: Tensor,
    tokens: Tensor,
    ranges: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    topology: Topology = "regular",
    fastemit: float = 0.0,
) -> Tensor:
    """The loss over the states that `ranges` (B, T, R) keeps, from any joiner's logits (B, T, R, V)."""
    logits = _at_least_float32(logits)
    batch, frames, width, size = logits.shape
    if ranges.shape != (batch, frames, width):
        raise ValueError(f"ranges of shape {tuple(ranges.shape)} for logits of shape {tuple(logits.shape)}")
    _check(tokens, token_lens, frame_lens, batch=batch, frames=frames, states=tokens.shape[1] + 1, size=size)
    token = _tokens_of_states(tokens, ranges, token_lens, frame_lens)
    solver = lattice_solver(ranges[:, :, 0], token_lens, frame_lens, topology, fastemit=fastemit)
    if available() and plain(logits):
        return fused_logits_loss(logits, token, solver)
    return arcs_loss(*_arcs(logits, token), None, solver)


def full_loss(
    logits: Tensor,
    tokens: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    topology: Topology = "regular",
    fastemit: float = 0.0,
) -> Tensor:
    """The loss over all states, from any joiner's logits (B, T, S + 1, V)."""
    ranges = _all_states(tokens, logits.shape[1])
    return pruned_loss(logits, tokens, ranges, token_lens, frame_lens, topology=topology, fastemit=fastemit)


def tdt_loss(
    logits: Tensor,
    duration_logits: Tensor,
    tokens: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    durations: tuple[int, ...],
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
) -> Tensor:
    """The token-and-duration loss (Xu et al. 2023; see `duration_solver`), from any joiner's logits.

    logits: (B, T, S + 1, V); duration_logits: (B, T, S + 1, D), of the frames that `durations` name.
    """
    logits, duration_logits = map(_at_least_float32, (logits, duration_logits))
    batch, frames, states, size = logits.shape
    _check(tokens, token_lens, frame_lens, batch=batch, frames=frames, states=states, size=size)
    _check_durations(durations, duration_logits.shape[-1])
    token = _tokens_of_states(tokens, _all_states(tokens, frames), token_lens, frame_lens)
    solver = duration_solver(durations, token_lens, frame_lens, sigma=sigma, omega=omega, fastemit=fastemit)
    return arcs_loss(*_arcs(logits, token), duration_logits.log_softmax(-1), solver)


def joiner_pruned_loss(
    joiner: Joiner,
    tokens: Tensor,
    ranges: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    topology: Topology = "regular",
    fastemit: float = 0.0,
    activation: Activation = "tanh",
) -> Tensor:
    """`pruned_loss` of a joiner, fused with it: no tensor of size B x T x R x J is made.

    States beyond an utterance's end cost nothing, and those that fewer than one path in ten million visits cost nothing
    in the backward pass.
    """
    if ranges.shape[:2] != joiner.encoder.shape[:2]:
        raise ValueError(
            f"ranges of shape {tuple(ranges.shape)} for an encoder of shape {tuple(joiner.encoder.shape)}"
        )
    solver = lattice_solver(ranges[:, :, 0], token_lens, frame_lens, topology, fastemit=fastemit)
    return _fused(joiner, tokens, ranges, token_lens, frame_lens, solver, activation, keep=True)


def joiner_full_loss(
    joiner: Joiner,
    tokens: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    topology: Topology = "regular",
    fastemit: float = 0.0,
    activation: Activation = "tanh",
) -> Tensor:
    """`full_loss` of a joiner, fused with it: logits exist for a block of states at a time, and once more in the
    backward pass for the states that paths visit."""
    ranges = _all_states(tokens, joiner.encoder.shape[1])
    solver = lattice_solver(None, token_lens, frame_lens, topology, fastemit=fastemit)
    return _fused(joiner, tokens, ranges, token_lens, frame_lens, solver, activation, keep=False)


def joiner_tdt_loss(
    joiner: Joiner,
    tokens: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    *,
    durations: tuple[int, ...],
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
    activation: Activation = "tanh",
) -> Tensor:
    """`tdt_loss` of a joiner with durations, fused with it as in `joiner_full_loss`."""
    _check_durations(durations, 0 if joiner.duration_weight is None else len(joiner.duration_weight))
    ranges = _all_states(tokens, joiner.encoder.shape[1])
    solver = duration_solver(durations, token_lens, frame_lens, sigma=sigma, omega=omega, fastemit=fastemit)
    return _fused(joiner, tokens, ranges, token_lens, frame_lens, solver, activation, keep=False)


def _fused(
    joiner: Joiner,
    tokens: Tensor,
    ranges: Tensor,
    token_lens: Tensor,
    frame_lens: Tensor,
    solver: Solver,
    activation: Activation,
    *,
    keep: bool,
) -> Tensor:
    joiner = Joiner._make(None if x is None else _at_least_float32(x) for x in joiner)
    if joiner.bias is None:
        joiner = joiner._replace(bias=joiner.weight.new_zeros(len(joiner.weight)))
    (batch, frames, _), states = joiner.encoder.shape, joiner.predictor.shape[1]
    _check(
        tokens,
        token_lens,
        frame_lens,
        batch=batch,
        frames=frames,
        states=states,
        size=len(joiner.weight),
    )
    token = _tokens_of_states(tokens, ranges, token_lens, frame_lens)
    with torch.autocast(joiner.encoder.device.type, enabled=False):
        return joiner_loss(joiner, token, ranges, solver, activation=activation, keep=keep)


def _arcs(logits: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, R) of each state's token and blank."""
    normaliser = logits.logsumexp(3)
    symbol = logits.gather(3, token.clamp(min=0)[..., None])[..., 0] - normaliser
    return symbol, logits[..., BLANK] - normaliser


def _all_states(tokens: Tensor, frames: int) -> Tensor:
    """(B, T, S + 1)."""
    return torch.arange(tokens.shape[1] + 1, device=tokens.device).expand(len(tokens), frames, -1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _padded(tokens: Tensor, token_lens: Tensor, *, states: int) -> Tensor:
    """Tokens (B, S) with valid numbers in the padding, one column longer: (B, S + 1)."""
    beyond = torch.arange(states, device=tokens.device) >= token_lens[:, None]
    return torch.nn.functional.pad(tokens, (0, 1)).masked_fill(beyond, BLANK)


def _tokens_of_states(tokens: Tensor, ranges: Tensor, token_lens: Tensor, frame_lens: Tensor) -> Tensor:
    """The token that each state (B, T, R) may give out; -1: none, all are out; -2: it is no state."""
    batch, frames, width = ranges.shape
    padded = torch.nn.functional.pad(tokens, (0, 1))
    index = ranges.clamp(0, tokens.shape[1]).reshape(batch, -1)
    token = padded.gather(1, index).view(batch, frames, width)
    token = token.masked_fill(ranges >= token_lens[:, None, None], -1)
    late = torch.arange(frames, device=ranges.device)[:, None] >= frame_lens[:, None, None]
    return token.masked_fill(late | (ranges > token_lens[:, None, None]) | (ranges < 0), -2)


def _check(
    tokens: Tensor, token_lens: Tensor, frame_lens: Tensor, *, batch: int, frames: int, states: int, size: int
) -> None:
    if tokens.shape != (batch, states - 1):
        raise ValueError(f"tokens of shape {tuple(tokens.shape)}, expected {(batch, states - 1)}")
    for name, lens, most in (("token_lens", token_lens, states - 1), ("frame_lens", frame_lens, frames)):
        if lens.shape != (batch,) or lens.dtype != torch.int64:
            raise ValueError(
                f"{name} must be int64 of shape {(batch,)}, not {lens.dtype} {tuple(lens.shape)}"
            )
        if batch and not 0 <= int(lens.min()) <= int(lens.max()) <= most:
            raise ValueError(
                f"{name} between {int(lens.min())} and {int(lens.max())}: must lie in 0 ... {most}"
            )
    real = tokens[torch.arange(states - 1, device=tokens.device) < token_lens[:, None]]
    if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < size:
        raise ValueError(
            f"tokens between {int(real.min())} and {int(real.max())}: must lie in 0 ... {size - 1}"
        )


def _check_durations(durations: tuple[int, ...], count: int) -> None:
    if len(durations) != count or min(durations, default=-1) < 0 or max(durations) < 1:
        raise ValueError(
            f"durations {durations} for {count} logits: give one of each, 0 or more, and not 0 alone"
        )
