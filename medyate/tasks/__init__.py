"""The paper's data sets, a user's own images and texts, with the paper's protocol (Sec. 4.1).

>>> data = load("digits", resolution=32)
>>> for images, labels in data.batches("train", 32, generator=generator, augment=True):
...     ...

``listing``, ``fetch`` and ``check`` say what there is, download it, and check what is here. The registry is read
without torch; ``load`` and what it gives import it.
"""

import importlib

from .fetch import check, fetch, listing
from .registry import PACKS, TASKS, Task, fingerprint, get, short

_LATER = {"load": "loading", **dict.fromkeys(("ImageData", "Split", "TextData", "TextSplit"), "data")}
__all__ = [*_LATER, "PACKS", "TASKS", "Task", "check", "fetch", "fingerprint", "get", "listing", "short"]


def __getattr__(name: str):
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
