"""Recorded importance to an order of layers, and where to cut it.

A ranking is made once, by a preliminary fine-tuning on some task (Sec. 3.4, offline phase): the layers in order of
execution with the LaRa (paper eq. 9) and the layer RGN (paper eq. 8) that they gathered over the epochs. It is kept as
one JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from .costs import Layer
from .errors import InputError, choose
from .files.paths import write_json

ORDERS = {"lara": "by LaRa, paper eq. 9", "rgn": "by layer RGN, paper eq. 8 (the paper's Prev)"}
ALPHA_OPT = 0.2  # Sec. 4.2
RGN_SHARE = 0.98  # gives TraDy's K for all three CNNs; the paper's text says 97 %


@dataclass(frozen=True)
class Ranking:
    """LaRa and layer RGN per layer, accumulated over a preliminary fine-tuning."""

    network: str
    name: str
    layers: tuple[str, ...]
    lara: tuple[float, ...]
    layer_rgn: tuple[float, ...]
    task: str | None = None
    source: str = ""

    def values(self, order: str) -> tuple[float, ...]:
        """The metric behind an order, layer by layer in order of execution."""
        choose(order, ORDERS, "layer order")
        return self.lara if order == "lara" else self.layer_rgn

    def order(self, order: str) -> tuple[str, ...]:
        """Layer names, the most important first; equal values keep the order of execution."""
        values = dict(zip(self.layers, self.values(order)))
        return tuple(sorted(self.layers, key=lambda name: -values[name]))

    @property
    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it is written to disk."""
        return {key: getattr(self, key) for key in ("network", "name", "task", "source")} | asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the ranking to a JSON file, whole or not at all. :class:`InputError` where it cannot be written."""
        try:
            write_json(Path(path), self.as_dict)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write ranking {str(path)!r} ({error})") from error
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Ranking:
        """The ranking that :meth:`save` wrote. :class:`InputError` names a file that is missing or damaged."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            for key in ("lara", "layer_rgn"):
                if len(data[key]) != len(data["layers"]):
                    raise ValueError(f"{len(data[key])} values of {key!r} for {len(data['layers'])} layers")
                data[key] = tuple(map(float, data[key]))
            known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
            return cls(**{**known, "layers": tuple(data["layers"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"ranking {path} cannot be read ({error}); remove it or record it anew") from error

    def check(self, layers: Sequence[Layer]) -> None:
        """Refuse a ranking of other layers than the model's."""
        for key, values in (("LaRa", self.lara), ("layer RGN", self.layer_rgn)):
            for name, value in zip(self.layers, values):
                if isinstance(value, str) or not isfinite(value) or value < 0:
                    raise InputError(
                        f"ranking {self.name!r} of {self.network!r} has {value!r} as {key} of layer {name!r}; allowed: "
                        "finite values of at least 0, of a training without infinite or missing inputs"
                    )
        missing = sorted({layer.name for layer in layers} - set(self.layers))
        if missing:
            raise InputError(
                f"ranking {self.name!r} of {self.network!r} does not know layer {missing[0]!r}; "
                f"it knows {', '.join(self.layers[:3])}, .. ({len(self.layers)} layers)"
            )


def smallest_k(costs: Sequence[int], budget: int, alpha: float = ALPHA_OPT) -> int:
    """K by Algorithm 1, line 1: the smallest with alpha_K = B / M_K <= alpha (paper eq. 10).

    ``costs`` are the layers' search costs in ranked order. Where even all layers leave alpha_K above ``alpha``, K is
    all of them.
    """
    total = 0
    for k, cost in enumerate(costs, start=1):
        total += cost
        if budget <= alpha * total:
            return k
    return len(costs)


def share_k(values: Sequence[float], share: float = RGN_SHARE) -> int:
    """K by cumulated importance: the largest whose sum stays below ``share`` of the whole; at least 1.

    TraDy's fixed K. With 98 % TraDy's own norms give the 35, 27 and 43 layers of its three networks; rankings that were
    recorded here give 36, 28 and 45 or 46.
    """
    ranked = sorted(values, reverse=True)
    total, running, k = sum(ranked), 0.0, 0
    for value in ranked:
        running += value
        if running >= share * total:
            break
        k += 1
    return max(k, 1)
