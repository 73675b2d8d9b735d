"""torchvision, imported only when asked for, also where its compiled operators do not load.

torchvision from PyPI is built for CUDA. Beside a build of torch for the CPU alone its library does
not load, and the import fails because it registers rules for operators that are then unknown. Their
two declarations are enough for models, data sets and transforms, which never call them.
"""

import functools
import importlib
import sys
from types import ModuleType

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list = []  # declarations live as long as the torch.library.Library that made them


@functools.cache
def torchvision() -> ModuleType:
    """The module torchvision; declares the missing operators only where a plain import fails.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    # a failed import leaves submodules behind, which would register their rules twice
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare(torch)
    return importlib.import_module("torchvision")


def _declare(torch: ModuleType) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    _kept.append(library)
