"""An exported network that compiles in a moment, and plans of the paper's."""

import pytest
import torch
from own_models import Bottleneck, model, ranking_of

from medyate.device import exporting, planning


@pytest.fixture
def tiny(tmp_path):
    """An exported network of three stages, 3 x 16 x 16, with everything searched: (folder, model, plan)."""

    def export(strategy="TraDy", budget=2000, mode="accumulate", **options):
        torch.manual_seed(0)
        own = model(
            Bottleneck(3, 3, 8, 3), Bottleneck(8, 16, 8, 3, residual=True), Bottleneck(8, 24, 12, 5, 2), features=12
        )
        folder = tmp_path / mode
        plan = exporting.export(
            own, folder, strategy=strategy, budget=budget, mode=mode, input_shape=(3, 16, 16), board="mps2-an500",
            ranking=ranking_of(own), **options,
        )  # fmt: skip
        return folder, own, plan

    return export


@pytest.fixture(scope="session")
def mbv2():
    """The paper's MbV2 with random weights, a plan's program for it: ``mbv2(strategy, budget, mode)``."""

    def program(strategy="LaRa MeDyate", budget=27_946, mode="accumulate", **options):
        return planning.network_program("mbv2-w0.35", strategy, budget, mode=mode, **options)

    return program
