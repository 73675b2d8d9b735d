"""What runs on a GPU, on a GPU's double (see gpu_double.py): where tensors are, not how fast or exact CUDA is."""

import importlib
import json
import sys

import pytest
import torch
from gpu_double import CUDA, Graph, Resident, gpu
from small_task import (  # noqa: F401 (fixtures)
    EACH,
    TEXT,
    config,
    digits,
    double,
    one_thread,
    rank_config,
    results,
    sentences,
    tokenizer,
)
from torch import nn

from medyate import networks, strategies, tasks
from medyate.execution.attach import attach
from medyate.files import paths as storage
from medyate.runs import finetune, kept
from medyate.runs.config import RunConfig
from medyate.sweeps import stack, wide

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def same_images(double, monkeypatch):
    """In double precision, and augmented on the CPU for the double as well: what differs then is no rounding."""

    def on_device(data, device, indices, draws):
        assert device.type == "cuda"
        return data._augmented_on_cpu(indices, draws, torch.contiguous_format).to(device)

    monkeypatch.setattr(tasks.ImageData, "_augmented_on", on_device)


# --- the double itself -------------------------------------------------------------------------


def test_the_double_refuses_what_cuda_refuses():
    with gpu():
        x, host = torch.ones(3, device="cuda"), torch.ones(3)
        assert x.device == CUDA and (2 * x + host.to("cuda")).device == CUDA and x.cpu().device.type == "cpu"
        for forbidden in (
            lambda: x + host,
            lambda: torch.stack([x, host]),
            lambda: x.mul_(host),
            lambda: host[x.long()],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                forbidden()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert x[torch.tensor([0, 2])].device == CUDA  # indices may come from the host
        assert (x * torch.tensor(2.0)).device == CUDA  # and numbers
        assert torch.empty_like(host).copy_(x).device.type == "cpu"


def test_the_double_computes_gradients_on_the_device():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
        torch.randn(2, 3, 8, 8),
    )
    model(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    with gpu():
        model.zero_grad()
        model.to("cuda")
        model(x.to("cuda")).sum().backward()
        found = [parameter.grad for parameter in model.parameters()]
        assert all(one.device == CUDA for one in (*found, *model.buffers()))
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.cpu(), other)


def test_the_doubles_graph_repeats_operations_and_not_python():
    with gpu():
        total, calls, x = torch.zeros(2, device="cuda"), [], torch.ones(2, device="cuda")

        def step():
            calls.append(1)
            fresh = torch.zeros(2, device="cuda")
            total.add_(fresh.add_(x))
            return total * 2

        graph = Graph()
        with torch.cuda.graph(graph):
            out = step()
        x.copy_(torch.tensor([1.0, 5.0]))
        total.zero_()
        graph.replay()
        graph.replay()
        assert calls == [1] and total.tolist() == [2, 10] and out.tolist() == [4, 20]
        for forbidden in (
            lambda: total.sum().item(),
            lambda: x.copy_(torch.ones(2)),
            lambda: torch.tensor([1.0], device="cuda"),
        ):
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), torch.cuda.graph(Graph()):
                forbidden()


# --- runs --------------------------------------------------------------------------------------


def assert_same_run(found, expected):
    assert found["environment"]["device"] == "a GPU's double"
    assert found["selection"] == expected["selection"]
    for mine, other in zip(found["epochs"], expected["epochs"], strict=True):
        for name in ("train_loss", "test_loss"):
            assert mine[name] == pytest.approx(other[name], rel=1e-6), (mine["epoch"], name)
        assert mine["used_elements"] == other["used_elements"]


SMALL = {"epochs": 1, "learning_rate": 0.003}


def test_all_strategies_are_here():
    assert {one["strategy"] for one in EACH} == set(strategies.STRATEGIES)


@pytest.mark.parametrize("changes", EACH, ids=lambda one: one["strategy"])
def test_a_run_on_the_gpu_is_the_cpus(results, same_images, changes):
    modes = ("train", "frozen")  # by turns: what a strategy does on a device does not depend on it
    one = config(**{**SMALL, **changes, "batch_norm": modes[EACH.index(changes) % 2]})
    expected, _ = finetune.run(one, device="cpu")
    with gpu():
        found, _ = finetune.run(one, force=True)  # "auto" takes the GPU
    assert_same_run(found, expected)


def test_augmentation_and_evaluation_on_the_gpu(results, digits):
    """The batches that training sees there are the CPU's up to a grey level; too large a task comes from the host."""
    for free in (1 << 33, 1000):
        digits._resident.clear()
        with gpu(free):
            for split, augment in (("train", True), ("train", False), ("test", False)):
                for layout in (True, False):
                    on_gpu, on_cpu = (
                        list(
                            digits.batches(
                                split,
                                16,
                                generator=torch.Generator().manual_seed(3),
                                device=device,
                                augment=augment,
                                channels_last=layout,
                            )
                        )
                        for device in ("cuda", "cpu")
                    )
                    for (x, y), (a, b) in zip(on_gpu, on_cpu, strict=True):
                        assert x.device == y.device == CUDA and x.stride() == a.stride()
                        assert (x.cpu() - a).abs().max() < 6 / 255 and torch.equal(y.cpu(), b)
            together = next(
                iter(digits.batches_of_runs(16, [torch.Generator().manual_seed(3), torch.Generator()], device="cuda"))
            )
            assert [one.device for one in together] == [CUDA, CUDA]
    digits._resident.clear()


