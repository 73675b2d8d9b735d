"""What a selection will keep is told before training, and a budget can pay for all of it."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import medyate
from medyate.execution.promise import BeyondBudget
from medyate.ranking import Ranking
from medyate.selection import Selection
from medyate.strategies import UNIFORM, Strategy
from medyate.subnet import Subnet

SHAPE = (3, 24, 24)
ANY = Strategy("Any", "channels of all layers alike", UNIFORM)


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, channels, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.squeeze(x)


class Inverted(nn.Module):
    def __init__(self, act, gate):
        super().__init__()
        layers = [nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), act(), nn.Conv2d(32, 32, 3, padding=1, groups=32)]
        layers += [nn.BatchNorm2d(32), act()] + ([Gate(32)] if gate else []) + [nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Standardised(nn.Conv2d):
    def forward(self, x):
        flat = self.weight.reshape(1, len(self.weight), -1)
        weight = F.batch_norm(flat, None, None, training=True).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.qkv, self.out, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        rows = x.flatten(2).transpose(1, 2)
        query, key, value = self.qkv(self.norms[0](rows)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        rows = rows + F.dropout(self.out(mixed), 0.1, self.training)
        rows = rows + self.down(F.gelu(self.up(self.norms[1](rows))))
        return rows.transpose(1, 2).unflatten(2, x.shape[2:])


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        rows = x.flatten(2).transpose(1, 2)
        rows = rows + self.out(self.attention(rows, rows, rows, need_weights=False)[0])
        return rows.transpose(1, 2).unflatten(2, x.shape[2:])


def _net(*middle):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5)
    )


MODELS = {
    "inverted bottlenecks": lambda: _net(*[Inverted(nn.SiLU, True) for _ in range(3)]),
    "hardswish": lambda: _net(*[Inverted(nn.Hardswish, False) for _ in range(2)]),
    "group norm": lambda: _net(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Mish()),
    "pools": lambda: _net(nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3), nn.PReLU(), nn.AvgPool2d(2)),
    "weight standardisation": lambda: _net(*[nn.Sequential(Standardised(8, 8, 3), nn.GELU()) for _ in range(3)]),
    "tokens": lambda: _net(Tokens(), Tokens()),
    "attention": lambda: _net(nn.ReLU(), Attends()),
    "plain": lambda: _net(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU6()),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind]().train()


def held(model, subnet) -> int:
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.0)
    images = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(1))
    return medyate.measure(model, model[-1], optimizer, images, torch.tensor([1])).total_bytes


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_budget_that_counts_everything_bounds_everything(kind, batch_norm):
    options = {"count": "everything", "batch_norm": batch_norm}
    budget = {"frozen": 6000, "train": 9000}[batch_norm]
    for seed in range(3):
        model = made(kind)
        with Subnet(model, budget, ANY, input_shape=SHAPE, classifier=_head(model), seed=seed, **options) as subnet:
            for _ in range(3):
                subnet.next_epoch()
                assert 0 < held(model, subnet) <= 4 * budget


def _head(model: nn.Module) -> str:
    return str(len(model) - 1)


def test_what_is_kept_beyond_the_budget_is_told_with_bytes_and_what_helps():
    model = made("inverted bottlenecks")
    with pytest.warns(BeyondBudget) as told:
        subnet = Subnet(model, 400, ANY, input_shape=SHAPE, classifier=_head(model), recompute="none")
    assert len(told) == 1
    text = str(told[0].message)
    kept = int(re.search(r"keeps ([\d,]+) bytes", text)[1].replace(",", ""))
    subnet.next_epoch()
    assert kept == held(model, subnet)  # the first selection is the one that was tried
    assert "silu" in text and "mul" in text and "recompute='layers'" in text and "count='everything'" in text
    subnet.detach()
    less = int(re.search(r"recompute='layers' \(keeps ([\d,]+) bytes\)", text)[1].replace(",", ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BeyondBudget)
        subnet = Subnet(model, 400, ANY, input_shape=SHAPE, classifier=_head(model), recompute="layers")
    subnet.next_epoch()
    assert less == held(model, subnet) < kept


def test_a_later_selection_that_begins_further_forward_is_told_once(monkeypatch):
    """What train-mode batch norm keeps begins with the first selected layer, which changes from epoch to epoch."""
    model = _net(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3))
    names = [layer.name for layer in medyate.layers(model, SHAPE)]
    values = tuple(float(place) for place in range(len(names)))
    last = Ranking("net", "last first", tuple(names), values, values)
    strategy = Strategy("One", "of the last layer", UNIFORM, order="lara")
    with warnings.catch_warnings():
        warnings.simplefilter("error", BeyondBudget)
        subnet = Subnet(model, 450, strategy, ranking=last, k=1, input_shape=SHAPE, batch_norm="train")
        assert set(subnet.next_epoch().channels) == {names[-1]}
    chosen = Selection({names[0]: (0,)})
    monkeypatch.setattr(subnet.selector, "select", lambda norms: chosen)
    before = {name: value.clone() for name, value in model.named_buffers()}
    with pytest.warns(BeyondBudget, match="silu 3,200") as told:
        subnet.next_epoch()
        subnet.next_epoch()
    assert len(told) == 1 and told[0].filename == __file__
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    kept = int(re.search(r"keeps ([\d,]+) bytes", str(told[0].message))[1].replace(",", ""))
    assert kept == held(model, subnet)


def test_no_word_where_the_budget_covers_what_is_kept():
    model = made("plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error", BeyondBudget)
        Subnet(model, 2000, ANY, input_shape=SHAPE, classifier=_head(model)).detach()


def test_whoever_hooks_saved_tensors_counts_what_is_really_kept():
    model = made("inverted bottlenecks")
    subnet = Subnet(model, 2000, ANY, input_shape=SHAPE, classifier=_head(model))
    subnet.attached.select({layer.name: [0] for layer in subnet.layers})
    images, sizes, alive = torch.randn(1, *SHAPE), {}, []
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address must not be used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images).square().sum()
    loss.backward()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.0)
    parts = medyate.measure(model, model[-1], optimizer, images, torch.tensor([1])).backbone
    backbone = sum(size for part, size in parts.items() if part not in ("weight_gradients", "optimizer_state"))
    # beside the backbone's the hook sees what dropout, the head and the loss keep of a few numbers
    assert backbone <= sum(sizes.values()) <= backbone + 400


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, transposed: the head runs first."""

    def __init__(self):
        super().__init__()
        self.encoder, self.narrow, self.wide = nn.Linear(80, 16), nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x):
        hidden = self.wide(self.narrow(self.encoder(x).relu()).relu()).relu()
        return F.linear(hidden, self.encoder.weight.t())


def test_a_head_that_runs_first_is_told_and_what_is_behind_it_is_the_backbones():
    model, x = Tied(), torch.rand(1, 80)
    with pytest.warns(UserWarning, match="'encoder' of the classifier runs before all of them: it is trained always"):
        subnet = Subnet(model, 40, ANY, input_shape=(80,))
    assert subnet.coverage.classifier == ("encoder",) and subnet.coverage.early == ("encoder",)
    subnet.next_epoch()
    kept = medyate.measure(
        model, model.encoder, torch.optim.SGD(subnet.parameters(), lr=0.0), x, x, loss_function=F.mse_loss
    )
    # masks of the three rectified outputs, a bit each; the product with the head's weight keeps its 16 inputs
    assert kept.backbone["masks"] == 2 + 1 + 2 and kept.operations["linear"] == 4 * 16


def test_a_head_on_the_way_is_no_surprise():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.aside = nn.Linear(8, 8), nn.Linear(8, 2)
            self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x).relu()
            aside = self.aside(x)
            return aside, self.head(self.second(x).relu())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        subnet = Subnet(Two(), 40, ANY, input_shape=(8,))
    assert subnet.coverage.classifier == ("aside", "head") and not subnet.coverage.early
