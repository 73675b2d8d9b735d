"""Inputs that say little of themselves: one dimension, modules without a shape yet."""

import pytest
import torch
from torch import nn

from medyate import InputError, Strategy, Subnet
from medyate.strategies import UNIFORM

ANY = Strategy("any", "all channels alike", UNIFORM)


class Waves(nn.Module):
    """A waveform (T,): one dimension, and nothing that is looked up."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(1, 6, 5, 2), nn.Conv1d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, wave):
        wave = (wave - wave.mean(1, keepdim=True)).unsqueeze(1)
        return self.head(self.second(self.first(wave).relu()).relu().mean(2))


def test_one_dimension_is_numbers_where_nothing_is_looked_up():
    torch.manual_seed(0)
    model, waves = Waves(), torch.randn(2, 40)
    subnet = Subnet(model, 200, ANY, input_shape=(40,))
    assert [layer.name for layer in subnet.layers] == ["first", "second"]
    subnet.next_epoch()
    model(waves).sum().backward()
    assert all(parameter.grad is not None for parameter in subnet.parameters())


def test_a_lazy_module_is_refused_in_words_of_its_own_and_a_detectors_backbone_trains():
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(InputError, match=r"'2\.weight' has no shape yet, as its module is lazy"):
        Subnet(lazy, 100, ANY, input_shape=(3, 8, 8))
    detection = pytest.importorskip("torchvision").models.detection
    detector = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    subnet = Subnet(detector.backbone, 2000, ANY, input_shape=(3, 64, 64), classifier="extra.3")
    subnet.next_epoch()
    sum(one.sum() for one in detector.backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert any(parameter.grad is not None for parameter in subnet.parameters())
