"""A GPU's double: tensors that say they are on "cuda", computed on the CPU.

It finds what a machine without a GPU hides: operations on tensors of two devices, a tensor made on
the CPU that belongs on the device, numpy asked for a device's memory, and in a captured step whatever
a CUDA graph forbids or would not repeat. It says nothing of CUDA's kernels, their speed, their rounding.

A ``Resident`` is a tensor of the CPU whose Python side says "cuda". Every operation on it, those of a
backward pass too, comes by ``__torch_dispatch__``, which refuses what CUDA refuses and marks what it
gives as resident. Calls that name a device (``x.to("cuda")``, ``torch.zeros(.., device="cuda")``) are
caught before torch looks for the hardware.
"""

import contextlib
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten.copy_, aten._to_copy}
INDEXING = {
    aten.index,
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten._unsafe_index,
}  # indices may lie on the host
ASKS_THE_DEVICE = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.equal,
    aten.masked_select,
}  # the host waits for a number
NOT_WHILE_CAPTURING = "operation not permitted when stream is capturing"


class Resident(Tensor):
    """A tensor that says it is on the GPU."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return CUDA.index

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self):
        if Graph.capturing is not None:
            raise RuntimeError(NOT_WHILE_CAPTURING)
        return to_host(self).tolist()

    def __repr__(self):
        return f"{to_host(self)!r} on {CUDA}"

    def __reduce_ex__(self, protocol):  # a file holds numbers, not where they were
        return to_host(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copy = to_device(to_host(self).clone())
        memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        _refuse_strangers(function, args, tensors)
        if Graph.capturing is not None and function.overloadpacket in ASKS_THE_DEVICE:
            raise RuntimeError(NOT_WHILE_CAPTURING)
        with no_dispatch():
            out = function(*args, **kwargs)
        # what an operation changes in place it gives back: that stays where it is
        out = tree_map_only(Tensor, lambda one: one if any(one is mine for mine in tensors) else to_device(one), out)
        if Graph.capturing is not None:
            Graph.capturing.append((function, args, kwargs, out))
        return out


def _refuse_strangers(function, args, tensors) -> None:
    packet, strangers = (
        function.overloadpacket,
        [one for one in tensors if not isinstance(one, Resident) and one.dim() > 0],
    )
    if not strangers:
        return
    if packet in COPIES or packet in INDEXING and isinstance(args[0], Resident):
        if Graph.capturing is not None:
            raise RuntimeError(NOT_WHILE_CAPTURING)
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu ({function})"
    )


def to_device(tensor: Tensor) -> Tensor:
    """The same memory, said to be the GPU's."""
    return tensor if isinstance(tensor, Resident) else Tensor._make_subclass(Resident, tensor.detach())


def to_host(tensor: Tensor) -> Tensor:
    """The same memory, said to be the CPU's."""
    with no_dispatch(), torch._C.DisableTorchFunctionSubclass():
        return Tensor._make_subclass(Tensor, tensor.detach())


class _Names(TorchFunctionMode):
    """Calls that name a device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (Tensor.cuda, Tensor.cpu):
            return _moved(args[0], CUDA if function is Tensor.cuda else torch.device("cpu"), args[0].dtype, {})
        if function is Tensor.to:
            given = [*args[1:], *(kwargs.pop(name) for name in ("device", "dtype", "other") if name in kwargs)]
            devices = [
                one.device if isinstance(one, Tensor) else torch.device(one)
                for one in given
                if isinstance(one, (str, torch.device, Tensor))
            ]
            dtypes = [
                one.dtype if isinstance(one, Tensor) else one for one in given if isinstance(one, (torch.dtype, Tensor))
            ]
            layout = {"memory_format": kwargs["memory_format"]} if kwargs.get("memory_format") is not None else {}
            return _moved(args[0], (devices or [args[0].device])[0], (dtypes or [args[0].dtype])[0], layout)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            if device is not None and any(
                isinstance(one, Resident) for one in args
            ):  # empty_like(resident, device="cpu")
                return function(*map(lambda one: to_host(one) if isinstance(one, Resident) else one, args), **kwargs)
            return function(*args, **kwargs)
        if Graph.capturing is not None and function is torch.tensor:
            raise RuntimeError(NOT_WHILE_CAPTURING)
        made = to_device(function(*args, **{**kwargs, "device": "cpu"}))
        if Graph.capturing is not None:
            Graph.capturing.append((aten.copy_.default, (made, to_host(made).clone()), {}, made))
        return made.requires_grad_(bool(kwargs.get("requires_grad")))


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype, layout: dict) -> Tensor:
    resident = isinstance(tensor, Resident)
    if (device.type == "cuda") == resident:
        return tensor.to(dtype, **layout)
    if Graph.capturing is not None:
        raise RuntimeError(NOT_WHILE_CAPTURING)
    found = (to_host(tensor) if resident else tensor.detach()).to(dtype, **layout)
    found = found.clone() if found.data_ptr() == tensor.data_ptr() else found  # another memory
    return to_device(found) if device.type == "cuda" else found


class Graph:
    """A CUDA graph's double: ``replay`` runs the captured operations once more, on the captured memory,
    and nothing of the Python code that called them."""

    capturing: list | None = None

    def __init__(self):
        self.operations = []

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd(), no_dispatch():
            for function, args, kwargs, out in self.operations:
                memory = {
                    one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)
                }
                for mine, now in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                    if isinstance(mine, Tensor) and mine.untyped_storage().data_ptr() not in memory:
                        mine.copy_(now)


@contextlib.contextmanager
def _capture(graph: Graph):
    Graph.capturing = graph.operations
    try:
        yield
    finally:
        Graph.capturing = None


class _Stream:
    def wait_stream(self, other):
        assert isinstance(other, _Stream)


@contextlib.contextmanager
def gpu(free_bytes: int = 1 << 33):
    """A GPU with so much free memory."""
    double = {
        "is_available": lambda: True,
        "get_device_name": lambda *_: "a GPU's double",
        "synchronize": lambda *_: None,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "mem_get_info": lambda *_: (free_bytes, 1 << 34),
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": _capture,
    }
    # a module that moves keeps its parameter objects, as on a real GPU: what is behind them is swapped
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        backward = torch.autograd._engine_run_backward

        def named_backward(
            *arguments, **options
        ):  # torch has left the mode when the Python code of a backward pass runs
            with _Names():
                return backward(*arguments, **options)

        with (
            mock.patch.multiple(torch.cuda, **double),
            mock.patch.object(torch.autograd, "_engine_run_backward", named_backward),
            _Names(),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
