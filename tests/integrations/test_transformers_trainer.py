"""The Trainer of Hugging Face, as people run it: it makes its optimiser, clips, evaluates, saves and resumes."""

import copy

import pytest
import torch

import medyate
from medyate.strategies import MEDYATE, Strategy

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from medyate.integrations.transformers import MedyateCallback  # noqa: E402

SHAPE, BUDGET = (8,), 1500
STRATEGY = Strategy("MeDyate", "over all layers", MEDYATE)


class Sentences(torch.utils.data.Dataset):
    def __init__(self):
        self.words = torch.randint(1, 50, (24, *SHAPE), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return {"input_ids": self.words[index], "labels": index % 3}


def model():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        num_labels=3,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def trained(folder, epochs=3, stop=None, resume=False, **options):
    """The trained weights, and the callback's record of selections, by Trainer.train()."""
    network = model()
    before = copy.deepcopy(network.state_dict())
    subnet = medyate.Subnet(network, BUDGET, STRATEGY, input_shape=SHAPE)
    chosen = []

    class Noting(MedyateCallback):
        def on_step_end(self, args, state, control, **_):
            chosen.append((state.global_step, self.subnet.selection))
            control.should_training_stop = state.global_step == stop

    Noting.__name__ = "MedyateCallback"
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    data = Sentences()
    trainer = transformers.Trainer(
        network, arguments, train_dataset=data, eval_dataset=data, callbacks=[Noting(subnet)]
    )
    trainer.train(resume_from_checkpoint=resume)
    subnet.detach()
    return before, network.state_dict(), dict(chosen)


def test_trains_what_is_selected_with_evaluation_and_clipping(tmp_path):
    before, after, chosen = trained(tmp_path, eval_strategy="epoch", save_strategy="no", gradient_accumulation_steps=1)
    assert len({str(selection) for selection in chosen.values()}) == 3  # one an epoch
    everything = {f"{name}.weight" for selection in chosen.values() for name in selection.channels}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == everything | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("stop", [3, 4], ids=["at an epoch's end", "within an epoch"])
def test_resumed_with_the_same_result(tmp_path, stop):
    saving = {"save_strategy": "steps", "save_steps": stop}
    _, expected, chosen = trained(tmp_path / "whole", save_strategy="no")
    trained(tmp_path / "parts", stop=stop, **saving)
    _, found, rest = trained(tmp_path / "parts", resume=True, **saving)
    assert rest == {step: selection for step, selection in chosen.items() if step > stop}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
