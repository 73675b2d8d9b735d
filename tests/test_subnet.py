"""Subnet in the hands of people: their models, optimisers, wrappers and habits. Oracles are torch's own results."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, update_bn

import medyate
from medyate import costs
from medyate.errors import InputError
from medyate.execution.attach import attach
from medyate.execution.masked import _per_channel
from medyate.ranking import Ranking
from medyate.strategies import MEDYATE, UNIFORM, Strategy
from medyate.subnet import Subnet

SHAPE, BUDGET = (3, 16, 16), 2000
OURS = Strategy("MeDyate", "over all layers", MEDYATE)
RANDOM = Strategy("random", "over all layers", UNIFORM)
WEIGHTS = ("stem.0", "deep.0", "wide.0")


class Net(nn.Module):
    """Three foldable units, a batch norm of another kind, a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep, self.wide = self.unit(3, 8), self.unit(8, 8, groups=8), self.unit(8, 16)
        self.last, self.head = nn.BatchNorm1d(16), nn.Linear(16, 4)

    @staticmethod
    def unit(i, o, groups=1):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6())

    def forward(self, x):
        return self.head(self.last(self.wide(self.deep(self.stem(x))).mean((2, 3))))


def data(count=3, size=8, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, *shape, generator=generator), torch.arange(size) % 4) for _ in range(count)]


def whole(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def epoch(model, optimizer, batches=None):
    for x, y in batches or data():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def start(model=None, strategy=OURS, **options):
    model = (model or Net()).train()
    return model, Subnet(model, BUDGET, strategy, input_shape=options.pop("input_shape", SHAPE), **options)


def selected(subnet):
    return {f"{name}.weight" for name in subnet.selection.channels}


HEAD = {"head.weight", "head.bias"}


# --- the same objects for the whole training -----------------------------------------------------------


@pytest.mark.parametrize("hand_over", [True, False])
def test_groups_hold_the_same_objects_and_each_its_own_rate(hand_over):
    model, subnet = start()
    backbone = [p for name, p in model.named_parameters() if not name.startswith("head")]
    optimizer = torch.optim.SGD([{"params": model.head.parameters(), "lr": 0.5}, {"params": backbone, "lr": 0.01}])
    before = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    for _ in range(3):
        subnet.next_epoch(optimizer if hand_over else None)
        state = whole(model)
        epoch(model, optimizer, data(1))
        for name, layer in subnet.attached.selected.items():
            expected = state[f"{name}.weight"] - 0.01 * dense_gradient(state, name, layer.channels)
            torch.testing.assert_close(model.state_dict()[f"{name}.weight"], expected, rtol=1e-4, atol=1e-7)
        assert moved(model, state) == selected(subnet) | HEAD
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == before


def dense_gradient(state, name, channels):
    """torch's own gradient of a layer's weight, zero outside the channels."""
    model = Net().train()
    model.load_state_dict(state)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.eval()
    ((x, y),) = data(1)
    F.cross_entropy(model(x), y).backward()
    layer = model.get_submodule(name)
    mask = torch.zeros(layer.in_channels)
    mask[channels] = 1
    mask = mask.view(layer.groups, 1, -1).expand(layer.groups, layer.out_channels // layer.groups, -1)
    return layer.weight.grad * mask.reshape(layer.out_channels, -1, 1, 1)


@pytest.mark.parametrize("made_of", ["before", "head", "filtered"])
def test_optimisers_that_were_made_otherwise(made_of):
    model = Net()
    if made_of == "before":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, subnet = start(model)
    if made_of == "head":
        optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    elif made_of == "filtered":
        optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
    before = whole(model)
    subnet.next_epoch()
    if made_of == "filtered":
        epoch(model, optimizer)
        assert moved(model, before) == selected(subnet) | HEAD
        return
    with pytest.warns(UserWarning, match="no optimiser holds its weight"):
        epoch(model, optimizer, data(1))
    assert moved(model, before) == HEAD
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        epoch(model, optimizer)
    subnet.next_epoch(optimizer)
    before = whole(model)
    epoch(model, optimizer)
    assert moved(model, before) == selected(subnet) | HEAD


def test_two_optimisers_share_the_work_without_a_word():
    model, subnet = start()
    head = torch.optim.SGD(model.head.parameters(), lr=0.1)
    inside = {id(p) for p in model.head.parameters()}
    rest = torch.optim.AdamW([p for p in subnet.parameters() if id(p) not in inside])
    subnet.next_epoch()
    before = whole(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in data():
            F.cross_entropy(model(x), y).backward()
            head.step(), rest.step()
            head.zero_grad(), rest.zero_grad()
    assert moved(model, before) == selected(subnet) | HEAD
    subnet.next_epoch()


def test_next_epoch_that_is_never_called_is_told_once():
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="next_epoch has not been called"):
        epoch(model, optimizer, data(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epoch(model, optimizer)
    start()[1].detach()


def test_momentum_belongs_to_the_channels_and_goes_with_them():
    model, subnet = start(strategy=RANDOM)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1, momentum=0.9)
    former = {}
    for _ in range(4):
        subnet.next_epoch()
        before, kept = whole(model), former == subnet.selection.channels
        x, y = data(1)[0]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        gradients = {name: layer.selected_weight.grad.clone() for name, layer in subnet.attached.selected.items()}
        optimizer.step()
        for name, layer in subnet.attached.selected.items():
            if subnet.selection.channels[name] == former.get(name) or kept:
                continue  # the same channels as before keep theirs
            step = layer.part(before[f"{name}.weight"]) - layer.selected_weight
            torch.testing.assert_close(step, 0.1 * gradients[name], rtol=1e-3, atol=1e-6)
        epoch(model, optimizer)
        former = dict(subnet.selection.channels)


def test_lbfgs_moves_what_is_selected():
    model, subnet = start()
    optimizer = torch.optim.LBFGS(subnet.parameters(), lr=0.05, max_iter=4)
    ((x, y),) = data(1)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        subnet.next_epoch()
        before = whole(model)
        first = float(optimizer.step(closure).detach())
        assert float(closure().detach()) < first
        assert moved(model, before) == selected(subnet) | HEAD


# --- averages, copies, saved states ----------------------------------------------------------------------


@pytest.mark.parametrize("buffers", [False, True])
def test_a_moving_average_is_that_of_whole_weights(buffers):
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.5), use_buffers=buffers)
    expected = None
    for _ in range(3):
        subnet.next_epoch()
        for batch in data():
            epoch(model, optimizer, [batch])
            average.update_parameters(model)
            now = whole(model)
            expected = now if expected is None else {k: 0.5 * expected[k] + 0.5 * now[k] for k in now}
    before = whole(model)
    twin = subnet.detach(average.module)
    assert type(twin.stem[0]) is nn.Conv2d and list(twin.state_dict()) == list(before)
    for name, value in expected.items():
        if before[name].is_floating_point():
            torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not moved(model, before)  # the average shares nothing that it changes
    x = data(1)[0][0]
    plain = Net()
    plain.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin.eval()(x), plain.eval()(x))
    update_bn([x], twin)  # a plain module again
    epoch(model, optimizer)


