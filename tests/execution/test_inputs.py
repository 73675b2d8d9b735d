"""Inputs that say little of themselves: one dimension, modules without a shape yet."""

import numpy as np
import pytest
import torch
from torch import nn

from medyate import InputError, Strategy, Subnet, rank
from medyate.strategies import LARGEST, UNIFORM

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


def _net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.mark.parametrize(
    "batch, words",
    [
        ((IMAGES, torch.tensor([0, 3])), "int64 of shape .2,. from 0 to 3 where the logits are .*from 0 to 2"),
        ((IMAGES, torch.tensor([-1, 0])), "from -1 to 0"),
        ((IMAGES, torch.tensor([0.0, 1.0])), "float32 of shape .2,."),
        ((IMAGES, torch.tensor([[0], [1]])), "int64 of shape .2, 1."),
        ((IMAGES, [0, 1]), "the labels are a list"),
        ((IMAGES.to(torch.uint8), torch.tensor([0, 1])), "inputs of uint8; allowed: floating-point"),
        ((IMAGES.numpy(), torch.tensor([0, 1])), "a numpy ndarray; allowed: tensors"),
        (
            ({"image": IMAGES}, torch.tensor([0, 1])),
            "gives 0 arguments in order and 'image' by name, where the model takes input: ",
        ),
    ],
)
def test_batches_that_a_model_cannot_take_are_told_in_one_line(batch, words):
    with pytest.raises(InputError, match=words) as told:
        rank(_net(nn.ReLU()), [batch], input_shape=(3, 8, 8))
    assert "\n" not in str(told.value) and "allowed" in str(told.value)


def test_a_last_batch_of_one_that_batch_norm_cannot_train_on_is_told():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    batches = [(IMAGES, torch.tensor([0, 1])), (IMAGES[:1], torch.tensor([2]))]
    with pytest.raises(InputError, match="a batch of one sample leaves batch norm .* allowed: batches of at least 2"):
        rank(model, batches, input_shape=(3, 8, 8))


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), "0.1", None])
def test_a_learning_rate_that_is_none(rate):
    with pytest.raises(InputError, match=f"learning_rate {rate!r}; allowed: a finite number"):
        rank(_net(), [(IMAGES, torch.tensor([0, 1]))], input_shape=(3, 8, 8), learning_rate=rate)


def test_an_error_of_the_models_own_code_stays_its_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fails = _net(), False

        def forward(self, x):
            if self.fails and self.training:
                raise RuntimeError("of my own")
            return self.net(x)

    model = Own()
    model.fails = True
    with pytest.raises(RuntimeError, match="of my own") as told:
        rank(model, [(IMAGES, torch.tensor([0, 1]))], input_shape=(3, 8, 8))
    assert not isinstance(told.value, InputError)


def test_what_is_not_finite_is_refused_before_it_chooses():
    wanted = Strategy("oracle", "the largest norms of the whole gradient", LARGEST)
    subnet = Subnet(_net(nn.Conv2d(4, 4, 3)), 200, wanted, input_shape=(3, 8, 8))
    labels = torch.tensor([0, 1])
    norms = subnet.channel_norms_of([(IMAGES, labels)])
    with pytest.raises(InputError, match="the loss is nan in batch 2; allowed: finite inputs"):
        subnet.channel_norms_of([(IMAGES, labels), (IMAGES * np.nan, labels)])
    assert all(torch.equal(one, norms[name]) for name, one in subnet.channel_norms_of([(IMAGES, labels)]).items())
    norms["0"][1] = torch.inf
    with pytest.raises(InputError, match="norms of layer '0' hold inf; allowed: finite"):
        subnet.next_epoch(whole_gradient=norms)
    model = _net(nn.ReLU())
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="parameter '0.weight' holds values that are not finite"):
        Subnet(model, 200, ANY, input_shape=(3, 8, 8))


def test_a_model_that_torch_does_not_copy_is_refused_in_a_line():
    model = _net(nn.ReLU())
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    model(IMAGES)
    with pytest.raises(InputError, match="the model cannot be copied: .*; allowed: torch.nn.utils.parametrizations"):
        rank(model, [(IMAGES, torch.tensor([0, 1]))], input_shape=(3, 8, 8))
