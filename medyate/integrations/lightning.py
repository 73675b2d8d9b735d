"""A callback for Lightning's ``Trainer``.

>>> module = MyLightningModule()          # its forward pass calls module.model
>>> subnet = medyate.Subnet(module.model, 200_000, ranking=ranking)
>>> trainer = lightning.Trainer(max_epochs=5, callbacks=[MedyateCallback(subnet)])
>>> trainer.fit(module, loader)           # or with ckpt_path=..
>>> subnet.detach()
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from ..execution import distributed
from ..subnet import Subnet


class MedyateCallback(Callback):
    """Selects channels at each epoch's start; checkpoints hold what a resumed training needs to go on the same way."""

    def __init__(self, subnet: Subnet):
        self.subnet = subnet
        self._epoch = -1  # whose channels are chosen

    def setup(self, trainer, pl_module, stage: str) -> None:
        # DDP will wrap the LightningModule, not the model
        compact = {id(parameter) for parameter in self.subnet.parameters()}
        names = [name for name, parameter in pl_module.named_parameters() if id(parameter) in compact]
        distributed.ignore(pl_module, [name for name in names if name.endswith(".selected_weight")])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        # not at the epoch's start: Lightning leaves that out where it goes on from a checkpoint
        if self._epoch != trainer.current_epoch:
            self.subnet.next_epoch()
            self._epoch = trainer.current_epoch

    def state_dict(self) -> dict[str, Any]:
        return {"subnet": self.subnet.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.subnet.load_state_dict(state_dict["subnet"])
        self._epoch = state_dict["epoch"]
