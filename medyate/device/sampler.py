"""The device's generator and sampler in Python, draw for draw: what select.c does, in the same float32 steps.

The library's own sampler (:mod:`medyate.sampling`) draws from torch's generator and, in the rare case that
skipping leaves more than 1 % of a budget unused, exchanges the latest draws. The device's does neither, so that
it stays small; both hold the same hard bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError

_F = np.float32


class Generator:
    """PCG32 (O'Neill, 2014), as ``md_start`` seeds it: 64 bits of state, 32 bits a draw."""

    def __init__(self, seed: int = 0):
        self.state = seed
        self.draw()

    def draw(self) -> int:
        """32 random bits."""
        old = self.state
        self.state = (old * 6364136223846793005 + 1442695040888963407) % 2**64
        shifted, turn = (((old >> 18) ^ old) >> 27) % 2**32, old >> 59
        return ((shifted >> turn) | (shifted << (32 - turn) % 32)) % 2**32

    def unit(self) -> np.float32:
        """Within (0, 1], a multiple of 2^-24."""
        return _F((self.draw() >> 8) + 1) * _F(2.0**-24)


def log(x: np.float32) -> np.float32:
    """``md_log``: the natural logarithm of a normal float above 0, in float32 steps."""
    bits = int(np.float32(x).view(np.uint32))
    k = (bits >> 23) - 127
    m = np.uint32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    if m > _F(1.41421356):
        m, k = m * _F(0.5), k + 1
    s = (m - _F(1)) / (m + _F(1))
    q = s * s
    y = _F(1) / _F(9)
    for divisor in (7, 5, 3, 1):
        y = y * q + _F(1) / _F(divisor)
    return _F(k) * _F(0.693147181) + _F(2) * s * y


def sample(weights: Sequence[float] | None, costs: Sequence[int], budget: int, generator: Generator) -> list[int]:
    """``md_sample``: channels drawn in proportion to ``weights`` (None: alike) until the budget is met.

    ``costs`` are elements a channel. The result is in ascending order, and its costs never add up to more than
    ``budget``. Raises :class:`InputError` for negative weights or ones that are not finite.
    """
    given = None if weights is None else np.asarray(weights, dtype=np.float32)
    if given is not None and (len(given) != len(costs) or not np.isfinite(given).all() or (given < 0).any()):
        raise InputError("sampling weights must be finite numbers that are not negative, one a channel")
    largest = _F(0) if given is None or not len(given) else given.max()
    keys = []
    for i in range(len(costs)):
        unit = generator.unit()
        clock = -log(unit)
        if largest > 0:
            if given[i] > 0:
                clock = clock / max(given[i] / largest, _F(1e-30))
            else:
                clock = _F(2e37) + unit * _F(1e37)
        keys.append(clock)
    used, taken = 0, []
    for i in sorted(range(len(costs)), key=lambda i: (keys[i], i)):
        if used + costs[i] <= budget:
            used += costs[i]
            taken.append(i)
    return sorted(taken)


def remember(norms: np.ndarray | None, chosen: Sequence[int], seen: Sequence[float], channels: int) -> np.ndarray:
    """``md_norms_seen``, lines 6 to 10 of Algorithm 1: N over the search space, (channels,) float32.

    ``seen`` are the norms of the ``chosen`` channels' last gradients. ``norms`` None is the first epoch, after
    which every channel that was not chosen has the largest of them.
    """
    seen = np.asarray(seen, dtype=np.float32)
    known = np.full(channels, seen.max(initial=0), dtype=np.float32) if norms is None else norms.copy()
    known[list(chosen)] = seen
    return known
