"""The subnet execution against dense autograd, on layers, networks and models of others."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medyate import costs, networks
from medyate.errors import InputError
from medyate.execution import kernels
from medyate.execution.attach import attach
from medyate.execution.layers import SubnetConv2d, SubnetLinear
from medyate.execution.masked import Dense, _per_channel
from medyate.ranking import Ranking
from medyate.subnet import Subnet

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
PAPER = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


SELECTABLE = (nn.Conv2d, nn.Linear, SubnetConv2d, SubnetLinear)


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
        if type(module) not in SELECTABLE or inside or (layers is not None and name not in layers):
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
    assert torch.allclose(
        output, expected_output, rtol=0, atol=TOLERANCE[dtype] * float(expected_output.abs().max()) * 10
    )
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
    ]:
        model = unsettle(Around(convolution(**CONVOLUTIONS[kind]), act, norm), dtype).to(memory_format=layout)
        images = torch.randn(batch, 3, 11, 10, dtype=dtype).to(memory_format=layout)
        for chosen in ({"conv": [1, 4]}, {"conv": [0, 1, 2, 3, 4, 5]}, {"before": [2], "conv": [5]}):
            check(model, images, chosen)


def test_every_subset_of_a_grouped_convolution():
    model = unsettle(Around(convolution(kernel_size=3, groups=2, outputs=4)))
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for size in (1, 2, 5):
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


# --- networks ----------------------------------------------------------------------------------


def network(name: str, dtype=torch.float64) -> nn.Module:
    model = networks.build(name, weights="random", classes=3, generator=torch.Generator().manual_seed(0))
    return unsettle(model, dtype)


def spread(model, classifier="classifier", every=4) -> dict[str, list[int]]:
    """Some channels of every fourth layer and of the first."""
    names = list(some_channels(model, classifier))
    return some_channels(model, classifier, set(names[::every]))


@pytest.mark.parametrize("name", [*PAPER, "efficientnet-lite0"])
def test_networks_in_double_precision(name):
    model = network(name)
    check(model, torch.randn(2, 3, 64, 64, dtype=torch.float64), spread(model))


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_networks_in_single_precision(name, batch_norm):
    model = network(name, torch.float32).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    check(model, images, spread(model), batch_norm=batch_norm)


@pytest.mark.parametrize("name", PAPER)
def test_networks_whose_batch_norm_trains(name):
    model = network(name)
    check(model, torch.randn(3, 3, 64, 64, dtype=torch.float64), spread(model), batch_norm="train")


@pytest.mark.parametrize(("name", "classifier"), [("resnet18", "fc"), ("mobilenet_v2", "classifier")])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_torchvision_models(name, classifier, batch_norm):
    from medyate.networks._torchvision import torchvision

    model = unsettle(torchvision().models.get_model(name, weights=None, num_classes=3))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    check(model, images, spread(model, classifier), classifier, batch_norm)


class Own(nn.Module):
    """A user's model: residuals, a concatenation, in-place and functional ReLUs, a layer used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.relu = nn.ReLU()  # used in several places
        self.drop = nn.Dropout(0.3)
        self.layer_norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 3))

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([F.relu(self.left(x)), self.relu(self.right(x))], 1)
        y = self.norm(x)
        y += x  # in place
        y = self.relu(self.twice(y)) + F.relu6(self.twice(F.max_pool2d(y, 3, 1, 1)))
        y = self.drop(y).mul(2)
        return self.head(self.layer_norm(y.mean((2, 3))))


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_model_of_ones_own(batch_norm, fold):
    model = unsettle(Own())
    images = torch.randn(3, 3, 9, 9, dtype=torch.float64)
    names = ["stem.0", "left", "right", "twice"]
    for wanted in ([name] for name in names), (names,):
        for layers in wanted:
            check(model, images, some_channels(model, "head", layers), "head", batch_norm, fold=fold)


def test_the_gradient_of_the_images():
    model = unsettle(Own()).eval()
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(model(images).square().sum(), images)[0]
    attached = attach(model, classifier="head")
    for chosen in ({}, {"right": [0]}):
        attached.select(chosen)
        torch.testing.assert_close(torch.autograd.grad(model(images).square().sum(), images)[0], expected)


def test_a_functional_use_of_a_selected_weight():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.classifier = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3)

        def forward(self, x):
            return self.classifier(F.conv2d(x, self.conv.weight * 2).mean((2, 3)))

    check(Functional().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64), {"conv": [0, 2]})


