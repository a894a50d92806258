"""Random numbers that depend on where in the run one is, never on how one got there.

Every generator is seeded anew from (seed, purpose, index) before it is used. So a resumed run, a
run with other loader workers and an uninterrupted run draw the same numbers, and a checkpoint has
no generator states to carry.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, *indices: int) -> int:
    """A 64-bit seed for one purpose and place; neighbours share nothing (BLAKE2b)."""
    text = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, the GPUs' included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with the CPU generators seeded, then put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
