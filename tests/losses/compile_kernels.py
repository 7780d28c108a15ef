"""Compiles the Triton kernels for a GPU, which need not be there: names those that came out. Run by test_compile_kernels."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from asr.losses.durations_gpu import _durations
from asr.losses.lattice_gpu import _lattice

TENSORS = {
    "symbol": "*fp32",
    "blank": "*fp32",
    "duration": "*fp32",
    "symbol_flow": "*fp32",
    "blank_flow": "*fp32",
}
TENSORS |= dict.fromkeys(("alpha", "beta", "scores"), "*fp64")
TENSORS |= dict.fromkeys(("begin", "token_lens", "frame_lens", "lengths"), "*i64")
TENSORS |= dict.fromkeys(("frames_most", "states"), "i32")


def compiled(kernel: Any, **constants: Any) -> None:
    signature = {name: TENSORS.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert result.asm["cubin"]
    print(kernel.__name__, *constants.values())


if __name__ == "__main__":
    for banded in (False, True):
        for modified in (False, True):
            compiled(_lattice, BANDED=banded, MODIFIED=modified, BLOCK=8 if banded else 64)
    for block in (1, 64):
        compiled(_durations, COUNT=5, BLOCK=block)