def test_a_copy_runs_and_stays_what_it_was():
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    subnet.next_epoch()
    epoch(model, optimizer)
    best, x = copy.deepcopy(model).eval(), data(1)[0][0]
    expected = best(x)
    state = whole(model)
    epoch(model, optimizer)
    assert torch.equal(best(x), expected) and not moved(best, state)
    best.load_state_dict(model.state_dict())
    assert not moved(best, whole(model))


@pytest.mark.parametrize("order", [("model", "subnet", "optimizer"), ("optimizer", "subnet", "model")])
@pytest.mark.parametrize("steps", [0, 2], ids=["at an epoch's end", "within an epoch"])
def test_resumed_in_any_order_with_the_same_result(order, steps):
    def fresh():
        model, subnet = start(norm_gradient="mean")
        return {"model": model, "subnet": subnet, "optimizer": torch.optim.Adam(subnet.parameters(), lr=0.01)}

    def go_on(parts, batches):
        epoch(parts["model"], parts["optimizer"], batches)
        parts["subnet"].next_epoch()
        epoch(parts["model"], parts["optimizer"])

    one = fresh()
    one["subnet"].next_epoch()
    epoch(one["model"], one["optimizer"], data()[:1] if steps else data())
    saved = copy.deepcopy({name: part.state_dict() for name, part in one.items()})
    rest = data()[1:] if steps else []
    for x, y in rest:
        epoch(one["model"], one["optimizer"], [(x, y)])
    go_on(one, data(1))
    other = fresh()
    for name in order:
        other[name].load_state_dict(saved[name])
    for x, y in rest:
        epoch(other["model"], other["optimizer"], [(x, y)])
    go_on(other, data(1))
    assert other["subnet"].selection == one["subnet"].selection
    assert not moved(other["model"], whole(one["model"]))


