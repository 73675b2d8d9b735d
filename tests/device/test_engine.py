"""The engine in C against torch: every kind of layer, both modes, the draw, the store, the plan's bounds."""

import ctypes
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from own_models import Bottleneck, Engine, made, make, model, needs_compiler, ranking_of, unit
from torch import nn

from medyate.device import exporting, images, planning, sampler
from medyate.errors import InputError

pytestmark = needs_compiler
_KNOWN = (
    shutil.which("cc")
    and subprocess.run(
        ["cc", "-march=native", "-E", "-x", "c", "/dev/null"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode
    == 0
)
VECTORS = ["-O3 -march=native"] if _KNOWN else []

LAYERS = {
    "full 3": (unit(3, 9, 3), 9),
    "full 5 stride 2": (unit(3, 7, 5, 2), 7),
    "full 3 then 1x1": (nn.Sequential(unit(3, 6, 3), unit(6, 10)), 10),
    "full 3 of many channels, no norm": (nn.Sequential(unit(3, 6, 3, 2), unit(6, 5, 3, norm=False, act=nn.ReLU)), 5),
    "1x1 stride 2": (nn.Sequential(unit(3, 6, 3), unit(6, 7, 1, 2)), 7),
    "valid padding": (unit(3, 6, 3, padding=0), 6),
    "depthwise 3": (Bottleneck(3, 3, 8, 3), 8),
    "bottleneck 3": (nn.Sequential(unit(3, 8, 3, 2), Bottleneck(8, 18, 9, 3)), 9),
    "bottleneck 3 stride 2": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 18, 9, 3, 2)), 9),
    "bottleneck 5": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 17, 9, 5)), 9),
    "bottleneck 5 stride 2": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 18, 9, 5, 2)), 9),
    "bottleneck 7": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 19, 6, 7)), 6),
    "bottleneck 7 stride 2": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 18, 6, 7, 2)), 6),
    "residual": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 20, 8, 3, residual=True)), 8),
    "residual without first 1x1": (nn.Sequential(unit(3, 8, 3), Bottleneck(8, 8, 8, 3, residual=True)), 8),
    "stem inside the first stage": (nn.Sequential(unit(3, 8, 3, 2), Bottleneck(8, 8, 6, 3), Bottleneck(6, 9, 6, 3)), 6),
    "no 1x1, stride 2": (nn.Sequential(unit(3, 6, 3), Bottleneck(6, 6, 7, 3, 2), Bottleneck(7, 12, 8, 3)), 8),
    "feature mix": (nn.Sequential(unit(3, 8, 3, 2), Bottleneck(8, 16, 8, 3), unit(8, 21)), 21),
    "ReLU, and one behind the last 1x1": (
        nn.Sequential(unit(3, 8, 3, 2), Bottleneck(8, 12, 8, 3, residual=True, act=nn.ReLU, last=nn.ReLU)), 8,
    ),
}  # fmt: skip


def _export(own, folder, strategy="Baseline", mode="accumulate", size=(13, 11), **options):
    return exporting.export(own, folder, strategy=strategy, mode=mode, input_shape=(3, *size), **options)


def _difference(output: str) -> tuple[int, float]:
    tensors, largest = re.search(r"^checked: (\d+) tensors, largest relative difference (\S+)$", output, re.M).groups()
    return int(tensors), float(largest)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layers_gradient_is_torchs(tmp_path, name):
    torch.manual_seed(3)
    stages, features = LAYERS[name]
    for mode in ("accumulate", "in-place"):
        folder = tmp_path / mode
        _export(model(stages, features=features), folder, mode=mode)
        output = made(folder, "check", OPTIMISE="-O0")
        tensors, largest = _difference(output)
        layers = sum(isinstance(module, nn.Conv2d) for module in stages.modules())
        assert tensors == layers + 2 + (2 if mode == "accumulate" else 1)
        assert largest < 1e-5, output


def test_sanitizers_find_nothing(tmp_path):
    torch.manual_seed(3)
    own = model(unit(3, 6, 3, 2), Bottleneck(6, 10, 6, 5, residual=True), Bottleneck(6, 6, 7, 3, 2), features=7)
    folder = tmp_path / "d"
    _export(own, folder, "LaRa MeDyate", budget=900, ranking=ranking_of(own, (3, 13, 11)), size=(13, 11))
    _write_images(folder, (3, 13, 11))
    _, largest = _difference(made(folder, "check", SANITIZE=1, OPTIMISE="-O1"))
    assert largest < 1e-5
    output = made(folder, "train", SANITIZE=1, OPTIMISE="-O1", ARGS="epochs=5 batch=4")
    assert "epoch 5/5" in output


