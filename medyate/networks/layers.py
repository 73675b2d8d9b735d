"""A registered network as its list of layers.

Those of the registered networks as the paper counts them are kept in ``layers.json``, so that to price a budget, to
list a sweep or to draw a figure does not take the seconds that torch takes to import. ``python -c "from
medyate.networks import layers; layers.write()"`` writes the file from walks over the networks. An architecture that has
changed since, another resolution, folded layers and another cost of depthwise channels are walked.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

from ..costs import DEPTHWISE, Layer
from ..errors import choose
from .registry import FOLDED, NETWORKS, Network, get

KEPT = Path(__file__).with_name("layers.json")
_FIELDS = [field.name for field in dataclasses.fields(Layer)]


def backbone(
    name: str, weights: str = "random", resolution: int | None = None, depthwise: str = "eq4"
) -> tuple[Layer, ...]:
    """The network's layers without its classifier, in order of execution; walked at most once per process.

    No file is needed. ``weights`` is the source that is meant, since folded networks ("imagenet-int8") have other
    layers; ``resolution`` None is the network's own. Raises :class:`InputError` for what is not known.
    """
    network = get(name)
    choose(weights, network.sources, f"weights of {network.name}")
    choose(depthwise, DEPTHWISE, "depthwise cost")
    return _layers(network.name, weights == FOLDED, network.input_shape(resolution), depthwise)


@functools.cache
def _layers(name: str, folded: bool, input_shape: tuple[int, ...], depthwise: str) -> tuple[Layer, ...]:
    network = NETWORKS[name]
    if not folded and input_shape == network.input_shape() and depthwise == "eq4":
        kept = _kept().get(name)
        if kept is not None and kept["architecture"] == repr(network.architecture):
            return tuple(_layer(values) for values in kept["layers"])
    return walked(network, folded, input_shape, depthwise)


def walked(network: Network, folded: bool, input_shape: tuple[int, ...], depthwise: str = "eq4") -> tuple[Layer, ...]:
    """The layers by a walk over the network's shapes (:func:`medyate.costs.layers`)."""
    from .. import costs
    from .models import shapes

    return costs.layers(shapes(network.architecture, folded), input_shape, depthwise=depthwise)


@functools.cache
def _kept() -> dict[str, dict]:
    return json.loads(KEPT.read_text("utf-8"))


def _layer(values: list) -> Layer:
    named = dict(zip(_FIELDS, values))
    return Layer(**named | {"kernel": tuple(named["kernel"])})


def write() -> Path:
    """Walk every registered network, as the paper counts it, and write ``layers.json``."""
    entries = []
    for network in NETWORKS.values():
        layers = [
            json.dumps([getattr(layer, name) for name in _FIELDS])
            for layer in walked(network, False, network.input_shape())
        ]
        entries.append(
            f'{json.dumps(network.name)}: {{"architecture": {json.dumps(repr(network.architecture))}, "layers": [\n'
            + ",\n".join(layers)
            + "]}"
        )
    KEPT.write_text("{\n" + ",\n".join(entries) + "\n}\n", "utf-8")
    return KEPT