def test_batch_norms_of_other_kinds_stay_frozen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.classifier = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

        def forward(self, x):
            return self.classifier(self.norm(self.a(x)))

    check(unsettle(Net()), torch.randn(4, 6, dtype=torch.float64), {"a": [0, 3]})


def test_checkpointing_and_accumulated_gradients():
    from torch.utils.checkpoint import checkpoint

    model = unsettle(Around(convolution(kernel_size=3)))
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    _, expected = dense_gradients(model, images, torch.arange(4) % 3, {"conv": [0, 5]}, "classifier")
    attached = attach(model, classifier="classifier")
    attached.select({"conv": [0, 5]})
    for part in (slice(0, 2), slice(2, 4)):
        output = checkpoint(model, images[part], use_reentrant=False)
        (F.cross_entropy(output, (torch.arange(4) % 3)[part]) / 2).backward()
    found = attached.gradients() | {f"classifier.{n}": p.grad for n, p in model.classifier.named_parameters()}
    assert_same(found, expected, torch.float64)


def test_autocast_on_the_cpu():
    model = network("mbv2-w0.35", torch.float32)
    chosen = spread(model)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = dense_gradients(model, images, labels, chosen, "classifier")
    _, exact = dense_gradients(model, images, labels, chosen, "classifier")
    attached = attach(model, classifier="classifier")
    attached.select(chosen)
    with torch.autocast("cpu", torch.bfloat16):
        _, ours = subnet_gradients(model, attached, images, labels)

    def error(found):
        a, b = (torch.cat([part[name].double().flatten() for name in exact]) for part in (found, exact))
        return float((a - b).norm() / b.norm())

    assert all(value.dtype == torch.float32 for value in ours.values())
    assert error(ours) < max(0.05, 1.5 * error(theirs))  # no further from the truth than torch's own autocast


# --- what is trained, and what is not ------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01), ["momentum_buffer"]),
        (lambda p: torch.optim.AdamW(p, lr=0.01), ["exp_avg", "exp_avg_sq"]),
    ],
)
def test_the_rest_does_not_move_by_a_bit_and_states_are_compact(optimizer, states):
    model = network("mcunet-in1", torch.float32)
    before = copy.deepcopy(model.state_dict())
    attached = attach(model, classifier="classifier")
    optimizer = optimizer(attached.parameters())
    chosen = spread(model)
    everything = {}
    for round in range(2):  # two selections, one after the other
        chosen = {name: [c // 2 + round for c in channels[::2]] for name, channels in chosen.items()}
        chosen = {name: sorted(set(channels)) for name, channels in chosen.items()}
        for name, channels in chosen.items():
            everything.setdefault(name, set()).update(channels)
        attached.select(chosen)
        attached.refresh(optimizer)
        assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in attached.parameters()]
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4) % 3).backward()
            optimizer.step()
        for name, layer in attached.selected.items():
            gradient = attached.gradients()[name]
            weight = layer.selected_weight
            assert gradient.shape == (len(chosen[name]), before[name + ".weight"].numel() // layer.in_channels)
            assert weight.numel() == weight.grad.numel() == gradient.numel()
            for state in states:
                assert optimizer.state[weight][state].shape == weight.shape
        assert len(optimizer.state) == len(attached.active())  # none of former selections
    assert attached.detach() is model
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        layer = name.removesuffix(".weight")
        if name.startswith("classifier"):
            assert not torch.equal(after[name], value)
        elif layer in everything:
            groups = model.get_submodule(layer).groups
            changed = (_per_channel(after[name], groups) != _per_channel(value, groups)).any(1)
            assert set(changed.nonzero().flatten().tolist()) == everything[layer]
        else:
            assert torch.equal(after[name], value), name


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_masked_dense_gradients_take_the_same_steps(batch_norm):
    """The execution kept for comparison gives equal results to rounding."""
    ours, theirs = network("proxyless-w0.3"), network("proxyless-w0.3")
    theirs.load_state_dict(ours.state_dict())
    chosen = spread(ours)
    images = torch.randn(3, 4, 3, 64, 64, dtype=torch.float64)
    for model, attached in (
        (ours, attach(ours, classifier="classifier", batch_norm=batch_norm)),
        (theirs, Dense(theirs, classifier="classifier", batch_norm=batch_norm)),
    ):
        attached.select(chosen)
        optimizer = torch.optim.SGD(attached.parameters(), lr=0.02)
        model.train()
        for batch in images:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), torch.arange(4) % 3).backward()
            optimizer.step()
        attached.detach()
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)


