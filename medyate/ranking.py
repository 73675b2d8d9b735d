"""Recorded importance to an order of layers, and where to cut it.

A ranking is made once, by a preliminary fine-tuning on some task (Sec. 3.4, offline phase), and is
kept as one JSON file in ``results/rankings``, named ``NETWORK.NAME.json``: the layers in order of
execution with the LaRa (eq. 9) and the layer RGN (eq. 8) that they gathered over the epochs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from . import storage
from .costs import Layer
from .errors import InputError, choose

ORDERS = {"lara": "by LaRa, eq. 9", "rgn": "by layer RGN, eq. 8 (the paper's Prev)"}
ALPHA_OPT = 0.2  # Sec. 4.2
RGN_SHARE = 0.98  # gives TraDy's K for all three CNNs; the paper's text says 97 %
# which shipped ranking a run takes by itself: the first of these that is not its own task
PREFERRED = ("flowers12", "food10", "cub50", "cifar10")


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

    @cached_property
    def as_dict(self) -> dict:
        """Plain data, as it is written to disk."""
        return {
            "network": self.network, "name": self.name, "task": self.task, "source": self.source,
            "layers": list(self.layers), "lara": list(self.lara), "layer_rgn": list(self.layer_rgn),
        }  # fmt: skip

    def check(self, layers: Sequence[Layer]) -> None:
        """Refuse a ranking of other layers than the model's."""
        missing = sorted({layer.name for layer in layers} - set(self.layers))
        if missing:
            raise InputError(
                f"ranking {self.name!r} of {self.network!r} does not know layer {missing[0]!r}; "
                f"it knows {', '.join(self.layers[:3])}, .. ({len(self.layers)} layers)"
            )


def smallest_k(costs: Sequence[int], budget: int, alpha: float = ALPHA_OPT) -> int:
    """K by Algorithm 1, line 1: the smallest with alpha_K = B / M_K <= alpha (eq. 10).

    ``costs`` are the layers' search costs in ranked order. Where even all layers leave alpha_K
    above ``alpha``, K is all of them.
    """
    total = 0
    for k, cost in enumerate(costs, start=1):
        total += cost
        if budget <= alpha * total:
            return k
    return len(costs)


def share_k(values: Sequence[float], share: float = RGN_SHARE) -> int:
    """K by cumulated importance: the largest whose sum stays below ``share`` of the whole; at least 1.

    TraDy's fixed K. With 98 % this gives the 35, 27 and 43 layers of its three networks.
    """
    ranked = sorted(values, reverse=True)
    total, running, k = sum(ranked), 0.0, 0
    for value in ranked:
        running += value
        if running >= share * total:
            break
        k += 1
    return max(k, 1)


def names(network: str) -> list[str]:
    """The rankings that are there for a network: shipped ones and one's own."""
    found = set()
    for folder in storage.folders("rankings"):
        found |= {path.name[len(network) + 1 : -len(".json")] for path in folder.glob(f"{network}.*.json")}
    return sorted(found)


def load(network: str, name: str) -> Ranking:
    """The ranking of that name. :class:`InputError` lists what there is, or names a damaged file."""
    for folder in storage.folders("rankings"):
        path = folder / f"{network}.{name}.json"
        if path.is_file():
            try:
                data = json.loads(path.read_text())
                for key in ("lara", "layer_rgn"):
                    if len(data[key]) != len(data["layers"]):
                        raise ValueError(f"{len(data[key])} values of {key!r} for {len(data['layers'])} layers")
                return Ranking(
                    network=data["network"], name=data["name"], task=data.get("task"),
                    source=data.get("source", ""), layers=tuple(data["layers"]),
                    lara=tuple(map(float, data["lara"])), layer_rgn=tuple(map(float, data["layer_rgn"])),
                )  # fmt: skip
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"ranking {path} cannot be read ({error}); remove it or record it anew") from error
    allowed = names(network)
    hint = ", ".join(allowed) if allowed else f"none yet; record one: medyate rank {network} --task TASK (transformers: --learning-rate 0.05)"
    raise InputError(f"unknown ranking {name!r} of {network!r}; allowed: {hint}")


def save(ranking: Ranking) -> str:
    """Write a ranking beside one's own records; returns the path."""
    path = storage.writable("rankings") / f"{ranking.network}.{ranking.name}.json"
    storage.write_json(path, ranking.as_dict)
    return str(path)


def automatic(network: str, task: str) -> str:
    """The ranking that a run takes by itself: recorded on *another* task than its own.

    Shipped rankings come before one's own, so that recording one does not change later runs; of
    them the first task of ``PREFERRED`` that is not ``task``. With nothing else at hand, the
    task's own.
    """
    if not names(network):
        load(network, "auto")  # raises the error that says how to record one

    def preference(name: str) -> tuple:
        found = load(network, name)
        is_shipped = bool(storage.shipped()) and (storage.shipped() / "rankings" / f"{network}.{name}.json").is_file()
        known = PREFERRED.index(found.task) if found.task in PREFERRED else len(PREFERRED)
        return found.task == task, not is_shipped, known, name

    return min(names(network), key=preference)
