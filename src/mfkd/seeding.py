"""All randomness of a run, as pure functions of three seeds.

`split_seed` decides which images are used and held out, `view_seed` augments an image (by view and
source row), `seed` does everything else: weights, order, mixing, dropout. Nothing depends on how
many numbers were drawn before, so workers, restarts and process counts change nothing.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = (1 << 63) - 1


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every key, and on nothing else."""
    text = "/".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") & _MASK


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """A fresh CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *keys))


@contextmanager
def seeded(seed: int, *keys: str | int) -> Iterator[None]:
    """Run a block with torch's global generators set from the keys, and restore them after."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *keys))
        yield


def uniform(seed: int, view: int, index: Tensor, draws: int, purpose: str) -> Tensor:
    """Uniform numbers in [0, 1) that depend on (seed, view, source row) alone.

    A counter-based generator (the splitmix64 finaliser), so a batch is drawn in one go on any
    device and each image gets the same numbers in whatever batch it stands.

    Args:
        seed: the view_seed.
        view: number of the augmented view.
        index: (B,) int64 source rows.
        draws: numbers an image.
        purpose: keeps the draws of different transforms apart.

    Returns:
        (B, draws) float32 on the device of `index`.
    """
    key = derive(seed, purpose, view)
    counter = index.long()[:, None] * 64 + torch.arange(draws, device=index.device)[None]
    mixed = _splitmix(counter + _signed(key))
    return (_shift(mixed, 40)).to(torch.float32) / float(1 << 24)


def _splitmix(state: Tensor) -> Tensor:
    state = state * _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift(state, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own shift keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
