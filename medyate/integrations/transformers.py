"""A callback for Hugging Face's ``Trainer``.

>>> subnet = medyate.Subnet(model, 200_000, ranking=ranking, input_shape=(3, 224, 224))
>>> trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[MedyateCallback(subnet)])
>>> trainer.train()              # or trainer.train(resume_from_checkpoint=True)
>>> subnet.detach()
"""

from __future__ import annotations

import base64
import io

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..subnet import Subnet


class MedyateCallback(TrainerCallback, ExportableState):
    """Selects channels at each epoch's start; checkpoints hold what a resumed training needs to go on the same way.

    Make ``subnet`` before the ``Trainer``, which makes its optimiser of the model's parameters.
    """

    def __init__(self, subnet: Subnet):
        self.subnet = subnet
        self._goes_on = False  # within an epoch, whose channels are chosen already

    def on_train_begin(self, args, state, control, **_):
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved is not None:
            content = io.BytesIO(base64.b64decode(saved["attributes"]["subnet"]))
            self.subnet.load_state_dict(torch.load(content, weights_only=True))
            self._goes_on = state.epoch != int(state.epoch)

    def on_epoch_begin(self, args, state, control, **_):
        if not self._goes_on:
            self.subnet.next_epoch()
        self._goes_on = False

    def state(self) -> dict:
        """What the ``Trainer`` writes into its own state, which is JSON."""
        content = io.BytesIO()
        torch.save(self.subnet.state_dict(), content)
        return {"args": {}, "attributes": {"subnet": base64.b64encode(content.getvalue()).decode()}}
