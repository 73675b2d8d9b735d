"""Importance against channel-by-channel loops over autograd's gradients."""

import pytest
import torch
from torch import nn

from medyate import costs, importance


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.full = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.hidden = nn.Linear(12, 6)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x):
        x = self.grouped(self.depthwise(self.full(x)).tanh()).tanh()
        return self.classifier(self.hidden(x.mean((2, 3))).tanh())


@pytest.fixture
def trained():
    torch.manual_seed(0)
    model = Net().double()
    layers = costs.layers(model, (3, 6, 5))
    x, labels = torch.randn(4, 3, 6, 5, dtype=torch.float64), torch.arange(4)
    nn.functional.cross_entropy(model(x), labels).backward()
    return model, layers


def by_loop(gradient, groups):
    """The norm of what each input channel's weights got, one channel after another."""
    outputs, per_group = gradient.shape[0] // groups, gradient.shape[1]
    found = []
    for channel in range(groups * per_group):
        group, inner = divmod(channel, per_group)
        own = gradient[group * outputs : (group + 1) * outputs, inner]
        found.append(sum(float(value) ** 2 for value in own.flatten()) ** 0.5)
    return torch.tensor(found, dtype=torch.float64)


def test_channel_norms_are_those_of_a_loop(trained):
    model, layers = trained
    assert [layer.name for layer in layers] == ["full", "depthwise", "grouped", "hidden"]
    for layer in layers:
        gradient = model.get_submodule(layer.name).weight.grad
        norms = importance.channel_norms(gradient, layer.groups)
        assert norms.shape == (layer.channels,) and (norms > 0).all()
        torch.testing.assert_close(norms, by_loop(gradient, layer.groups))


def test_a_channels_weights_are_those_that_read_it(trained):
    """An input channel that is zero gives its weights no gradient: the norm there, and only there, is 0."""
    model, _ = trained
    for name, channel in (("grouped", 5), ("depthwise", 2), ("full", 1)):
        conv = model.get_submodule(name)
        x = torch.randn(2, conv.in_channels, 6, 5, dtype=torch.float64)
        x[:, channel] = 0
        (gradient,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
        norms = importance.channel_norms(gradient, conv.groups)
        assert (norms == 0).nonzero().flatten().tolist() == [channel]


def test_metrics_are_the_papers_equations(trained):
    model, layers = trained
    norms = {
        layer.name: importance.channel_norms(model.get_submodule(layer.name).weight.grad, layer.groups)
        for layer in layers
    }
    found = importance.layer_metrics(norms, layers)
    for index, layer in enumerate(layers):
        gradient = model.get_submodule(layer.name).weight.grad
        kernel = gradient.shape[2:].numel() if gradient.dim() == 4 else 1
        inputs = 6 * 5 if gradient.dim() == 4 else 1
        channel = gradient.shape[0] // layer.groups * kernel + inputs  # eq. 4
        torch.testing.assert_close(
            importance.rgn(norms[layer.name], layer), by_loop(gradient, layer.groups) / channel
        )  # eq. 7
        assert found["layer_rgn"][index] == pytest.approx(
            float(by_loop(gradient, layer.groups).sum()) / channel
        )  # eq. 8
        assert found["lara"][index] == pytest.approx(float(gradient.norm()) / (layer.channels * channel))  # eq. 9


def test_gatherer_averages_over_steps_and_adds_up_epochs(trained):
    model, layers = trained
    weights = [model.get_submodule(layer.name).weight for layer in layers]
    gatherer = importance.Gatherer(weights, layers)
    generator = torch.Generator().manual_seed(1)
    epochs, gradients = [], []
    for steps in (3, 2):
        seen, total = [], [0] * len(weights)
        for _ in range(steps):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            gatherer.step()
            total = [one + weight.grad / steps for one, weight in zip(total, weights)]
            seen.append(torch.cat([by_loop(weight.grad, layer.groups) for weight, layer in zip(weights, layers)]))
        gatherer.epoch()
        epochs.append(seen)
        gradients.append(torch.cat([by_loop(one, layer.groups) for one, layer in zip(total, layers)]))
    for last, mean, of_mean, seen, norms in zip(
        gatherer.last, gatherer.mean, gatherer.of_mean, epochs, gradients, strict=True
    ):
        torch.testing.assert_close(last, seen[-1])
        torch.testing.assert_close(mean, torch.stack(seen).mean(0))
        torch.testing.assert_close(of_mean, norms)
        assert (of_mean < mean).all()  # the triangle inequality: steps that disagree cancel
    assert gatherer.metrics("mean") != gatherer.metrics() == gatherer.metrics("mean_norm")
    metrics = gatherer.metrics()
    sizes = [layer.channels for layer in layers]
    for index, layer in enumerate(layers):
        parts = [torch.stack(seen).mean(0).split(sizes)[index] for seen in epochs]
        assert metrics["lara"][index] == pytest.approx(sum(float(p.norm()) for p in parts) / layer.search_elements)
        assert metrics["layer_rgn"][index] == pytest.approx(sum(float(p.sum()) for p in parts) / layer.channel_elements)
