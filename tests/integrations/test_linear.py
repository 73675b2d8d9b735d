"""GPT-2's transposed linear layers, and inputs that say little of themselves."""

import pytest
import torch
from torch import nn

from medyate import InputError, Strategy, Subnet, costs
from medyate.integrations import linear
from medyate.strategies import UNIFORM

ANY = Strategy("any", "all channels alike", UNIFORM)


@pytest.fixture
def gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=32, pad_token_id=0, num_labels=3,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config).double()


def test_gpt2_of_linear_layers_trains_what_its_own_layers_would(gpt2):
    tokens, labels = torch.randint(1, 100, (2, 12)), torch.tensor([0, 2])
    nn.functional.cross_entropy(gpt2(tokens).logits, labels).backward()
    expected = {name: parameter.grad.t() for name, parameter in gpt2.named_parameters() if parameter.dim() == 2}
    before, state = gpt2(tokens).logits, {name: value.clone() for name, value in gpt2.state_dict().items()}
    gpt2.zero_grad()
    names = linear.from_conv1d(gpt2)
    assert len(names) == 8 and all(type(gpt2.get_submodule(name)) is nn.Linear for name in names)
    torch.testing.assert_close(gpt2(tokens).logits, before)
    assert {name: value.shape for name, value in gpt2.state_dict().items()} == {
        name: value.t().shape if name.removesuffix(".weight") in names else value.shape for name, value in state.items()
    }
    layers = {layer.name: layer for layer in costs.walk(gpt2, (12,))}
    assert layers["transformer.h.0.attn.c_attn"].channels == 32
    assert layers["transformer.h.0.attn.c_attn"].weight_elements == 32 * 96
    subnet = Subnet(gpt2, 5000, ANY, input_shape=(12,), classifier="score")
    selection = subnet.next_epoch()
    nn.functional.cross_entropy(gpt2(tokens).logits, labels).backward()
    assert set(selection.channels) & set(names)
    for name, channels in selection.channels.items():
        own = gpt2.get_submodule(name)._parameters["selected_weight"].grad
        torch.testing.assert_close(own, expected[f"{name}.weight"][:, list(channels)])  # (out, chosen)
    subnet.detach()
    with pytest.raises(InputError, match="no Conv1D of transformers"):
        linear.from_conv1d(gpt2)


def test_a_hook_is_not_lost_silently(gpt2):
    gpt2.transformer.h[0].attn.c_attn.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"'transformer\.h\.0\.attn\.c_attn' has a hook"):
        linear.from_conv1d(gpt2)


class Waves(nn.Module):
    """A waveform (T,): one dimension, and nothing that is looked up."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(1, 6, 5, 2), nn.Conv1d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, wave):
        wave = (wave - wave.mean(1, keepdim=True)).unsqueeze(1)
        return self.head(self.second(self.first(wave).relu()).relu().mean(2))


def test_one_dimension_is_numbers_where_nothing_is_looked_up():
    torch.manual_seed(0)
    model, waves = Waves(), torch.randn(2, 40)
    subnet = Subnet(model, 200, ANY, input_shape=(40,))
    assert [layer.name for layer in subnet.layers] == ["first", "second"]
    subnet.next_epoch()
    model(waves).sum().backward()
    assert all(parameter.grad is not None for parameter in subnet.parameters())


def test_a_lazy_module_is_refused_in_words_of_its_own_and_a_detectors_backbone_trains():
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(InputError, match=r"'2\.weight' has no shape yet, as its module is lazy"):
        Subnet(lazy, 100, ANY, input_shape=(3, 8, 8))
    detection = pytest.importorskip("torchvision").models.detection
    detector = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    subnet = Subnet(detector.backbone, 2000, ANY, input_shape=(3, 64, 64), classifier="extra.3")
    subnet.next_epoch()
    sum(one.sum() for one in detector.backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert any(parameter.grad is not None for parameter in subnet.parameters())
