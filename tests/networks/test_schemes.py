"""SU schemes against the budgets that the paper prints and a hand-written sum of eq. 4."""

import pytest
import torch

from medyate import costs, networks
from medyate.errors import InputError
from medyate.networks import schemes

EQUAL = {  # printed, and the scheme's cost by eq. 4 exactly
    ("mbv2-w0.35", 3): 66_592,
    ("mbv2-w0.35", 5): 93_696,
    ("mcunet-in1", 1): 15_936,
    ("mcunet-in1", 3): 64_832,
    ("mcunet-in1", 5): 112_640,
    ("proxyless-w0.3", 1): 25_984,
    ("proxyless-w0.3", 3): 72_960,
    ("proxyless-w0.3", 5): 101_376,
}
NETWORKS = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")


@pytest.fixture(scope="module")
def walked():
    return {
        (name, way): costs.layers(networks.build(name, weights="random"), depthwise=way)
        for name in NETWORKS
        for way in ("eq4", "authors")
    }


@pytest.mark.parametrize("network, tier", EQUAL)
def test_eight_printed_budgets_are_the_schemes_costs(walked, network, tier):
    layers = walked[network, "eq4"]
    assert schemes.cost_elements(network, tier, layers) == EQUAL[network, tier]
    assert schemes.budget(network, tier, layers) == EQUAL[network, tier]
    assert schemes.tier_of(network, EQUAL[network, tier], layers) == tier


def test_the_ninth_counts_its_depthwise_layer_at_17(walked):
    layers = walked["mbv2-w0.35", "eq4"]
    assert schemes.cost_elements("mbv2-w0.35", 1, layers) == 28_282
    assert schemes.cost_elements("mbv2-w0.35", 1, walked["mbv2-w0.35", "authors"]) == 27_946
    counts = schemes.counts("mbv2-w0.35", 1, layers)
    depthwise = [layer for layer in layers if layer.name in counts and layer.kind == "depthwise"]
    assert [(layer.name, layer.channel_elements, counts[layer.name]) for layer in depthwise] == [
        ("b16.dw.conv", 25, 42)
    ]
    assert 28_282 - 42 * (25 - 17) == schemes.budget("mbv2-w0.35", 1, layers) == 27_946
    # both numbers stand for the tier
    assert schemes.tier_of("mbv2-w0.35", 27_946, layers) == schemes.tier_of("mbv2-w0.35", 28_282, layers) == 1


@pytest.mark.parametrize("network", NETWORKS)
def test_every_tier_by_hand_and_in_order(walked, network):
    """Costs add up from the convolutions' shapes; a higher tier costs more."""
    model = networks.build(network, weights="random").eval()
    convs = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    inputs = {}
    for name, conv in convs.items():
        conv.register_forward_pre_hook(lambda m, args, name=name: inputs.update({name: args[0].shape}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 128, 128))
    order, found = list(inputs), []
    for tier in range(1, 6):
        total = 0
        for index, share in schemes.SCHEMES[network][tier].items():
            conv, (_, channels, height, width) = convs[order[index]], inputs[order[index]]
            taps = conv.kernel_size[0] * conv.kernel_size[1]
            per_channel = conv.out_channels // conv.groups * taps + height * width
            total += int(channels * share) * per_channel
        assert total == schemes.cost_elements(network, tier, walked[network, "eq4"])
        found.append(total)
    assert found == sorted(set(found))


@pytest.mark.parametrize("network", NETWORKS)
def test_scheme_takes_the_channels_of_largest_weight_norm(walked, network):
    layers = walked[network, "eq4"]
    model = networks.build(network, weights="random", generator=torch.Generator().manual_seed(3))
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    for tier in range(1, 6):
        selection = schemes.scheme_selection(network, tier, layers, weights)
        counts = schemes.counts(network, tier, layers)
        assert {name: len(chosen) for name, chosen in selection.channels.items()} == {
            n: c for n, c in counts.items() if c
        }
        assert selection.used_elements(layers) == schemes.cost_elements(network, tier, layers)
        for name, chosen in selection.channels.items():
            weight = weights[name]
            grouped = weight.shape[1] == 1 and weight.shape[0] > 1
            norms = [
                float(weight[c].norm() if grouped else weight[:, c].norm())
                for c in range(weight.shape[0 if grouped else 1])
            ]
            rest = set(range(len(norms))) - set(chosen)
            assert min(norms[c] for c in chosen) >= max((norms[c] for c in rest), default=0.0) - 1e-6


def test_a_scheme_above_the_budget_gives_up_its_last_layers_smallest(walked):
    """MbV2 tier 1 costs 336 more than its printed budget: 14 of the last layer's 42 channels go."""
    layers = walked["mbv2-w0.35", "eq4"]
    model = networks.build("mbv2-w0.35", weights="random", generator=torch.Generator().manual_seed(3))
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    whole = schemes.scheme_selection("mbv2-w0.35", 1, layers, weights)
    fitted = schemes.fitted(whole, layers, weights, 27_946)
    assert fitted.used_elements(layers) == 28_282 - 14 * 25 <= 27_946 < 28_282 - 13 * 25
    last = "b16.dw.conv"
    assert {n: c for n, c in whole.channels.items() if n != last} == {
        n: c for n, c in fitted.channels.items() if n != last
    }
    norms = weights[last].flatten(1).norm(dim=1)
    by_norm = sorted(whole.channels[last], key=lambda c: -float(norms[c]))
    assert fitted.channels[last] == tuple(sorted(by_norm[:28]))
    assert schemes.fitted(whole, layers, weights, 28_282) == whole


def test_bad_input_is_told_in_one_line(walked):
    layers = walked["mbv2-w0.35", "eq4"]
    for call, words in (
        (
            lambda: schemes.counts("efficientnet-lite0", 1, layers),
            "'efficientnet-lite0'; allowed: mbv2-w0.35, mcunet-in1",
        ),
        (
            lambda: schemes.counts("mbv2-w0.35", 6, layers),
            "tier 6 is out of range; allowed: an integer at least 1 at most 5",
        ),
        (lambda: schemes.counts("mbv2-w0.35", "1", layers), "'1' is not an integer"),
        (lambda: schemes.counts("mbv2-w0.35", True, layers), "True is not an integer"),
        (lambda: schemes.counts("mbv2-w0.35", 1, layers[:20]), "the model has 20"),
    ):
        with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
            call()
        assert words in str(caught.value)
    assert schemes.tier_of("mbv2-w0.35", 27_947, layers) is None
    assert schemes.tier_of("efficientnet-lite0", 27_946, layers) is None