def test_form_of_the_state_dict_while_attached():
    model = unsettle(Own())
    before = copy.deepcopy(model.state_dict())
    attached = attach(model, classifier="head")
    attached.select(some_channels(model, "head", ["stem.0", "left", "twice"]))
    attached_state = model.state_dict()
    assert list(attached_state) == list(before)
    assert all(torch.equal(attached_state[name], value) for name, value in before.items())
    # a state that is loaded reaches the very parameters that the optimiser holds
    held = {name: layer.selected_weight for name, layer in attached.selected.items()}
    other = {name: value + 1 for name, value in before.items()}
    model.load_state_dict(other)
    assert all(layer.selected_weight is held[name] for name, layer in attached.selected.items())
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(other | {"left.weight": torch.zeros(1)})
    plain = Own().double()
    plain.load_state_dict(model.state_dict())
    attached.detach()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_detach_gives_back_classes_flags_and_parameter_objects():
    model = Own()
    model.left.weight.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    objects = dict(model.named_parameters())
    classes = [type(module) for module in model.modules()]
    contents = [set(module.__dict__) for module in model.modules()]
    attached = attach(model, classifier="head")
    attached.select(some_channels(model, "head"))
    attached.detach()
    assert [type(module) for module in model.modules()] == classes
    assert [set(module.__dict__) for module in model.modules()] == contents
    assert list(objects) == [name for name, _ in model.named_parameters()]
    assert all(parameter is objects[name] for name, parameter in model.named_parameters())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not list(model.buffers()) == [] and all("selected" not in name for name, _ in model.named_buffers())


def test_copies_and_conversions_of_an_attached_model():
    model = unsettle(Own(), torch.float32)
    attached = attach(model, classifier="head")
    attached.select(some_channels(model, "head"))
    twin = copy.deepcopy(attached)
    images = torch.randn(2, 3, 9, 9)
    model.eval(), twin.model.eval()
    before = model(images)
    assert torch.equal(twin.model(images), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(images), before) and not torch.equal(twin.model(images), before)
    twin.model.double()
    twin.model(images.double()).sum().backward()
    assert twin.gradients()["left"].dtype == torch.float64
    plain = twin.detach()
    assert plain is twin.model and plain.left.weight.dtype == torch.float64 and type(plain.left) is nn.Conv2d
    assert type(model.left) is SubnetConv2d
    torch.testing.assert_close(attached.detach()(images), before)


# --- epochs --------------------------------------------------------------------------------------


def own_ranking(model, input_shape) -> Ranking:
    names = tuple(layer.name for layer in costs.layers(model, input_shape, "classifier"))
    return Ranking("own", "own", names, tuple(1.0 + i % 3 for i in range(len(names))), (1.0,) * len(names))


def epochs_of(model, subnet, optimizer, first, last):
    for epoch in range(first, last):
        generator = torch.Generator().manual_seed(epoch)
        subnet.next_epoch(optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(4, 3, 32, 32, generator=generator)), torch.arange(4) % 3).backward()
            optimizer.step()


@pytest.mark.parametrize("execution", ["subnet", "dense"])
@pytest.mark.parametrize("norm_gradient", ["last", "mean_norm", "mean"])
def test_resumed_at_an_epoch_boundary_with_identical_results(tmp_path, execution, norm_gradient):
    def start():
        torch.manual_seed(3)
        model = networks.build("mcunet-in1", weights="random", classes=3, generator=torch.Generator().manual_seed(0))
        subnet = Subnet(
            model,
            20_000,
            ranking=own_ranking(model, (3, 32, 32)),
            input_shape=(3, 32, 32),
            seed=5,
            execution=execution,
            norm_gradient=norm_gradient,
        )
        return model.train(), subnet

    def optimizer_of(subnet):
        return torch.optim.SGD(subnet.parameters(), lr=0.01, momentum=0.9)

    model, subnet = start()
    optimizer = optimizer_of(subnet)
    epochs_of(model, subnet, optimizer, 0, 2)
    state = {"model": model.state_dict(), "subnet": subnet.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "epoch2.pt")
    epochs_of(model, subnet, optimizer, 2, 4)
    last, expected = subnet.selection, subnet.detach().state_dict()

    model, subnet = start()
    state = torch.load(tmp_path / "epoch2.pt", weights_only=True)
    model.load_state_dict(state["model"])
    subnet.load_state_dict(state["subnet"])
    optimizer = optimizer_of(subnet)
    optimizer.load_state_dict(state["optimizer"])
    epochs_of(model, subnet, optimizer, 2, 4)
    assert subnet.selection == last
    assert all(torch.equal(value, expected[name]) for name, value in subnet.detach().state_dict().items())


