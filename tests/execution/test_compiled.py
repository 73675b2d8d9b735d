"""The compiled library: the same bits as Python's, in every case that it takes, and never where it cannot be right."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from medyate import cli
from medyate.errors import InputError
from medyate.execution import compiled, compiling, kernels
from medyate.execution.attach import attach
from medyate.execution.measure import measure

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("ninja") is None, reason="needs a C++ compiler and ninja"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The one of this source that is there, else compiled here, which takes most of this file's time."""
    patch = pytest.MonkeyPatch()
    if not compiled.path().is_file():
        patch.setenv("MEDYATE_CACHE", str(tmp_path_factory.mktemp("cache")))
    compiling.build()
    yield compiled.library()
    patch.undo()
    compiled.library.cache_clear()


def network(*, groups=1, bias=False, activation=nn.ReLU6, inplace=False):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(12),
        activation(inplace=inplace),
        nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12, bias=bias),
        nn.BatchNorm2d(12),
        activation(inplace=inplace),
        nn.Conv2d(12, 8, 1, groups=groups, bias=bias),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3, bias=bias),
        activation(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) * 2 - int(tensor.dim() > 1)
    return model


SELECTED = {"0": [1], "3": [0, 5, 7], "6": [2, 3, 9], "8": list(range(8))}


def step(model, images, is_compiled, **options):
    """Output and gradients of one step, as bits that can be compared."""
    attached = attach(model, classifier="12", **options)
    attached.select(SELECTED)
    try:
        with compiled.using(is_compiled):
            images = images.clone().requires_grad_()
            out = model(images)
            nn.functional.cross_entropy(out, torch.arange(len(images)) % 4).backward()
        found = [out.detach(), images.grad, *(p.grad.clone() for p in attached.active())]
        for parameter in model.parameters():
            parameter.grad = None
        return found
    finally:
        attached.detach()


CASES = {
    "grouped": dict(groups=2),
    "biased": dict(bias=True),
    "relu": dict(activation=nn.ReLU),
    "inplace": dict(inplace=True),
    "plain": {},
}


@needs_compiler
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_compiled_layers_give_the_same_bits(library, case, layout, batch_norm):
    assert library is not None
    model = network(**CASES[case])
    generator = torch.Generator().manual_seed(1)
    for batch, side in ((1, 9), (3, 64)):  # below and above what oneDNN takes with an activation
        images = torch.randn((batch, 3, side, side), generator=generator).to(memory_format=layout)
        results = [step(copy.deepcopy(model), images, use, batch_norm=batch_norm) for use in (True, False)]
        assert len(results[0]) == 2 + len(SELECTED) + 2
        assert all(map(torch.equal, *results))


@needs_compiler
def test_bits_are_packed_alike_at_every_length(library):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 6.0, 1e-45])
    for count in (1, 7, 8, 9, 4096, (1 << 17) - 1, (1 << 18) + 5):
        values = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 4
        values[: len(special)] = special[:count]
        for ceiling in (6.0, None):
            packed = library.pack(values, math.inf if ceiling is None else ceiling)
            assert torch.equal(packed, kernels.pack(values, ceiling))


@needs_compiler
def test_a_pass_that_a_change_has_overtaken_is_refused(library):
    images = torch.randn(2, 3, 16, 16)

    def reselect(attached, model):
        attached.select({"0": [2], "6": [1]})

    def fill(attached, model):
        with torch.no_grad():
            model[6]._parameters["weight"].add_(1)

    def statistics(attached, model):
        model[7].running_var.mul_(2)

    def detach(attached, model):
        attached.detach()

    for change in (reselect, fill, statistics, detach):
        model = network()
        attached = attach(model, classifier="12")
        attached.select(SELECTED)
        loss = model(images).sum()
        change(attached, model)
        with pytest.raises(RuntimeError, match="layer '[68]' was changed between forward and backward"):
            loss.backward()


@needs_compiler
def test_a_second_derivative_is_refused_as_pythons_is(library):
    model = network()
    attached = attach(model, classifier="12")
    attached.select(SELECTED)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@needs_compiler
def test_what_is_kept_is_the_same(library):
    model, images = network(), torch.randn(2, 3, 32, 32)
    attached = attach(model, classifier="12")
    attached.select(SELECTED)
    saved = {}
    for use in (True, False):
        sizes = saved[use] = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with compiled.using(use), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images).sum().backward()
    assert sorted(saved[True]) == sorted(saved[False])
    optimizer = torch.optim.SGD(attached.parameters(), lr=0.0)
    kept = measure(model, attached.classifier, optimizer, images, torch.tensor([0, 1]))
    assert kept.backbone["masks"] > 0


@needs_compiler
def test_it_is_used_where_it_can_be_and_nowhere_else(library, monkeypatch):
    model = network()
    attached = attach(model, classifier="12")
    attached.select(SELECTED)
    images = torch.randn(2, 3, 16, 16)

    def names(images):
        names, todo = set(), [model(images).grad_fn]
        while todo:
            node = todo.pop()
            names.add(node.name())
            todo += [following for following, _ in node.next_functions if following is not None]
        return {name for name in names if "Project" in name}

    assert all("ProjectBackward" != name for name in names(images)) and names(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert names(images) == {"ProjectBackward"}
    with compiled.using(False):
        assert names(images) == {"ProjectBackward"}
    monkeypatch.setenv("MEDYATE_COMPILED", "0")
    compiled.library.cache_clear()
    assert names(images) == {"ProjectBackward"}
    compiled.library.cache_clear()
    monkeypatch.setenv("MEDYATE_COMPILED", "yes")
    with pytest.raises(InputError, match="MEDYATE_COMPILED is 'yes'; allowed: 0, 1"):
        model(images)
    monkeypatch.undo()
    compiled.library.cache_clear()
    twin = copy.deepcopy(model)  # a copy has counterparts of its own
    assert torch.equal(twin(images), model(images))


@needs_compiler
def test_the_command_says_what_is_there_and_removes_it(library, monkeypatch, tmp_path):
    def said(*arguments):
        return CliRunner().invoke(cli.cli, ["compile", *arguments], catch_exceptions=False).output

    file = compiled.path()
    assert said() == f"was there: {file}\n"
    elsewhere = tmp_path / "compiled" / file.parent.name / file.name
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(file, elsewhere)
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path))
    assert json.loads(said("--remove", "--json")) == {"library": str(elsewhere), "state": "removed"}
    assert not elsewhere.exists() and said("--remove") == f"was not there: {elsewhere}\n"
    monkeypatch.undo()
    compiled.library.cache_clear()
    monkeypatch.setenv("MEDYATE_COMPILED", "0")
    with pytest.raises(InputError, match="MEDYATE_COMPILED is 0, .* allowed: to unset it"):
        said()


def test_without_a_compiler_one_line_says_what_is_needed(tmp_path):
    environment = os.environ | {"MEDYATE_CACHE": str(tmp_path), "CXX": "no-such-compiler", "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "medyate", "compile"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not list(tmp_path.rglob("*.so"))
    assert "needed: a C++ compiler and ninja" in done.stderr and done.stderr.count("\n") == 2