def _write_images(folder, shape, count=12):
    """Bright ones and dark ones, with noise."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % 2
    batch = labels[:, None, None, None] - 0.5 + torch.randn((count, *shape), generator=generator) / 5
    for split in ("train", "test"):
        images.write(folder / f"{split}.bin", [(batch.clamp(-1, 1), labels)])


def test_a_wrong_gradient_would_be_seen(tmp_path):
    """The check is no check if it cannot fail: one weight of the network is not what the reference saw."""
    torch.manual_seed(3)
    folder = tmp_path / "d"
    _export(model(unit(3, 6, 3), Bottleneck(6, 10, 6, 3), features=6), folder)
    numbers = np.fromfile(folder / "weights.bin", "<f4")
    numbers[200] += 0.1
    numbers.tofile(folder / "weights.bin")
    done = make(folder, "check", OPTIMISE="-O0")
    assert done.returncode != 0 and _difference(done.stdout)[1] > 1e-3


# --- the draw ---


@pytest.fixture
def engine(tiny):
    folder, own, plan = tiny("LaRa MeDyate")
    engine = Engine(folder)
    engine.plan, engine.model, engine.folder = plan, own, folder
    engine.md_log.restype = engine.md_exp.restype = engine.md_cos.restype = ctypes.c_float
    engine.md_log.argtypes = engine.md_exp.argtypes = engine.md_cos.argtypes = [ctypes.c_float]
    return engine


def _seed(engine, seed: int) -> None:
    options = (ctypes.c_uint32 * 8)(1, 0, 1, seed, 0, 0, 0, 0)
    engine.md_start(options)


def _draw(engine, weights, costs, budget) -> list[int]:
    n = len(costs)
    costs = np.asarray(costs, np.uint32)
    keys, order = np.zeros(n, np.float32), np.zeros(n, np.uint16)
    given = None if weights is None else np.asarray(weights, np.float32)
    pointer = None if given is None else given.ctypes.data_as(ctypes.c_void_p)
    count = engine.md_sample(
        pointer, costs.ctypes.data_as(ctypes.c_void_p), n, budget, keys.ctypes.data_as(ctypes.c_void_p),
        order.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    return order[:count].tolist()


def test_the_draw_in_c_and_in_python_are_one(engine):
    """Thousands of random cases: the same channels, never above the budget, and nothing that fits is left out."""
    random = np.random.default_rng(0)
    for case in range(3000):
        n = int(random.integers(1, 40))
        costs = random.integers(1, 400, n).tolist()
        budget = int(random.integers(0, sum(costs) + 10))
        weights = None if case % 3 == 0 else random.exponential(size=n).astype(np.float32)
        if case % 3 == 2:
            weights[random.random(n) < 0.5] = 0
        _seed(engine, case)
        chosen = _draw(engine, weights, costs, budget)
        used = sum(costs[i] for i in chosen)
        assert used <= budget
        assert all(used + cost > budget for i, cost in enumerate(costs) if i not in chosen)
        if case % 10 == 0:
            assert chosen == sampler.sample(weights, costs, budget, sampler.Generator(case))


def test_the_draw_is_in_proportion_to_the_weights(engine):
    """One of four channels, many times: the shares are the weights'."""
    weights, counts, draws = [1.0, 2.0, 3.0, 4.0], np.zeros(4), 20_000
    _seed(engine, 5)
    for _ in range(draws):
        counts[_draw(engine, weights, [10] * 4, 10)] += 1
    expected = np.array(weights) / 10
    assert np.abs(counts / draws - expected).max() < 4 * np.sqrt(0.25 / draws)


def test_elementary_functions_are_close_to_the_true_ones(engine):
    for function, true, points in (
        (engine.md_log, np.log, np.linspace(1e-6, 40, 5001)),
        (engine.md_exp, np.exp, np.linspace(-80, 0, 5001)),
        (engine.md_cos, np.cos, np.linspace(0, np.pi, 5001)),
    ):
        points = points.astype(np.float32)
        ours = np.array([function(float(x)) for x in points], np.float64)
        exact = true(points.astype(np.float64))
        assert np.abs(ours - exact).max() / max(1, np.abs(exact).max()) < 3e-7
    for x in np.linspace(1e-6, 1, 999).astype(np.float32):
        assert engine.md_log(float(x)) == sampler.log(x)


def test_sampling_refuses_weights_that_are_none():
    with pytest.raises(InputError, match="one a channel"):
        sampler.sample([1.0], [1, 2], 3, sampler.Generator())
    with pytest.raises(InputError, match="not negative"):
        sampler.sample([1.0, float("nan")], [1, 2], 3, sampler.Generator())


