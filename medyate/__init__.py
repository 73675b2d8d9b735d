"""Fine-tune a pretrained network under a memory budget that bounds what is selected; what else is kept is measured.

A companion to *Memory Constrained Dynamic Subnetwork Update for Transfer Learning* (MeDyate,
arXiv 2510.20979). The few names that your own loop needs:

* :class:`Subnet`: a model, a budget, a :class:`Strategy`; each epoch's :class:`Selection`.
* :func:`rank`: a :class:`Ranking` of the model's layers, which LaRa and Prev strategies need.
* :func:`layers`: what each layer of the model costs.
* :func:`measure`: what a training step really holds.
"""

import importlib
from typing import TYPE_CHECKING

from .files import torchvision as _torchvision

if TYPE_CHECKING:  # for editors and type checkers, which run nothing
    from .costs import layers as layers
    from .errors import InputError as InputError
    from .execution.measure import measure as measure
    from .ranking import Ranking as Ranking
    from .selection import Selection as Selection
    from .strategies import Strategy as Strategy
    from .subnet import Subnet as Subnet
    from .subnet import rank as rank

_NAMES = {
    "InputError": "errors",
    "Ranking": "ranking",
    "Selection": "selection",
    "Strategy": "strategies",
    "Subnet": "subnet",
    "layers": "costs",
    "measure": "execution.measure",
    "rank": "subnet",
}
__all__ = list(_NAMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    # torch takes seconds to import: only who uses these names waits for it
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_NAMES} - {"TYPE_CHECKING"})


_torchvision.help_import()
