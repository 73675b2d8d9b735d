"""Bytes that are really held, against what follows from shapes, and against the budget."""

import math

import pytest
import torch
from torch import nn

import medyate
from medyate import costs, networks
from medyate.errors import InputError
from medyate.execution import measure as memory
from medyate.execution.attach import attach
from medyate.execution.masks import mask_overheads
from medyate.networks import schemes
from medyate.runs import rankings
from medyate.selection import Selection
from medyate.subnet import Subnet

PAPER = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")
SHAPE = (3, 128, 128)


def build(network: str) -> nn.Module:
    return networks.build(network, weights="random", classes=10, generator=torch.Generator().manual_seed(0)).train()


def layers_of(model: nn.Module, shape=SHAPE) -> tuple[costs.Layer, ...]:
    return costs.layers(model, shape, "classifier")


def step(model, attached, batch_size=1, shape=SHAPE, optimizer=torch.optim.SGD) -> memory.Kept:
    images = torch.randn((batch_size, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % 10
    return medyate.measure(model, attached.classifier, optimizer(attached.parameters(), lr=0.0), images, labels)


def mask_bytes(layers, selection: Selection, batch_size: int = 1) -> int:
    """Closed form for a network whose every convolution but the projections is followed by a ReLU6."""
    names = [layer.name for layer in layers]
    first = min(names.index(name) for name in selection.channels)
    # what a layer puts out is what the next one takes in; the last is averaged (4 x 4 at 128 pixels)
    sizes = [layer.activation_elements for layer in layers[1:]] + [layers[-1].out_channels * 16]
    return sum(
        math.ceil(batch_size * size / 8)
        for layer, size in zip(layers[first:], sizes[first:])
        if not layer.name.endswith("pw2.conv")
    )


@pytest.mark.parametrize("network", PAPER)
@pytest.mark.parametrize("tier", [1, 3, 5])
def test_what_is_held_is_what_shapes_say_and_the_budget_pays_for_it(network, tier):
    model = build(network)
    layers = layers_of(model)
    budget = schemes.budget(network, tier, layers)
    order = rankings.load(network, rankings.automatic(network, "food10"))
    overheads = mask_overheads(model, layers, SHAPE)
    subnet = Subnet(model, budget, ranking=order, classifier="classifier", seed=tier)
    selection = subnet.next_epoch()
    held = step(model, subnet.attached).backbone
    assert held["selected_activations"] == 4 * selection.activation_elements(layers)
    assert held["weight_gradients"] == 4 * selection.weight_elements(layers)
    paid = held["selected_activations"] + held["weight_gradients"]
    assert paid == 4 * selection.used_elements(layers) <= 4 * budget
    assert held["masks"] == mask_bytes(layers, selection)
    first = next(layer.name for layer in layers if layer.name in selection.channels)
    # the overhead is in whole elements, rounded up
    assert 0 <= 4 * overheads[first] - held["masks"] < 4
    assert held["batch_norm"] == held["other"] == held["optimizer_state"] == 0


@pytest.mark.parametrize(("network", "tier"), [(PAPER[0], 1), (PAPER[1], 1), (PAPER[2], 5)])
def test_a_budget_that_counts_everything_bounds_everything(network, tier):
    model = build(network)
    budget = schemes.budget(network, tier, layers_of(model))
    order = rankings.load(network, rankings.automatic(network, "food10"))
    for seed in range(2):
        subnet = Subnet(model, budget, ranking=order, classifier="classifier", count="everything", seed=seed)
        subnet.next_epoch()
        kept = step(model, subnet.attached)
        assert 0.9 * 4 * budget < kept.total_bytes <= 4 * budget
        subnet.detach()


def test_batches_multiply_activations_and_masks_but_not_gradients():
    model = build("mcunet-in1")
    layers = layers_of(model)
    selection = Selection({"b3.pw1.conv": (1, 2), "b5.dw.conv": (0, 7, 9), "b12.pw2.conv": tuple(range(40))})
    attached = attach(model, classifier="classifier")
    attached.select(selection.channels)
    one, four = step(model, attached).backbone, step(model, attached, 4).backbone
    assert four["selected_activations"] == 4 * one["selected_activations"]
    assert four["weight_gradients"] == one["weight_gradients"]
    assert four["masks"] == mask_bytes(layers, selection, 4)
    assert sum(four[part] for part in ("batch_norm", "other", "optimizer_state")) == 0


def test_a_whole_layer_is_held_once():
    model = build("mcunet-in1")
    layers = {layer.name: layer for layer in layers_of(model)}
    attached = attach(model, classifier="classifier")
    layer = layers["b9.pw1.conv"]
    attached.select({layer.name: range(layer.channels)})
    held = step(model, attached).backbone
    assert held["selected_activations"] == 4 * layer.activation_elements
    assert held["weight_gradients"] == 4 * layer.weight_elements


@pytest.mark.parametrize(
    ("optimizer", "factor", "counters"),
    [(lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), 1, 0), (lambda p, lr: torch.optim.Adam(p, lr=lr), 2, 1)],
)
def test_states_of_the_optimiser_are_compact(optimizer, factor, counters):
    model = build("proxyless-w0.3")
    attached = attach(model, classifier="classifier")
    attached.select({"b5.pw1.conv": [0, 1], "b9.dw.conv": [3]})
    held = step(model, attached, optimizer=optimizer).backbone
    assert held["optimizer_state"] == factor * held["weight_gradients"] + 4 * counters * len(attached.selected)


def test_layers_before_the_first_selected_one_have_no_graph():
    model = build("mbv2-w0.35")
    attached = attach(model, classifier="classifier")
    attached.select({"mix.conv": [0]})
    held = step(model, attached).backbone
    assert held["masks"] == 448 * 16 / 8 and held["selected_activations"] == 4 * 16
    attached.select({})
    assert sum(step(model, attached).backbone.values()) == 0


def test_in_half_precision_half_is_held():
    model = build("mcunet-in1")
    attached = attach(model, classifier="classifier")
    attached.select({"b9.pw1.conv": [0, 3, 5]})
    full = step(model, attached).backbone
    with torch.autocast("cpu", torch.bfloat16):
        half = step(model, attached).backbone
    assert 2 * half["selected_activations"] == full["selected_activations"]
    assert half["masks"] == full["masks"] and half["weight_gradients"] == full["weight_gradients"]


def test_full_finetuning_holds_each_storage_once():
    """ReLU6 and the convolution behind it save the same tensor; a batch norm saves its input."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5 * 36, 3)
    )
    images = torch.randn(2, 3, 6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept = memory.measure(model, model[-1], optimizer, images, torch.tensor([0, 1]))
    # images; the convolution's output (saved by ReLU6); ReLU6's output (saved by the next convolution)
    assert kept.backbone["other"] == 4 * 2 * 36 * (3 + 4 + 4)
    # its input, and the batch's mean and deviation (an empty reserve takes nothing)
    assert kept.backbone["batch_norm"] == 4 * (2 * 36 * 5 + 5 + 5)
    assert kept.backbone["weight_gradients"] == 4 * (12 + 4 + 20 + 5 + 5 + 5)
    assert kept.classifier_bytes >= 4 * (2 * 180 + 543)


def test_costs_are_those_of_a_plain_model():
    model = build("mcunet-in1")
    layers = layers_of(model)
    attached = attach(model, classifier="classifier")
    for walk in (lambda: layers_of(model), lambda: mask_overheads(model, layers, SHAPE)):
        with pytest.raises(InputError, match="layer 'stem.conv' runs as part of a subnet; detach the model first"):
            walk()
    attached.detach()
    assert layers_of(model) == layers


def test_measuring_leaves_no_trace():
    model = build("mcunet-in1")
    attached = attach(model, classifier="classifier")
    attached.select({"b9.pw1.conv": [0]})
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    step(model, attached)
    from medyate.execution import kernels

    assert kernels.saved_listener.get() is None
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_peak_is_the_most_that_is_held_at_once():
    kept = torch.zeros(700)  # there before: does not count
    with memory._Peak(torch.device("cpu")) as peak:
        first, second = torch.empty(1000), torch.empty(500)
        first.add_(1)
        del first
        third = kept[:600] * 2
        view = third.view(20, 30)
        del second, third, view
    assert peak.bytes == 4 * 1500