# --- the whole algorithm ---


def _state(engine, name: str, kind, count: int):
    """A member of md_state, by its place in the planner's layout."""
    program = engine.plan.program
    network, searched = program.network, max(1, len(program.searched))
    classifier = network.classes * (network.features + 1)
    fields = [
        ("random", 8), ("classifier", 4 * classifier), ("gradient", 4 * classifier * program.accumulates),
        ("norms", 4 * max(1, program.norms)), ("rate", 4), ("loss", 4), ("copies", 4 * searched),
        ("kept", 4 * searched), ("masks", 4 * len(network.convolutions)), ("copy_floats", 4), ("low", 4), ("peak", 4),
        ("store_used", 4), ("store_sequence", 4), ("epoch", 2), ("first", 2), ("last_step", 2), ("broken", 2),
        ("start", 2 * (searched + 1)),
        ("chosen", 2 * max(1, program.most_chosen)), ("stored", 2 * max(1, program.search_channels)),
    ]  # fmt: skip
    whole = (ctypes.c_uint8 * engine.plan.state_bytes).in_dll(engine.library, "md_state")
    at = 0
    for field, size in fields:
        if field == name:
            return np.frombuffer(whole, kind, count, at)
        at += size
    raise KeyError(name)


def _costs(program) -> list[int]:
    """A cost for each channel of the search space."""
    return [program.channel_cost(n) for n in program.searched for _ in range(program.network.convolutions[n].channels)]


