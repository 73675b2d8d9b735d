"""The networks: which there are, and how one is built.

The registry is read without torch; ``build`` and ``skeleton`` import it, ``backbone`` only for layers that
``layers.json`` does not keep.
"""

import importlib

from .architectures import Architecture, Block
from .layers import backbone
from .registry import NETWORKS, Network, get, weight_files

_OF_MODELS = ("build", "skeleton")
__all__ = ["Architecture", "Block", "NETWORKS", "Network", "backbone", "build", "get", "skeleton", "weight_files"]


def __getattr__(name: str):
    if name in _OF_MODELS:
        return getattr(importlib.import_module(".models", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
