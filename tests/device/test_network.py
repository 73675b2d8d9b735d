"""What the engine sees of a model, and what it refuses."""

import pytest
import torch
from own_models import Bottleneck, model, unit
from torch import nn

from medyate import costs, networks
from medyate.device import network
from medyate.errors import InputError


@pytest.mark.parametrize("name", ["mbv2-w0.35", "mcunet-in1", "proxyless-w0.3", "efficientnet-lite0"])
@pytest.mark.parametrize("resolution", [64, 128])
def test_a_network_has_the_librarys_layers_and_costs(name, resolution):
    skeleton = networks.skeleton(name)
    found = network.describe(skeleton, (3, resolution, resolution))
    layers = costs.layers(skeleton, (3, resolution, resolution), "classifier")
    assert [c.name for c in found.convolutions] == [layer.name for layer in layers]
    for c, layer in zip(found.convolutions, layers):
        # the engine needs no padded copy of an input, which EfficientNet's own padding makes
        assert c.plane == layer.activation_elements_per_channel or name == "efficientnet-lite0" and c.stride == 2
        assert c.channel_weights == layer.weight_elements_per_channel
        assert c.channels == layer.channels and c.outputs == layer.out_channels
        assert c.activation == ("none" if c.name.endswith("pw2.conv") else "relu6")
    numbers = [number for stage in found.stages for number in stage.numbers]
    assert numbers == list(range(len(layers)))
    assert sum(stage.residual for stage in found.stages) == sum(
        getattr(module, "residual", False) for module in skeleton.modules()
    )


@pytest.mark.parametrize(
    "stages, groups",
    [
        ([unit(3, 8, 3), unit(8, 12)], [(0, None, None), (1, None, None)]),
        ([unit(3, 8, 3, 2), Bottleneck(8, 8, 6, 3)], [(0, 1, 2)]),
        ([Bottleneck(3, 12, 6, 5, 2), Bottleneck(6, 6, 6, 3, residual=True)], [(0, 1, 2), (None, 3, 4)]),
        # the sum reads what the first convolution gives: it cannot run inside the stage
        ([unit(3, 6, 3), Bottleneck(6, 6, 6, 3, residual=True)], [(0, None, None), (None, 1, 2)]),
    ],
)
def test_convolutions_are_grouped_into_stages(stages, groups):
    features = [m for s in stages for m in s.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
    found = network.describe(model(*stages, features=features), (3, 16, 16))
    assert [(s.expand, s.depthwise, s.project) for s in found.stages] == groups


class _Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.a(x) + self.b(x)


class _Concatenation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.a(x)
        return torch.cat([y, y], 1)


@pytest.mark.parametrize(
    "stages, named",
    [
        ([unit(3, 4), nn.MaxPool2d(2)], "'1' is a MaxPool2d"),
        ([unit(3, 4, act=nn.SiLU)], "'0.2' is a SiLU"),
        ([unit(3, 6), nn.Conv2d(6, 4, 1, groups=2)], "'1' is a Conv2d of 2 groups"),
        ([nn.Conv2d(3, 4, 3, dilation=2)], "'0' is a Conv2d that is not square, is dilated"),
        ([nn.Conv2d(3, 4, (1, 3))], "'0' is a Conv2d that is not square"),
        ([nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")], "pads with other values than 0"),
        ([nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 4, 3)], "'0' is a depthwise Conv2d that no 1x1"),
        ([nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)], "'1' is a GroupNorm"),
        ([nn.ConvTranspose2d(3, 4, 2)], "'0' is a ConvTranspose2d"),
        ([_Branch()], "a branch"),
        ([_Concatenation()], "'cat'"),
    ],
)
def test_what_the_engine_does_not_know_is_named(stages, named):
    with pytest.raises(InputError) as refused:
        network.describe(model(*stages, features=4), (3, 16, 16))
    assert named in str(refused.value) and "allowed: Conv2d" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_without_bias_in_its_classifier_is_refused():
    own = nn.Sequential(unit(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False))
    with pytest.raises(InputError, match="'3' is a Linear without a bias"):
        network.describe(own, (3, 8, 8))


def test_packed_numbers_lie_input_channel_by_input_channel():
    torch.manual_seed(1)
    own = model(unit(3, 5, 3), Bottleneck(5, 7, 4, 3), features=4)
    found = network.describe(own, (3, 9, 9))
    numbers, offsets = network.packed(own, found)
    assert len(numbers) == found.weight_floats
    full, depthwise = own[0][0], own[1].dw[0]
    begin = offsets[0][0]
    for channel in range(3):
        piece = numbers[begin + channel * 45 : begin + (channel + 1) * 45].reshape(5, 3, 3)
        assert (piece == full.weight[:, channel].detach().numpy()).all()
    begin = offsets[2][0]
    assert (numbers[begin : begin + 63].reshape(7, 3, 3) == depthwise.weight[:, 0].detach().numpy()).all()
    # scale and bias of a convolution with its batch norm, on one pixel
    x = torch.randn(1, 5, 1, 1)
    pw = own[1].pw1
    scale, bias = (torch.from_numpy(part) for part in numbers[offsets[1][1] : offsets[1][1] + 14].reshape(2, 7))
    ours = scale * (pw[0].weight.flatten(1) @ x.flatten()) + bias
    assert torch.allclose(ours, pw[1](pw[0](x)).flatten(), atol=1e-5)
