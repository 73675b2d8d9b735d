"""The layers that ``layers.json`` keeps are those that a walk over the networks finds."""

import dataclasses
import subprocess
import sys

import pytest

from medyate import networks
from medyate.networks import layers
from medyate.networks.registry import NETWORKS

TEXTS = [name for name, network in NETWORKS.items() if network.kind == "text"]


@pytest.mark.parametrize("name", NETWORKS)
def test_kept_layers_are_those_of_a_walk(name):
    if name in TEXTS:
        pytest.importorskip("transformers")
    network = NETWORKS[name]
    assert networks.backbone(name) == layers.walked(network, False, network.input_shape())


def test_a_changed_architecture_is_walked(monkeypatch):
    network = NETWORKS["mbv2-w0.35"]
    narrow = dataclasses.replace(network.architecture, mix=224)
    monkeypatch.setitem(NETWORKS, "mbv2-w0.35", dataclasses.replace(network, architecture=narrow))
    monkeypatch.setattr(layers, "_layers", layers._layers.__wrapped__)
    assert networks.backbone("mbv2-w0.35")[-1].out_channels == 224


def test_a_sweep_is_listed_without_torch():
    code = (
        "import sys; from medyate.sweeps import grids, progress; "
        "print(len(progress.state(grids.get('fig8', 'pack').configs()).finished), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    count, loaded = done.stdout.split()
    assert int(count) > 0 and loaded == "False"