# --- what people do to gradients and weights -----------------------------------------------------------------


def selections(after_step, epochs=3, backward=lambda loss: loss.backward(), **options):
    """The selections of some epochs, and N, where ``after_step`` is done behind each step."""
    model, subnet = start(**options)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.05)
    found = []
    for _ in range(epochs):
        found.append(subnet.next_epoch())
        for x, y in data():
            optimizer.zero_grad()
            backward(F.cross_entropy(model(x), y))
            optimizer.step()
            after_step(model, optimizer)
    subnet.next_epoch()
    return found, subnet.selector.norms


@pytest.mark.parametrize("norm_gradient", ["last", "mean", "mean_norm"])
@pytest.mark.parametrize(
    "clear",
    [lambda m, o: o.zero_grad(), lambda m, o: o.zero_grad(set_to_none=False), lambda m, o: m.zero_grad()],
    ids=["optimiser", "zeros", "model"],
)
def test_gradients_may_be_cleared_before_the_epoch_ends(norm_gradient, clear):
    expected, norms = selections(lambda *_: None, norm_gradient=norm_gradient)
    found, same = selections(clear, norm_gradient=norm_gradient)
    assert found == expected and torch.equal(norms, same) and len(norms.unique()) > 3


def scaled(optimizer_options, scale, norm_gradient):
    model, subnet = start(norm_gradient=norm_gradient)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.05, **optimizer_options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2, enabled=scale != 1)
    for _ in range(3):
        subnet.next_epoch()
        for x, y in data():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    subnet.next_epoch()
    return subnet.selector.norms


@pytest.mark.parametrize("norm_gradient", ["last", "mean", "mean_norm"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_factor_of_a_grad_scaler_is_not_in_the_norms(norm_gradient, fused):
    expected = scaled({}, 1, norm_gradient)
    torch.testing.assert_close(scaled({"fused": fused}, 2.0**12, norm_gradient), expected, rtol=1e-3, atol=1e-9)


def test_an_overflow_in_an_epochs_only_step_is_no_divergence():
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.9 * 2.0**127)
    ((x, y),) = data(1)
    for expectation in (warnings.catch_warnings(), pytest.warns(UserWarning, match="passed over")):
        with expectation:
            subnet.next_epoch()
        optimizer.zero_grad()
        scaler.scale(10 * F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()


def test_a_loop_without_an_optimiser_of_torchs():
    model, subnet = start()
    for _ in range(3):
        subnet.next_epoch()
        before = whole(model)
        for x, y in data():
            for parameter in subnet.parameters():
                parameter.grad = None
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for parameter in subnet.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
        assert moved(model, before) == selected(subnet) | HEAD


@pytest.mark.parametrize("how", ["in place", "data", "init", "all of them", "loaded"])
def test_changes_of_a_selected_weight_stay(how):
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=1e-6)
    subnet.next_epoch()
    name = next(iter(subnet.selection.channels))
    layer = model.get_submodule(name)
    if how == "in place":
        with torch.no_grad():
            layer.weight.clamp_(-1e-3, 1e-3)
    elif how == "data":
        layer.weight.data.clamp_(-1e-3, 1e-3)
    elif how == "init":
        nn.init.uniform_(layer.weight, -1e-3, 1e-3)
    elif how == "all of them":
        for parameter in model.parameters():
            parameter.data.clamp_(-1e-3, 1e-3)
    else:
        model.load_state_dict({key: value.clamp(-1e-3, 1e-3) for key, value in model.state_dict().items()})
    assert float(model.state_dict()[f"{name}.weight"].abs().max()) <= 1.001e-3
    epoch(model, optimizer)
    assert float(model.state_dict()[f"{name}.weight"].abs().max()) <= 1.1e-3
    assert float(layer.selected_weight.abs().max()) <= 1.1e-3
    subnet.detach()
    assert float(layer.weight.abs().max()) <= 1.1e-3


def test_what_the_user_froze_stays_frozen():
    model = Net()
    model.deep.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen before"):
        subnet = Subnet(model.train(), 1300, RANDOM, input_shape=SHAPE)
    assert subnet.coverage.obstacles["deep.0"].endswith("frozen before")
    optimizer, before = torch.optim.SGD(subnet.parameters(), lr=0.1), whole(model)
    for _ in range(6):
        subnet.next_epoch()
        epoch(model, optimizer)
    assert moved(model, before) == {"stem.0.weight", "wide.0.weight", "head.weight"}
    with pytest.raises(InputError, match="no layer to select"):
        start(Net().requires_grad_(False))
    model = Net().train()
    model.deep.requires_grad_(False)
    baseline = Subnet(model, strategy="Baseline", input_shape=SHAPE)
    before = whole(model)
    epoch(model, torch.optim.SGD(baseline.parameters(), lr=0.1))
    assert not {name for name in moved(model, before) if name.startswith("deep") and "running" not in name} - {
        "deep.1.num_batches_tracked"
    }


def test_a_gradient_of_before_is_given_back():
    model = Net().train()
    F.cross_entropy(model(data(1)[0][0]), data(1)[0][1]).backward()
    start(model)
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("head"))