def test_an_interrupted_run_goes_on_across_devices(results, same_images):
    """A checkpoint of the GPU continues on the GPU and on the CPU."""
    one = config(**SMALL | {"epochs": 2}, strategy="LaRa MeDyate", batch_norm="frozen")
    expected, _ = finetune.run(one, device="cpu")

    def stop(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    for device in ("cuda", "cpu"):
        with gpu():
            with pytest.raises(KeyboardInterrupt):
                finetune.run(one, force=True, progress=stop)
            (results / "runs" / f"{one.id}.json").unlink(missing_ok=True)
            found, _ = finetune.run(one, device=device)
        assert [row["test_loss"] for row in found["epochs"]] == pytest.approx(
            [row["test_loss"] for row in expected["epochs"]], rel=1e-6
        )
        assert found["selection"] == expected["selection"]


def test_a_ranking_on_the_gpu_is_the_cpus(results, same_images):
    one = rank_config(epochs=1, learning_rate=0.003)
    expected, _ = finetune.rank(one, device="cpu")
    with gpu():
        found, _ = finetune.rank(one, device="cuda", force=True)
    assert found["lara"] == pytest.approx(expected["lara"], rel=1e-6)
    assert found["environment"]["device"] == "a GPU's double"


@pytest.mark.parametrize("graphs, batch_norm", [(False, "frozen"), (True, "train"), (True, "frozen")])
def test_a_stack_on_the_gpu_is_its_runs(results, same_images, recwarn, graphs, batch_norm):
    some = {"frozen": ("LaRa MeDyate", "Baseline", "Head only"), "train": ("Prev MeDyate", "LaRa Prob Raw", "SU")}[
        batch_norm
    ]
    configs = [
        config(**{**SMALL, **changes, "batch_norm": batch_norm}) for changes in EACH if changes["strategy"] in some
    ]
    found = {}
    with gpu():
        left = stack.run(
            configs, device="cuda", graphs=graphs, ended=lambda one, record, _: found.update({one.id: record})
        )
    assert left == [] and not [one for one in recwarn if "captured" in str(one.message)]
    for one in configs:
        assert_same_run(found[one.id], finetune.run(one, device="cpu", force=True)[0])
        assert {row.get("cuda_graphs", False) for row in found[one.id]["epochs"]} == {graphs}
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_a_text_run_on_the_gpu_is_the_cpus(tokenizer, sentences):
    """Token batches, the encoder that is computed again, one that reads each text once, an oracle."""
    pytest.importorskip("transformers")
    for changes in (
        {"strategy": "LaRa MeDyate"},
        {"strategy": "LaRa MeDyate", "layers": 1},
        {"strategy": "LaRa Det Raw", "probe_batches": 1},
    ):
        one = RunConfig.of({**TEXT, "epochs": 1, "learning_rate": 0.01, **changes}).check()
        expected, _ = finetune.run(one, device="cpu")
        with gpu():
            found, _ = finetune.run(one, force=True)
        assert found["selection"] == expected["selection"] != {}
        assert [row["test_loss"] for row in found["epochs"]] == pytest.approx(
            [row["test_loss"] for row in expected["epochs"]], rel=1e-4
        )


@pytest.mark.parametrize(
    "script, words, fewer",
    [
        (
            "throughput",
            "--mode stacked --runs 2 --seconds 0.1 --cuda-graphs",
            {"WARM_UP_STEPS": 1, "STEPS_AHEAD": 2, "BATCH": 8},
        ),
        ("step", "--network mcunet --strategy SU --batch-size 1 --rounds 1 --threads 1", {}),
    ],
)
def test_benchmarks_run_on_the_gpu(script, words, fewer, tmp_path, monkeypatch, recwarn):
    monkeypatch.syspath_prepend(str(storage.CHECKOUT / "benchmarks"))
    module = importlib.import_module(script)
    for name, value in fewer.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(sys, "argv", [script, *words.split(), "--json", str(tmp_path / "found.json")])
    with gpu():
        module.main()
    assert not [one for one in recwarn if "captured" in str(one.message)]
    found = json.loads((tmp_path / "found.json").read_text())
    rows = (
        found["rows"]
        if "rows" in found
        else [row for one in found["results"] if one["device"] == "cuda" for row in one["rows"]]
    )
    assert rows and all(row.get("train_images_per_second", row.get("milliseconds")) > 0 for row in rows)


def test_what_cannot_be_captured_on_the_gpu_runs_as_it_is():
    with gpu():
        x = torch.ones(2, device="cuda")
        step = wide.Replayed(lambda y: [x.mul_(y.sum().item())], lambda: [x], wide.cuda_graph)
        with pytest.warns(UserWarning, match="a step cannot be captured, it runs as it is: operation not permitted"):
            step(torch.ones(2, device="cuda"))
        assert x.tolist() == [2, 2]


def test_memory_is_measured_on_the_gpu():
    with gpu():
        found = kept.report("mbv2", 27_946, batch_size=2, device="cuda", resolution=64)
    expected = kept.report("mbv2", 27_946, batch_size=2, device="cpu", resolution=64)
    assert found == {**expected, "device": "cuda", "peak_bytes": 0}  # the double's allocator counts nothing


def test_an_attached_model_moves_to_the_gpu():
    torch.manual_seed(0)
    model, x = networks.build("mbv2-w0.35", weights="random", classes=3), torch.randn(2, 3, 32, 32)
    attached = attach(model, classifier="classifier")
    attached.select({"b2.pw1.conv": [0, 3], "b2.dw.conv": [1], "b3.pw2.conv": [2, 5, 7]})
    model(x).sum().backward()
    expected = {name: value.clone() for name, value in attached.gradients().items()}
    with gpu():
        model.zero_grad()
        model.to("cuda")
        model(x.to("cuda")).sum().backward()
        for name, value in attached.gradients().items():
            assert value.device == CUDA
            torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-3, atol=1e-5)
        assert all(isinstance(one, Resident) for one in (*model.parameters(), *model.buffers()))
