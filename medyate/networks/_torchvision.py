"""torchvision, imported only when asked for (:mod:`medyate.files.torchvision` helps where it would fail)."""

import importlib
from types import ModuleType


def torchvision() -> ModuleType:
    """The module torchvision.

    Raises:
        ImportError: torchvision is not installed.
    """
    return importlib.import_module("torchvision")