def test_a_layer_that_gradients_do_not_reach_is_told():
    class Unreached(Net):
        def forward(self, x):
            x = self.stem(x)
            x = torch.utils.checkpoint.checkpoint(self.deep, x.detach(), use_reentrant=True)
            return self.head(self.last(self.wide(x).mean((2, 3))))

    model = Unreached().train()
    with pytest.raises(InputError, match=r"layer 'stem.0' gets no gradient.*use_reentrant=False"):
        medyate.rank(model, data(), input_shape=SHAPE)
    model, subnet = start(model, strategy=RANDOM)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="has no gradient at this step"):
        for _ in range(4):
            subnet.next_epoch()
            epoch(model, optimizer)


# --- the model itself ----------------------------------------------------------------------------------------


def test_a_layer_by_itself_gives_its_own_output_and_hooks_see_it():
    model, x = Net().eval(), data(1)[0][0]
    seen = []
    parts = [model.stem[0], model.stem[0:2], model.stem, model.wide[0]]
    inputs = [x, x, x, torch.randn(2, 8, 5, 5)]
    expected = [part(given) for part, given in zip(parts, inputs)]
    whole_output = model(x)
    model, subnet = start(model)
    model.eval()
    for part, given, one in zip(parts, inputs, expected):
        torch.testing.assert_close(part(given), one)
    assert any(layer.norm is not None for layer in subnet.attached.splits())
    torch.testing.assert_close(model(x), whole_output)
    handle = model.stem[0].register_forward_hook(lambda module, given, output: seen.append(output))
    torch.testing.assert_close(model(x), whole_output)
    torch.testing.assert_close(seen[0], expected[0])
    handle.remove()
    subnet.next_epoch()
    before = whole(model)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    model.train().wide[1].register_forward_hook(lambda *_: None)
    epoch(model, optimizer, data(1))
    gradient = dense_gradient(before, "wide.0", subnet.attached.selected["wide.0"].channels)
    torch.testing.assert_close(
        model.state_dict()["wide.0.weight"], before["wide.0.weight"] - 0.1 * gradient, rtol=1e-4, atol=1e-6
    )


class Constant(Net):
    def forward(self, x):
        return super().forward(x * torch.tensor(1.0))