# --- bad input, wrong use ------------------------------------------------------------------------


class MyConv2d(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Odd(nn.Module):
    """Layers that cannot be selected."""

    def __init__(self):
        super().__init__()
        self.mine = MyConv2d(3, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.hooked, self.a = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.tied = nn.Conv2d(4, 4, 1)
        self.tied.weight = self.a.weight
        self.hooked.register_forward_hook(lambda module, inputs, output: output * 3)
        self.norm = nn.BatchNorm2d(4)
        self.norm.register_forward_hook(lambda module, inputs, output: output + 1)
        self.plain = nn.Conv2d(4, 4, 1)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        x = self.normed(self.a(self.hooked(self.up(self.mine(x)))))
        return self.classifier(self.norm(self.plain(self.tied(x))).relu().mean((2, 3)))


def test_what_cannot_be_selected_is_left_alone_and_named():
    model = unsettle(Odd())
    check(model, torch.randn(2, 3, 5, 5, dtype=torch.float64), {"plain": [0, 2]})
    attached = attach(model, classifier="classifier")
    kinds = {
        "mine": "MyConv2d",
        "up": "ConvTranspose2d",
        "hooked": "Conv2d",
        "normed": "ParametrizedConv2d",
        "norm": "BatchNorm2d",
        "classifier": "Linear",
    }
    for name, kind in kinds.items():
        with pytest.raises(InputError) as caught:
            attached.select({name: [0]})
        message = str(caught.value)
        assert repr(name) in message and kind in message and "allowed: Conv1d, Conv2d, Conv3d, Linear" in message
    with pytest.raises(InputError, match="layer 'a' cannot be selected: it shares its weight with 'tied'"):
        attached.select({"a": [0]})


@pytest.mark.parametrize("channels", [[6], [-1], [0, 0], [0.5], ["0"], [None], [True, 1], torch.tensor([0.0])], ids=str)
def test_channels_that_do_not_fit_change_nothing(channels):
    model = Around(convolution(kernel_size=1))
    attached = attach(model, classifier="classifier")
    attached.select({"before": [1]})
    with pytest.raises(
        InputError, match="layer 'conv': channels .* do not fit; allowed: different integers from 0 to 5"
    ):
        attached.select({"before": [0], "conv": channels})
    assert attached.selected["before"].channels.tolist() == [1] and list(attached.selected) == ["before"]
    attached.detach()
    masked = Dense(model, classifier="classifier")
    masked.select({"before": [1]})
    with pytest.raises(InputError, match="layer 'conv': channels .* do not fit"):
        masked.select({"before": [0], "conv": channels})
    assert model.before.weight.requires_grad and not model.conv.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "head"}, "unknown classifier module 'head'"),
        ({"classifier": "classifier", "batch_norm": "eval"}, "unknown batch norm mode 'eval'; allowed: frozen, train"),
        ({"classifier": "classifier", "norm_affine": True}, "norm_affine True needs batch norm mode 'train'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        attach(Around(convolution(kernel_size=1)), **options)


def test_unknown_layers_and_attaching_twice():
    model = Around(convolution(kernel_size=1))
    attached = attach(model, classifier="classifier")
    with pytest.raises(InputError, match="names layer 'conv9', which the model does not have"):
        attached.select({"conv9": [0]})
    with pytest.raises(InputError, match="attached already"):
        attach(model, classifier="classifier")


class SideEffect(nn.Module):
    """Counts on an in-place activation having changed what is looked at after it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(x)
        flat = y.detach()
        self.act(self.norm(y))
        z = self.norm(y)
        self.act(z)
        return self.classifier((flat + z).mean((2, 3)))


def test_side_effects_of_in_place_operations_are_kept():
    check(unsettle(SideEffect()), torch.randn(3, 3, 5, 5, dtype=torch.float64), {"conv": [0, 2]})


class Traced(nn.Module):
    """Shows torch.fx another way through than it takes: nothing that is folded would be right."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.classifier = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) if isinstance(x, torch.fx.Proxy) else self.norm(y * 2)
        return self.classifier(y.mean((2, 3)))


class Skips(Traced):
    def forward(self, x):
        y = self.conv(x)
        return self.classifier((self.norm(y) if isinstance(x, torch.fx.Proxy) else y).mean((2, 3)))


def test_a_model_that_runs_otherwise_than_it_was_traced():
    images = torch.randn(2, 3, 5, 5)
    before = Skips()
    state = copy.deepcopy(before.state_dict())
    for model, error in (
        (unsettle(Traced(), torch.float32), RuntimeError),
        (unsettle(Skips(), torch.float32), InputError),
    ):
        with pytest.raises(error):
            attach(model, classifier="classifier", example=images)
        assert type(model.conv) is nn.Conv2d and type(model.norm) is nn.BatchNorm2d  # given back unchanged
        assert model.conv.weight.requires_grad
        attach(model, classifier="classifier", example=images, fold=False)
    assert list(state) == list(model.state_dict())


def changed_between_the_passes():
    def optimiser_step(model, attached):
        with torch.no_grad():
            attached.selected["conv"].selected_weight.add_(1)

    def frozen_part(model, attached):
        with torch.no_grad():
            model.conv.weight.add_(1)

    def frozen_layer(model, attached):
        _ = model.after.weight.data  # reading is harmless
        with torch.no_grad():
            model.after.weight.add_(1)

    def running_statistics(model, attached):
        model.norm.running_var.add_(1)

    def affine(model, attached):
        with torch.no_grad():
            model.last.weight.add_(1)

    def selection(model, attached):
        attached.select({"conv": [0, 1]})

    def detached(model, attached):
        attached.detach()

    def loaded(model, attached):
        model.load_state_dict(model.state_dict())

    return [optimiser_step, frozen_part, frozen_layer, running_statistics, affine, selection, detached, loaded]


class Deeper(Around):
    """With a frozen layer and a batch norm that cannot be folded behind the selected one."""

    def __init__(self):
        super().__init__(convolution(kernel_size=3))
        self.after, self.last = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.act0(self.norm0(self.before(x)))
        x = self.act(self.norm(self.conv(x)))
        return self.classifier(self.last(self.after(x) + x).mean((2, 3)))


@pytest.mark.parametrize("change", changed_between_the_passes(), ids=lambda change: change.__name__)
def test_a_change_between_forward_and_backward_is_an_error(change):
    model = unsettle(Deeper())
    attached = attach(model, classifier="classifier")
    attached.select({"conv": [2, 3]})
    loss = model(torch.randn(2, 3, 6, 6, dtype=torch.float64)).sum()
    change(model, attached)
    with pytest.raises(RuntimeError, match="changed between forward and backward|modified by an inplace operation"):
        loss.backward()


def test_a_selected_input_that_is_changed_in_place_is_torchs_error():
    class InPlace(Around):
        def forward(self, x):
            x = self.act0(self.norm0(self.before(x)))
            y = self.conv(x)
            x.add_(1)
            return self.classifier(y.mean((2, 3)) + x.mean())

    model = unsettle(InPlace(convolution(kernel_size=1)))
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    attached = attach(model, classifier="classifier")
    attached.select({"before": [0], "conv": range(6)})  # the input itself is kept
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(images).sum().backward()
    attached.detach()
    # some channels are a copy: nothing can go wrong (torch itself refuses the whole)
    out_of_place = type(
        "OutOfPlace",
        (Around,),
        {
            "forward": lambda self, x: (lambda x: self.classifier(self.conv(x).mean((2, 3)) + (x + 1).mean()))(
                self.act0(self.norm0(self.before(x)))
            )
        },
    )(convolution(kernel_size=1)).double()
    out_of_place.load_state_dict(model.state_dict())
    _, expected = dense_gradients(out_of_place, images, torch.arange(2), {"conv": [0, 3]}, "classifier")
    attached = attach(model, classifier="classifier")
    model.zero_grad()
    attached.select({"conv": [0, 3]})
    _, found = subnet_gradients(model, attached, images, torch.arange(2))
    assert_same(found, expected, torch.float64)


@pytest.mark.parametrize("name", ["conv.bias", "after.weight", "norm.weight", "last.bias", "conv.weight"])
def test_a_gradient_that_is_asked_of_what_is_frozen_is_refused(name):
    model = unsettle(Deeper())
    nn.init.zeros_(model.conv.register_parameter("bias", nn.Parameter(torch.zeros(6).double())) or model.conv.bias)
    attach(model, classifier="classifier")
    model.get_parameter(name).requires_grad_(True)
    with pytest.raises(InputError, match="requires a gradient but is frozen"):
        model(torch.randn(2, 3, 6, 6, dtype=torch.float64))


def test_second_derivatives_are_refused():
    model = unsettle(Around(convolution(kernel_size=1)))
    attach(model, classifier="classifier").select({"conv": [0]})
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first = torch.autograd.grad(model(images).sum(), images, create_graph=True)[0]
        first.square().sum().backward()


# --- bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1000, kernels._PIECE + 5])
def test_bits(count, dtype):
    values = (torch.randn(count) * 4).to(dtype)
    values[::5] = 0
    for ceiling in (None, 6.0):
        out = kernels.rectify(values, ceiling)
        bits = kernels.pack(out, ceiling)
        assert bits.dtype == torch.uint8 and len(bits) == -(-count // 8)
        expected = (values > 0) & (values < (6 if ceiling else float("inf")))
        assert torch.equal(kernels.unpack(bits, count).bool(), expected)
        # bit i of byte j is element 8 j + i, and the last byte is filled with zeros
        filled = F.pad(expected.int(), (0, -count % 8)).view(-1, 8)
        assert torch.equal(bits.int(), (filled << torch.arange(8)).sum(1).int())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("inplace", [True, False])
def test_activations_alone(layout, act, inplace):
    x = (torch.randn(3, 5, 4, 7, dtype=torch.float64) * 5).to(memory_format=layout)
    x[0, 0, 0, :3] = torch.tensor([0.0, 6.0, -0.0])
    grads = [torch.randn_like(x), torch.randn(3, 7, 5, 4, dtype=torch.float64).permute(0, 2, 3, 1)]
    for source in (x, x.permute(0, 2, 3, 1), x[:, ::2].contiguous(), x[0]):
        for upstream in grads:
            upstream = upstream.reshape(-1)[: source.numel()].reshape(source.shape)
            leaf = source.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            expected = torch.autograd.grad(act()(leaf * 1), leaf, upstream)[0]
            found = torch.autograd.grad(
                kernels.Rectify.apply(leaf * 1, 6.0 if act is nn.ReLU6 else None, inplace), leaf, upstream
            )[0]
            assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_infinite_gradients_do_not_leak_through_closed_activations(dtype):
    x = torch.tensor([-1.0, 1.0, -1.0, 2.0], dtype=dtype, requires_grad=True)
    upstream = torch.tensor([float("inf"), 3.0, float("nan"), float("inf")], dtype=dtype)
    found = torch.autograd.grad(kernels.Rectify.apply(x, 6.0, False), x, upstream)[0]
    assert torch.equal(found, torch.autograd.grad(F.relu6(x), x, upstream)[0])


def test_an_in_place_activation_of_a_tensor_with_gaps_is_refused():
    x = torch.randn(2, 6, 4, 4, requires_grad=True)
    with pytest.raises(InputError, match="in-place ReLU on a tensor with gaps"):
        kernels.Rectify.apply((x * 1)[:, ::2], None, True)


# --- CUDA ----------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@cuda
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cuda_gives_the_cpus_gradients(layout):
    model = network("mbv2-w0.35").to(memory_format=layout)
    chosen = spread(model)
    images, labels = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.arange(2)
    _, expected = dense_gradients(model, images, labels, chosen, "classifier")
    attached = attach(model.cuda(), classifier="classifier")
    attached.select(chosen)
    _, found = subnet_gradients(model, attached, images.cuda().to(memory_format=layout), labels.cuda())
    assert_same({name: value.cpu() for name, value in found.items()}, expected, torch.float64)


@cuda
def test_cuda_autocast_and_moving_an_attached_model():
    model = network("mcunet-in1", torch.float32)
    attached = attach(model, classifier="classifier")
    attached.select(spread(model))
    model.cuda()
    with torch.autocast("cuda", torch.float16):
        loss = model(torch.randn(2, 3, 64, 64, device="cuda")).sum()
    loss.backward()
    assert all(torch.isfinite(rows).all() for rows in attached.gradients().values())
    model.cpu()
    assert all(parameter.device.type == "cpu" for parameter in attached.detach().parameters())


@cuda
def test_cuda_bits():
    values = torch.randn(1001, device="cuda") * 4
    out = kernels.rectify(values, 6.0)
    bits = kernels.pack(out, 6.0)
    assert torch.equal(bits.cpu(), kernels.pack(out.cpu(), 6.0))
    assert torch.equal(kernels.unpack(bits, 1001).bool(), (values > 0) & (values < 6))
