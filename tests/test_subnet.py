"""The subnet execution against dense autograd, on layers, networks and models of others."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medyate import costs, kernels, networks, strategies
from medyate.dense import Dense, _per_channel
from medyate.dynamic import Subnet
from medyate.errors import InputError
from medyate.ranking import Ranking
from medyate.subnet import SubnetBatchNorm2d, SubnetConv2d, attach

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
PAPER = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# --- the oracle --------------------------------------------------------------------------------


def unsettle(model: nn.Module, dtype=torch.float64) -> nn.Module:
    """Running statistics and affine parameters as training leaves them, not 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.4)
    return model.to(dtype)


def freeze_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def dense_gradients(model, images, labels, chosen, classifier, frozen=True) -> tuple[torch.Tensor, dict]:
    """torch's own output and gradients: rows of the selected channels, and the classifier's."""
    model = copy.deepcopy(model).train().requires_grad_(True)
    if frozen:
        freeze_norms(model)
    torch.manual_seed(1)  # dropout
    output = model(images)
    F.cross_entropy(output, labels).backward()
    found = {}
    for name, channels in chosen.items():
        layer = model.get_submodule(name)
        rows = _per_channel(layer.weight.grad, getattr(layer, "groups", 1))
        found[name] = rows[torch.tensor(sorted(channels))]
    for name, parameter in model.get_submodule(classifier).named_parameters():
        found[f"{classifier}.{name}"] = parameter.grad
    return output.detach(), found


def subnet_gradients(model, attached, images, labels) -> tuple[torch.Tensor, dict]:
    model.train()
    torch.manual_seed(1)
    output = model(images)
    F.cross_entropy(output, labels).backward()
    found = dict(attached.gradients())
    for name, parameter in attached.classifier.named_parameters():
        found[f"{attached.classifier_name}.{name}"] = parameter.grad
    return output.detach(), found


def assert_same(found: dict, expected: dict, dtype) -> None:
    """Relative error of the whole gradient vector, and of every layer's part against the whole."""
    assert set(found) == set(expected)
    a = torch.cat([found[name].double().flatten() for name in expected])
    b = torch.cat([expected[name].double().flatten() for name in expected])
    assert b.norm() > 0
    assert float((a - b).norm() / b.norm()) <= TOLERANCE[dtype]


def some_channels(model: nn.Module, classifier: str, layers=None, share=0.4) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(2)
    chosen = {}
    for name, module in model.named_modules():
        inside = name == classifier or name.startswith(classifier + ".")
        if type(module) not in (nn.Conv2d, nn.Linear) or inside or (layers is not None and name not in layers):
            continue
        count = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
        taken = max(1, round(share * count))
        chosen[name] = torch.randperm(count, generator=generator)[:taken].sort().values.tolist()
    return chosen


def check(model, images, chosen, classifier="classifier", batch_norm="frozen", **options) -> None:
    """The attached model's output and gradients are the dense ones; the model is given back as it was."""
    dtype = images.dtype
    labels = torch.arange(len(images)) % 3
    model.zero_grad()
    expected_output, expected = dense_gradients(model, images, labels, chosen, classifier, batch_norm == "frozen")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attached = attach(model, classifier=classifier, batch_norm=batch_norm, example=images[:1], **options)
    attached.select(chosen)
    output, found = subnet_gradients(model, attached, images, labels)
    assert torch.allclose(output, expected_output, rtol=0, atol=TOLERANCE[dtype] * float(expected_output.abs().max()) * 10)
    assert_same(found, expected, dtype)
    attached.detach()
    after = model.state_dict()
    assert list(after) == list(before)
    if batch_norm == "frozen":
        assert all(torch.equal(after[name], value) for name, value in before.items())


class Around(nn.Module):
    """A convolution in the middle of a small network, so that its input needs a gradient too."""

    def __init__(self, conv: nn.Conv2d, act=nn.ReLU6, norm=True):
        super().__init__()
        self.before = nn.Conv2d(3, conv.in_channels, 3, padding=1)
        self.norm0, self.act0 = nn.BatchNorm2d(conv.in_channels), act()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()
        self.act = act()
        self.classifier = nn.Linear(conv.out_channels, 3)

    def forward(self, x):
        x = self.act0(self.norm0(self.before(x)))
        return self.classifier(self.act(self.norm(self.conv(x))).mean((2, 3)))


