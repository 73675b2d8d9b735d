"""Lets torchvision be imported beside a build of torch for the CPU.

torchvision from PyPI is built for CUDA. Beside a build of torch for the CPU alone its library does
not load, and the import fails because it registers rules for operators that are then unknown. Their
two declarations are enough for models, data sets and transforms, which never call them. :func:`help_import`
waits for the import, whoever makes it, and declares them only where it fails without.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder

NAME = "torchvision"
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list = []  # declarations live as long as the torch.library.Library that made them


def help_import() -> None:
    """Be there when torchvision is imported; nothing happens before."""
    if NAME not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    asks = False

    def find_spec(self, fullname, path, target=None):
        if fullname != NAME or self.asks:
            return None
        self.asks = True  # the other finders, by the usual way
        try:
            spec = importlib.util.find_spec(NAME)
        finally:
            self.asks = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, usual):
        self.usual = usual

    def create_module(self, spec):
        return self.usual.create_module(spec)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self.usual
        try:
            self.usual.exec_module(module)
        except RuntimeError as error:
            if f"{NAME}::" not in str(error):
                raise
            # the failed import leaves submodules behind, which would register their rules twice
            for name in [name for name in sys.modules if name.startswith(f"{NAME}.")]:
                del sys.modules[name]
            _declare()
            self.usual.exec_module(module)


def _declare() -> None:
    import torch

    library = torch.library.Library(NAME, "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    _kept.append(library)