def test_detach_leaves_nothing_behind():
    model = Constant().to(memory_format=torch.channels_last).train()
    model.deep[1].eval()
    model.other = nn.Sequential(nn.Linear(2, 2))
    patched = model.wide.forward
    model.wide.forward = patched
    model.grad_note = "mine"

    def traits():
        return (
            [(name, set(vars(m)), type(m), m.training) for name, m in model.named_modules()],
            [(name, id(p), p.requires_grad, p.stride()) for name, p in model.named_parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        )

    before = traits()
    model, subnet = start(model.train(True))
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    modes = [m.training for m in model.modules()]
    for _ in range(3):
        subnet.next_epoch()
        epoch(model, optimizer)
    assert [m.training for m in model.modules()] == modes
    assert subnet.detach() is model
    model.deep[1].eval()
    after = traits()
    assert after[0] == before[0] and after[1] == before[1] and after[2] == before[2]
    assert model.wide.__dict__["forward"] is patched


def test_a_forward_that_is_patched_meanwhile_is_the_users():
    model, subnet = start()
    mine = lambda x: x  # noqa: E731
    model.forward = mine
    subnet.detach()
    assert model.__dict__["forward"] is mine


def test_new_statistics_for_frozen_batch_norms_are_refused():
    model, subnet = start()
    before = whole(model)
    with pytest.raises(InputError, match="frozen"):
        update_bn([data(1)[0][0]], model)
    assert not moved(model, before)
    with pytest.raises(InputError, match="frozen"):
        model.last.reset_running_stats()
    subnet.detach()
    update_bn([data(1)[0][0]], model)
    assert "last.running_mean" in moved(model, before)


def test_larger_samples_than_the_budget_counts_are_refused():
    model, subnet = start()
    subnet.next_epoch()
    large = torch.randn(2, 3, 32, 32)
    with pytest.raises(InputError, match=r"\(3, 32, 32\) where the budget counts input_shape \(3, 16, 16\)"):
        model(large)
    with pytest.raises(InputError, match="larger than input_shape"):
        model.wide(torch.randn(2, 8, 32, 32)) if "wide.0" in subnet.selection.channels else model.stem(large)
    model.eval()
    with torch.no_grad():
        model(large)
    model.train()(torch.randn(2, 3, 8, 8))


def test_what_can_be_selected_is_told_and_nothing_else_is_drawn():
    class Mine(nn.Conv2d):
        pass

    model = Net()
    model.deep[0] = Mine(8, 8, 3, padding=1)
    model.stem[0].register_forward_hook(lambda *_: None)
    model.table = nn.Embedding(5, 4)
    with pytest.warns(UserWarning, match="1 layers can be selected") as told:
        model, subnet = start(model, strategy=RANDOM)
    line = str(told[0].message)
    assert "'deep.0': it is a Mine, a kind of Conv2d" in line and "'stem.0': it is a Conv2d with a hook" in line
    assert subnet.coverage.selectable == ("wide.0",) and subnet.coverage.classifier == ("head",)
    total = 3 * 8 * 9 + 8 * 8 * 9 + 8 * 16 * 9 + 20
    assert subnet.coverage.share == pytest.approx(8 * 16 * 9 / total)
    assert all(set(subnet.next_epoch().channels) == {"wide.0"} for _ in range(8))
    with pytest.raises(InputError, match="no layer to select"):
        start(OnlyMine(Mine))
    with pytest.raises(InputError, match="no layer to rank"):
        medyate.rank(OnlyMine(Mine), data(), input_shape=SHAPE)


class OnlyMine(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.head = kind(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision(dtype):
    model, subnet = start(Net().to(dtype))
    optimizer, before = torch.optim.SGD(subnet.parameters(), lr=0.1), whole(model)
    for _ in range(2):
        subnet.next_epoch(optimizer)
        epoch(model, optimizer, [(x.to(dtype), y) for x, y in data()])
    assert HEAD < moved(model, before)


def test_numpys_integers_are_integers():
    budget = np.int64(BUDGET)
    assert Subnet(Net(), budget, RANDOM, input_shape=SHAPE, seed=np.int32(3)).next_epoch().count
    with pytest.raises(InputError, match="is not an integer"):
        Subnet(Net(), np.float64(BUDGET), RANDOM, input_shape=SHAPE)


def test_torch_compile_leaves_an_attached_model_alone():
    model, subnet = start(strategy=RANDOM)
    compiled = torch.compile(model, backend="eager")
    optimizer, before = torch.optim.SGD(subnet.parameters(), lr=0.1), whole(model)
    frames = []
    for _ in range(3):
        subnet.next_epoch()
        epoch(compiled, optimizer)
        frames.append(torch._dynamo.utils.counters["stats"].get("calls_captured", 0))
    assert len(set(frames)) == 1  # nothing is compiled anew
    assert HEAD < moved(model, before)
    subnet.detach()
    with pytest.raises(InputError, match="compiled model cannot be attached"):
        Subnet(compiled, BUDGET, RANDOM, input_shape=SHAPE, classifier="_orig_mod.head")


# --- other layers -------------------------------------------------------------------------------------------------


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.inner(x.tanh()).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
        (nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular", groups=2), (4, 9)),
        (nn.Conv3d(4, 6, (1, 3, 2), dilation=(1, 2, 1), bias=False), (4, 3, 7, 6)),
        (nn.Conv3d(6, 6, 3, padding=1, groups=6), (6, 3, 4, 5)),
    ],
    ids=["1d", "1d circular grouped", "3d", "3d depthwise"],
)
def test_convolutions_of_one_and_three_dimensions(layer, shape):
    torch.manual_seed(0)
    model, x = Around(layer).double(), torch.randn(3, *shape, dtype=torch.float64)
    (found,) = costs.layers(model, shape)
    padding = 2 if layer.padding_mode == "circular" else 0  # counts at the size at which it is used
    assert found.channel_elements == layer.weight.numel() // layer.in_channels + x[0, 0].numel() + padding
    model(x).square().sum().backward()
    expected, rows = model(x), _per_channel(layer.weight.grad, layer.groups)
    attached = attach(model, classifier="head", example=x[:1])
    attached.select({"inner": [0, 2]})
    output = model(x)
    output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(attached.gradients()["inner"], rows[[0, 2]])
    attached.detach()


@pytest.mark.parametrize("bias", [True, False])
def test_the_one_weight_of_attention(bias):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.attention, self.head = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            x = self.norm(self.first(x))
            return self.head(x + self.attention(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    model, x = Attends().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    expected = model(x)
    expected.square().sum().backward()
    rows = {
        "attention": model.attention.in_proj_weight.grad.t()[[1, 6]],
        "first": model.first.weight.grad.t()[[0]],
        "attention.out_proj": model.attention.out_proj.weight.grad.t()[[2, 3]],
    }
    attached = attach(model, classifier="head", example=x[:1])
    attached.select({"attention": [1, 6], "first": [0], "attention.out_proj": [2, 3]})
    output = model(x)
    output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    for name, gradient in attached.gradients().items():
        torch.testing.assert_close(gradient, rows[name])
    with torch.no_grad():
        attached.selected["attention"].selected_weight.add_(1)
    assert torch.equal(model.attention.in_proj_weight[:, [1, 6]], attached.selected["attention"].selected_weight)
    assert model.eval()(x).shape == (2, 5, 3)
    attached.detach()
    assert type(model.attention) is nn.MultiheadAttention and "selected_weight" not in dict(model.named_parameters())


# --- batches and outputs of every form ----------------------------------------------------------------------------


class Reply(dict):
    logits = property(lambda self: self["logits"])


def answering(form):
    class Answering(Net):
        def forward(self, pixel_values=None, labels=None):
            y = super().forward(pixel_values)
            return {"tensor": y, "tuple": (y, pixel_values), "mapping": {"logits": y}, "reply": Reply(logits=y)}[form]

    return Answering()


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping", "reply"])
def test_outputs_and_batches_of_any_form_rank_alike(form):
    expected = medyate.rank(Net(), data(), input_shape=SHAPE)
    named = [{"pixel_values": x, "labels": y} for x, y in data()]
    within = [({"pixel_values": x}, y) for x, y in data()]
    for batches in (data(), named, within):
        found = medyate.rank(answering(form), batches, input_shape=SHAPE, classifier="head")
        assert found.lara == expected.lara and found.layers == WEIGHTS
    model, subnet = start(answering(form), strategy="LaRa Det Raw", ranking=found, classifier="head")
    norms = subnet.channel_norms_of(named)
    assert set(norms) == set(WEIGHTS)
    assert subnet.next_epoch(whole_gradient=norms).count


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda x, y: (x, y, y), "a batch is a tuple of 3"),
        (lambda x, y: x, "a batch is a Tensor"),
        (lambda x, y: {"x": x}, "has no labels"),
    ],
)
def test_what_is_no_batch_is_told(batch, message):
    with pytest.raises(InputError, match=message):
        medyate.rank(Net(), [batch(*one) for one in data()], input_shape=SHAPE)


def test_not_a_number_is_refused_on_both_sides():
    batches = data()
    batches[1][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="the loss is nan in batch 2 of epoch 1"):
        medyate.rank(Net(), batches, input_shape=SHAPE)
    ranking = Ranking("Net", "own", WEIGHTS, (1.0, float("nan"), 2.0), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="nan as LaRa of layer 'deep.0'"):
        Subnet(Net(), BUDGET, "LaRa MeDyate", ranking=ranking, input_shape=SHAPE)


# --- several processes ----------------------------------------------------------------------------------------------


def _distributed(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, subnet = start()
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    for _ in range(3):
        subnet.next_epoch()
        for x, y in data(2):
            optimizer.zero_grad()
            half = slice(4 * rank, 4 * rank + 4)
            with wrapped.no_sync():  # accumulated, then averaged once
                (F.cross_entropy(wrapped(x[half]), y[half]) / 2).backward()
            (F.cross_entropy(wrapped(x[half]), y[half]) / 2).backward()
            optimizer.step()
    torch.save(whole(model), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ddp_wrapped_once_trains_as_one_process_does(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_distributed, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    model, subnet = start()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    for _ in range(3):
        subnet.next_epoch()
        epoch(model, optimizer, data(2))
    for name, value in whole(model).items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=name)