@pytest.mark.parametrize("mode", ["accumulate", "in-place"])
def test_algorithm_1_is_the_twins_epoch_after_epoch(tiny, mode):
    """Three epochs: the device's selections are those of the Python twin, fed with norms by float64 autograd."""
    folder, own, plan = tiny("LaRa MeDyate", mode=mode)
    program = plan.program
    engine = Engine(folder)
    engine.plan = plan
    engine.port_image.argtypes = None
    generator, norms = sampler.Generator(11), None
    costs = _costs(program)
    _seed(engine, 11)
    pixels = torch.randint(256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    engine.md_image.restype = ctypes.c_void_p
    for epoch in range(3):
        expected = sampler.sample(norms, costs, program.budget, generator)
        engine.md_choose()
        start = _state(engine, "start", np.uint16, len(program.searched) + 1)
        chosen = _state(engine, "chosen", np.uint16, int(start[-1]))
        offsets = np.cumsum([0, *(program.network.convolutions[n].channels for n in program.searched)])
        ours = [int(offsets[s]) + int(c) for s in range(len(program.searched)) for c in chosen[start[s] : start[s + 1]]]
        assert ours == expected
        # one image as the last step, at a rate of 0: the weights stay, the norms are of the shipped network
        _state(engine, "last_step", np.uint16, 1)[:] = 1
        engine.md_begin_batch()
        ctypes.memmove(engine.md_image(), pixels.numpy().ctypes.data, pixels.numel())
        engine.md_forward(1)
        engine.md_backward(1, ctypes.c_float(1.0))
        engine.md_norms_seen()
        _state(engine, "epoch", np.uint16, 1)[:] = epoch + 1
        exact = exporting.reference(program, own, pixels.numpy(), [1], expected)
        by_name = {name: np.linalg.norm(rows, axis=1) for name, rows in exact if rows.ndim == 2}
        layers = [program.network.convolutions[n].name for n in exporting.by_layer(program, expected)]
        seen = np.concatenate([by_name[name] for name in layers])
        norms = sampler.remember(norms, expected, seen, program.search_channels)
        found = _state(engine, "norms", np.float32, program.norms)
        assert np.allclose(found, norms, rtol=1e-4, atol=1e-9)
        norms = found.copy()  # the next draw from the same bits
    assert epoch == 2


def test_a_steps_descent_is_torchs(tiny):
    """Both modes take the step that SGD takes, at batch 1."""
    moved = {}
    for mode in ("accumulate", "in-place"):
        folder, own, plan = tiny("LaRa MeDyate", mode=mode)
        program, engine = plan.program, Engine(folder)
        engine.plan = plan
        channels = exporting.first_selection(program)
        _seed(engine, 0)
        numbers = np.array(channels, np.uint16)
        engine.md_set_chosen(numbers.ctypes.data_as(ctypes.c_void_p), len(numbers))
        pixels = torch.randint(256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
        engine.md_image.restype = ctypes.c_void_p
        _state(engine, "rate", np.float32, 1)[:] = 0.05
        engine.md_begin_batch()
        ctypes.memmove(engine.md_image(), pixels.numpy().ctypes.data, pixels.numel())
        engine.md_forward(1)
        engine.md_backward(2, ctypes.c_float(1.0))
        engine.md_update()
        count = int(_state(engine, "copy_floats", np.uint32, 1)[0])
        moved[mode] = np.array((ctypes.c_float * count).in_dll(engine.library, "md_arena"))
        exact = exporting.reference(program, own, pixels.numpy(), [2], channels)
        gradients = [rows for _, rows in exact if rows.ndim == 2]
        weights = []
        for number, own_channels in exporting.by_layer(program, channels).items():
            c = program.network.convolutions[number]
            weight = own.get_submodule(c.name).weight.detach()
            rows = weight[own_channels] if c.depthwise else weight.transpose(0, 1)[own_channels]
            weights.append(rows.flatten().numpy())
        expected = np.concatenate(weights) - 0.05 * np.concatenate([rows.ravel() for rows in gradients])
        assert np.abs(moved[mode] - expected).max() < 1e-6
    assert np.abs(moved["accumulate"] - moved["in-place"]).max() < 1e-6


def test_training_learns_and_stays_within_the_plan(tiny):
    for mode in ("accumulate", "in-place"):
        folder, _, plan = tiny(
            "LaRa MeDyate", mode=mode, epochs=14, learning_rate=0.2 if mode == "accumulate" else 0.05
        )
        _write_images(folder, (3, 16, 16))
        output = made(folder, "train", OPTIMISE="-O0", ARGS="batch=4")
        losses = [float(loss) for loss in re.findall(r"loss (\S+);", output)]
        used = [int(elements) for elements in re.findall(r"(\d+) elements", output)]
        assert len(losses) == 15 and losses[-1] < 0.7 * losses[0], output
        assert max(used) <= 2000 and min(used) > 1800
        peak, arena = map(int, re.search(r"most arena in use (\d+) of (\d+) bytes", output).groups())
        assert peak <= arena == plan.arena_bytes
        again = made(folder, "train", OPTIMISE="-O0", ARGS="batch=4")
        assert again.splitlines()[-2:] == output.splitlines()[-2:]  # the same weights, bit for bit


def test_optimisation_changes_no_bit(tiny):
    folder, _, _ = tiny("LaRa MeDyate", epochs=2)
    _write_images(folder, (3, 16, 16))
    checksums = set()
    for level in ("-O0", "-O2", "-O3", *VECTORS):
        make(folder, "clean")
        checksums.add(re.search(r"checksum (\w+)", made(folder, "train", OPTIMISE=level)).group(1))
    assert len(checksums) == 1


@pytest.mark.skipif(not VECTORS, reason="the compiler does not know -march=native")
def test_wide_kernels_compute_what_narrow_ones_do_to_the_bit(tiny):
    """Each inner loop over lengths, kernels, strides and places in a mask: with this machine's vectors and without."""
    folder, _, _ = tiny()
    engines = [Engine(folder, level) for level in ("-O1", "-O3 -march=native")]
    random = np.random.default_rng(0)

    def same(name, *arguments):
        """Arrays are copied for each engine; all of them must come out alike."""
        results = []
        for engine in engines:
            own = [one.copy() if isinstance(one, np.ndarray) else one for one in arguments]
            getattr(engine, name)(*[a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in own])
            results.append([one.tobytes() for one in own if isinstance(one, np.ndarray)])
        assert results[0] == results[1], (name, [a for a in arguments if not isinstance(a, np.ndarray)])

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    for n in (*range(1, 42), 56, 64):
        channels, plane, row = int(random.integers(1, 9)), n + int(random.integers(5)), n + int(random.integers(5))
        wide, rows, pack = normal(channels, plane), normal(4, row), normal(channels, 4)
        same("md_dot", wide, plane, channels, pack, n, rows, row)
        same("md_add", rows, row, channels, pack, n, wide, plane)
        for engine in engines:
            engine.md_inner.restype = ctypes.c_float
        pair = normal(n), normal(n)
        a, b = (one.ctypes.data_as(ctypes.c_void_p) for one in pair)
        assert len({engine.md_inner(a, b, n) for engine in engines}) == 1
        for kernel in (3, 5, 7):
            for stride in (1, 2):
                lines, taps = normal(kernel, n * stride + kernel), normal(kernel, kernel)
                pointers = np.array([line.ctypes.data for line in lines], np.uintp)
                same("md_depthwise_row", pointers, taps, kernel, stride, n, normal(n))
                same("md_depthwise_back", normal(n), taps[0].copy(), kernel, stride, n, normal(n * stride + kernel))
        for bit in (0, 1, 7, 8, 13):
            values, bits = 8 * normal(n), random.integers(0, 256, n // 8 + 4).astype(np.uint8)
            values[random.integers(n)] = np.nan
            scale, bias = ctypes.c_float(1.3), ctypes.c_float(0.2)
            same("md_masked", values, n, scale, bits, bit)
            same("md_masked", values, n, scale, None, bit)
            for activation in (0, 1, 2):  # none, ReLU, ReLU6
                same("md_activate", values, n, scale, bias, activation, np.zeros_like(bits), bit)


@pytest.mark.parametrize("mode", ["accumulate", "in-place"])
def test_the_arena_in_use_is_the_timelines(tiny, mode):
    """What the engine has used of the arena is what the planner says of this very selection."""
    folder, _, plan = tiny("LaRa MeDyate", mode=mode)
    program, engine = plan.program, Engine(folder)
    engine.plan = plan
    engine.md_image.restype = ctypes.c_void_p
    random = np.random.default_rng(1)
    costs = _costs(program)
    for seed in range(12):
        chosen = sampler.sample(
            random.exponential(size=len(costs)) ** 4, costs, program.budget, sampler.Generator(seed)
        )
        _seed(engine, seed)
        numbers = np.array(chosen, np.uint16)
        engine.md_set_chosen(numbers.ctypes.data_as(ctypes.c_void_p), len(numbers))
        engine.md_begin_batch()
        engine.md_image()
        engine.md_forward(1)
        engine.md_backward(0, ctypes.c_float(1.0))
        counts = {number: len(own) for number, own in exporting.by_layer(program, chosen).items()}
        planned = planning.moments(program, counts)
        assert 4 * int(_state(engine, "peak", np.uint32, 1)[0]) == max(moment.total for moment in planned)
        assert max(moment.total for moment in planned) <= plan.arena_bytes


# --- the store ---


def test_whenever_the_power_goes_the_last_complete_epoch_survives(tiny):
    """Cut after every single unit that is written, over several epochs and a change of banks."""
    folder, _, plan = tiny("LaRa MeDyate", budget=1200)
    engine, program = Engine(folder), plan.program
    engine.plan = plan
    engine.md_checksum.restype = ctypes.c_uint32
    cut = ctypes.c_uint32.in_dll(engine.library, "port_units_until_cut")
    arena = (ctypes.c_float * (plan.arena_bytes // 4)).in_dll(engine.library, "md_arena")
    epochs = 7

    def epoch(number: int) -> None:
        """Choose, change every chosen weight, and what else is stored, as a training would."""
        engine.md_choose()
        count = int(_state(engine, "copy_floats", np.uint32, 1)[0])
        for i in range(count):
            arena[i] += 0.25 * (number + 1)
        _state(engine, "classifier", np.float32, 5)[:] += number + 1
        _state(engine, "norms", np.float32, program.norms)[:] += number + 1
        _state(engine, "epoch", np.uint16, 1)[:] = number + 1

    def run() -> list[tuple]:
        _seed(engine, 3)
        states = [(0, _now())]
        for number in range(epochs):
            epoch(number)
            expected = (number + 1, _now())
            engine.md_store_write()
            if cut.value == 0:
                return states
            states.append(expected)
        return states

    def _now():
        norms = _state(engine, "norms", np.float32, program.norms).tobytes()
        return engine.md_checksum(), norms, int(_state(engine, "random", np.uint64, 1)[0])

    flash = 2 * plan.bank_bytes
    store = (ctypes.c_uint8 * flash).from_address(ctypes.c_void_p.in_dll(engine.library, "port_store").value)

    def blank():
        ctypes.memset(store, 0, flash)

    cut.value = 0xFFFFFFFF
    blank()
    run()
    written = 0xFFFFFFFF - cut.value
    assert int(_state(engine, "store_sequence", np.uint32, 1)[0]) >= 2, "the test is meant to change banks"
    lost = 0
    for units in range(1, written):
        blank()
        cut.value = units
        states = run()
        cut.value = 0xFFFFFFFF
        _seed(engine, 3)
        found = engine.md_store_open()
        assert bool(found) == (len(states) > 1)
        restored = int(_state(engine, "epoch", np.uint16, 1)[0]), _now()
        if found:
            assert restored == states[-1], f"cut after {units} units"
            lost += 1
            # and the training goes on from there: one more epoch is written and found again
            if units % 7 == 0:
                epoch(restored[0])
                expected = (restored[0] + 1, _now())
                engine.md_store_write()
                _seed(engine, 3)
                assert engine.md_store_open()
                assert (int(_state(engine, "epoch", np.uint16, 1)[0]), _now()) == expected
    assert lost > written / 2