# --- layers ------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1x1": dict(kernel_size=1),
    "1x1, stride 2": dict(kernel_size=1, stride=2),
    "3x3": dict(kernel_size=3, padding=1),
    "3x3, no padding": dict(kernel_size=3),
    "3x3, stride 2, bias": dict(kernel_size=3, stride=2, padding=1, bias=True),
    "5x5": dict(kernel_size=5, padding=2),
    "5x5, stride 3, bias": dict(kernel_size=5, stride=3, padding=2, bias=True),
    "7x7": dict(kernel_size=7, padding=3),
    "3x1, uneven strides": dict(kernel_size=(3, 1), stride=(1, 2), padding=(1, 0)),
    "dilated": dict(kernel_size=3, dilation=2, padding=2),
    "dilated, stride 2": dict(kernel_size=3, dilation=(2, 3), stride=2, padding=(2, 3)),
    "depthwise 3x3": dict(kernel_size=3, padding=1, groups=6),
    "depthwise 5x5, stride 2": dict(kernel_size=5, stride=2, padding=2, groups=6, bias=True),
    "depthwise 7x7": dict(kernel_size=7, padding=3, groups=6),
    "depthwise, dilated": dict(kernel_size=3, padding=2, dilation=2, groups=6),
    "depthwise, two outputs a channel": dict(kernel_size=3, padding=1, groups=6, outputs=12),
    "grouped": dict(kernel_size=3, padding=1, groups=2),
    "grouped 1x1, three groups": dict(kernel_size=1, groups=3, outputs=9),
    "grouped, stride 2, bias": dict(kernel_size=3, stride=2, padding=1, groups=3, bias=True),
    "same": dict(kernel_size=3, padding="same"),
    "same, even kernel": dict(kernel_size=4, padding="same"),
    "same, depthwise, dilated, even": dict(kernel_size=2, padding="same", dilation=3, groups=6),
    "valid": dict(kernel_size=3, padding="valid"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "replicate, stride 2": dict(kernel_size=5, stride=2, padding=2, padding_mode="replicate"),
    "circular, bias": dict(kernel_size=3, padding=(1, 2), padding_mode="circular", bias=True),
    "reflect, same, depthwise": dict(kernel_size=3, padding="same", padding_mode="reflect", groups=6),
    "circular, even, same": dict(kernel_size=4, padding="same", padding_mode="circular"),
}


def convolution(outputs=6, bias=False, **options) -> nn.Conv2d:
    return nn.Conv2d(6, outputs, bias=bias, **options)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_convolutions(kind, dtype):
    for batch, layout, act, norm in [
        (3, torch.channels_last, nn.ReLU6, True),
        (1, torch.contiguous_format, nn.ReLU, False),
        (1, torch.channels_last, nn.ReLU6, False),
        (2, torch.contiguous_format, nn.ReLU, True),
    ]:
        model = unsettle(Around(convolution(**CONVOLUTIONS[kind]), act, norm), dtype).to(memory_format=layout)
        images = torch.randn(batch, 3, 11, 10, dtype=dtype).to(memory_format=layout)
        for channels in ([1, 4], [0, 1, 2, 3, 4, 5], [5]):
            check(model, images, {"conv": channels})
        check(model, images, {"before": [2], "conv": [0, 3]})


def test_every_subset_of_a_grouped_convolution():
    model = unsettle(Around(convolution(kernel_size=3, groups=2, outputs=4)))
    images = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    for size in range(1, 7):
        for channels in itertools.combinations(range(6), size):
            check(model, images, {"conv": list(channels)})


@pytest.mark.parametrize("shape", [(4, 7), (2, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(shape, bias):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(7, 6, bias=bias), nn.Linear(6, 5)
            self.classifier = nn.Linear(5, 3)

        def forward(self, x):
            x = self.b(torch.tanh(self.a(x)))
            return self.classifier(x.flatten(1, -2).mean(1) if x.dim() > 2 else x)

    for chosen in ({"a": [0, 6], "b": [1, 2]}, {"b": [0, 1, 2, 3, 4, 5]}, {"a": [3]}):
        check(Net().double(), torch.randn(shape, dtype=torch.float64), chosen)


def test_one_image_and_one_vector_without_a_batch_dimension():
    conv, linear = nn.Conv2d(6, 4, 3, groups=2).double(), nn.Linear(5, 4).double()
    for layer, x, channels in ((conv, torch.randn(6, 6, 5), [1, 5]), (linear, torch.randn(5), [0, 3])):
        model = nn.ModuleDict({"layer": layer, "classifier": nn.Linear(1, 1)})
        x = x.double().requires_grad_()
        layer(x).square().sum().backward()
        expected, expected_x = _per_channel(layer.weight.grad, getattr(layer, "groups", 1))[channels], x.grad
        x.grad = None
        attached = attach(model, classifier="classifier")
        attached.select({"layer": channels})
        model["layer"](x).square().sum().backward()
        torch.testing.assert_close(attached.gradients()["layer"], expected)
        torch.testing.assert_close(x.grad, expected_x)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_view_of_something_larger_is_not_kept(share):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.classifier = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, x):
            return self.classifier(self.a(x.chunk(2, 1)[1]).mean((2, 3)))

    model = Split().double()
    attached = attach(model, classifier="classifier")
    attached.select({"a": range(round(4 * share))})
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(torch.randn(1, 8, 5, 5, dtype=torch.float64))
    assert sum(t.untyped_storage().nbytes() for t in kept if t.shape[-1] == 5) == round(4 * share) * 25 * 8
