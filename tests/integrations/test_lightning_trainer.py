"""Lightning's Trainer, as people run it: with validation, which clears gradients, and checkpoints."""

import pytest
import torch
from torch import nn

import medyate
from medyate.strategies import MEDYATE, Strategy

lightning = pytest.importorskip("lightning.pytorch")

from medyate.integrations.lightning import MedyateCallback  # noqa: E402

SHAPE, BUDGET = (3, 12, 12), 1500
STRATEGY = Strategy("MeDyate", "over all layers", MEDYATE)
pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|does not have many workers|logging interval).*")


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        units = [
            layer
            for i, o in ((3, 8), (8, 16), (16, 16))
            for layer in (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        ]
        self.model = nn.Sequential(*units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))

    def training_step(self, batch, _):
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def validation_step(self, batch, _):
        self.log("loss", self.training_step(batch, _))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Batches:
    """A loader that can go on within an epoch, which Lightning asks of loaders for that."""

    def __init__(self):
        images = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(1))
        self.batches = list(zip(images.split(8), (torch.arange(24) % 3).split(8)))
        self.at = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number in range(self.at, len(self)):
            self.at = (number + 1) % len(self)
            yield self.batches[number]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def trained(folder, epochs=3, steps=-1, callbacks=(), resume=None):
    module = Classifier()
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    subnet = medyate.Subnet(module.model, BUDGET, STRATEGY, input_shape=SHAPE)
    chosen = []

    class Noting(MedyateCallback):
        def on_train_batch_end(self, trainer, *_):
            chosen.append((trainer.global_step, self.subnet.selection))

        state_key = "medyate"

    trainer = lightning.Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=[Noting(subnet), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, Batches(), Batches(), ckpt_path=resume, weights_only=False)
    subnet.detach()
    return before, module.model.state_dict(), dict(chosen)


def test_trains_what_is_selected_with_validation(tmp_path):
    before, after, chosen = trained(tmp_path)
    assert len({str(selection) for selection in chosen.values()}) == 3
    everything = {f"{name}.weight" for selection in chosen.values() for name in selection.channels}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == everything | {"11.weight", "11.bias"}


@pytest.mark.parametrize("stop", [3, 4], ids=["at an epoch's end", "within an epoch"])
def test_resumed_with_the_same_result(tmp_path, stop):
    def saving():
        return lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=stop, save_top_k=-1)

    _, expected, chosen = trained(tmp_path)
    trained(tmp_path, steps=stop, callbacks=[saving()])
    _, found, rest = trained(tmp_path, callbacks=[saving()], resume=str(tmp_path / f"step={stop}.ckpt"))
    assert rest == {step: selection for step, selection in chosen.items() if step > stop}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
