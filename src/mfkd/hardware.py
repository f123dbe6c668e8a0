"""What the machine computes fast, and how its cores are shared."""

import os
from functools import cache

SPIN = "10000"
"""Looks of an OpenMP thread for the next piece of work before it sleeps; the library's own number is 30 times that."""


def share_cores() -> None:
    """Let threads that wait for work go to sleep soon, unless the user has said otherwise; before torch is loaded.

    Where another program wants the cores too, a thread that looks for long keeps the one from them that has the work.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read once, when torch is loaded


@cache
def fast_bf16() -> bool:
    """Whether bfloat16 is computed by the hardware, on the device that mfkd trains on; elsewhere it is emulated.

    True on CUDA devices from Ampere on, and on processors with AVX512-BF16 or AMX.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def remarks(precision: str) -> list[str]:
    """What the user should know of a precision on this machine, in sentences."""
    if precision != "bf16" or fast_bf16():
        return []
    return [
        "train.precision is bf16, which this machine has no instructions for and computes several times slower than "
        "fp32; train.precision=auto takes fp32 here."
    ]
