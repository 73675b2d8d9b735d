"""Fine-tune a pretrained network under a memory budget, and really keep no more than it pays for.

A companion to *Memory Constrained Dynamic Subnetwork Update for Transfer Learning* (MeDyate,
arXiv 2510.20979). The few names that one's own loop needs:

* :class:`Subnet`: a model, a budget, a strategy.
* :func:`rank`: a ranking of the model's layers, which LaRa and Prev strategies need.
* :func:`layers`: what each layer of the model costs.
* :func:`measure`: what a training step really holds.
"""

import importlib

_NAMES = {
    "InputError": "errors",
    "Ranking": "ranking",
    "Selection": "strategies",
    "Subnet": "dynamic",
    "layers": "costs",
    "measure": "memory",
    "rank": "dynamic",
}
__all__ = list(_NAMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    # torch takes seconds to import: only who uses these names waits for it
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_NAMES])
