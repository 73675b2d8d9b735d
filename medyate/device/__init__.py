"""Fine-tuning on a microcontroller: a network, a budget, a strategy and a board into a C program whose memory
the linker proves.

* :func:`plan`, :func:`plans`, :func:`largest`: what a training needs, a bound over every selection.
* :func:`export`: C sources for one's own model; :func:`export_network` for the paper's.
* :func:`timeline`: memory over the step; :func:`boards`: what is known of each board.
* :func:`sizes`: what the linker has placed where, read back; :func:`refusal`: what it says where it does not fit.
* :func:`run`: train in an exported folder, natively or emulated; :func:`train`: export, train, and record it.

The engine, C99 without a heap, is in ``runtime/``; read ``medyate.h`` first.
"""

from .exporting import export, export_network
from .planning import BUDGET_MODES, DEVICE_STRATEGIES, MODES, PARTS, NoRoom, boards, largest, plan, plans, timeline
from .reading import refusal, sizes
from .training import recorded, run, train

__all__ = [
    "BUDGET_MODES", "DEVICE_STRATEGIES", "MODES", "PARTS", "NoRoom", "boards", "export", "export_network", "largest",
    "plan", "plans", "recorded", "refusal", "run", "sizes", "timeline", "train",
]  # fmt: skip
