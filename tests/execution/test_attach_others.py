"""Models as people have them: several inputs, lists, losses as dicts, layers of other libraries.

Each is trained as it comes: the selected channels' gradients are those of dense autograd in double precision,
and ``detach`` gives the model back as it was.
"""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

import medyate
from medyate import costs
from medyate.errors import InputError
from medyate.execution.masked import Dense, _per_channel
from medyate.execution.promise import BeyondBudget
from medyate.networks._torchvision import torchvision
from medyate.strategies import UNIFORM, Strategy
from medyate.subnet import Subnet

transformers = pytest.importorskip("transformers")
ANY = Strategy("Any", "channels of all layers alike", UNIFORM)
pytestmark = pytest.mark.filterwarnings("ignore::medyate.execution.promise.BeyondBudget")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def cross_entropy(output) -> torch.Tensor:
    rows = getattr(output, "logits", output).flatten(0, -2)
    return F.cross_entropy(rows, torch.arange(len(rows)) % rows.shape[1])


def of_weight(layer: nn.Module) -> torch.Tensor:
    """A dense layer's gradient, a row a channel."""
    gradient = layer.in_proj_weight.grad if isinstance(layer, nn.MultiheadAttention) else layer.weight.grad
    if type(layer).__name__ == "Conv1D":
        gradient = gradient.t()
    return _per_channel(gradient, getattr(layer, "groups", 1))


def tried(model, shape, given=(), loss_of=cross_entropy, share=0.2, named=None, **options) -> medyate.Subnet:
    """The model trained for a step, compared with dense autograd; the subnet, detached."""
    model, (given, named) = model.double(), tree_map_only(torch.Tensor, _double, (given, named or {}))
    dense, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    budget = int(share * costs.totals(costs.walk(model, shape))["total_elements"])
    with Subnet(model, budget, ANY, input_shape=shape, **options) as subnet:
        selection = subnet.next_epoch()
        assert len(selection.channels) >= len(subnet.layers) / 2
        losses = []
        for one in (model, dense):
            one.train()
            for module in one.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
            torch.manual_seed(1)  # dropout
            loss = loss_of(one(*copy.deepcopy(given), **copy.deepcopy(named)))
            loss.backward()
            losses.append(float(loss.detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
        found = subnet.attached.gradients()
        assert set(found) == set(selection.channels)
        expected = {
            name: of_weight(dense.get_submodule(name))[list(channels)] for name, channels in selection.channels.items()
        }
        scale = max(float(rows.abs().max()) for rows in expected.values())
        assert scale > 0
        for name, rows in expected.items():
            torch.testing.assert_close(found[name], rows, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return subnet


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


# --- transformers' ---------------------------------------------------------------------------------


def gpt2(kind=None, attention="sdpa", **options):
    options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 0} | options
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, **options, bos_token_id=1, eos_token_id=1)
    return (kind or transformers.GPT2ForSequenceClassification)._from_config(config, attn_implementation=attention)


TOKENS = torch.arange(2, 26).view(2, 12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("recompute", ["none", "layers", "blocks"])
def test_gpt2(attention, recompute):
    subnet = tried(gpt2(attention=attention), (12,), (TOKENS,), recompute=recompute)
    assert len(subnet.layers) == 8 and subnet.coverage.classifier == ("score",)
    head_tied_to_embedding = tried(
        gpt2(transformers.GPT2LMHeadModel), {"input_ids": (12,)}, named={"input_ids": TOKENS}
    )
    assert "wte" not in str(head_tied_to_embedding.coverage)


def test_the_costs_of_conv1d_are_those_of_a_linear_layer():
    layer = costs.walk(gpt2(), (12,))[0]
    assert layer.name == "transformer.h.0.attn.c_attn"
    assert layer == costs.linear_layer(layer.name, (48, 16), 12, bias=True)


def test_conv1d_is_ranked_and_trained_by_steps_as_masked_dense_gradients_are():
    model = gpt2()
    batches = [(TOKENS, torch.tensor([0, 1]))]
    ranking = medyate.rank(model, batches, input_shape=(12,))
    assert set(ranking.layers) == {layer.name for layer in costs.layers(model, (12,))}
    chosen = {"transformer.h.0.mlp.c_fc": [1, 4, 15], "transformer.h.1.attn.c_attn": [0, 2]}
    weights = []
    for way in (Dense, medyate.execution.attach.attach):
        twin = copy.deepcopy(model)
        attached = way(twin, classifier="score")
        attached.select(chosen)
        optimizer = torch.optim.Adam(attached.active(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(twin(TOKENS)).backward()
            optimizer.step()
        attached.detach()
        weights.append(twin.state_dict())
    start = model.state_dict()
    for name, value in weights[1].items():
        torch.testing.assert_close(value, weights[0][name], rtol=1e-4, atol=1e-5)
        layer = name.removesuffix(".weight")
        if layer in chosen:
            moved = (value != start[name]).any(1).nonzero().flatten().tolist()
            assert moved == chosen[layer]
        elif not name.startswith("score"):
            assert torch.equal(value, start[name])


def test_a_linear_product_with_the_weight_of_a_conv1d_is_another_one():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.square, self.head = transformers.pytorch_utils.Conv1D(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.square(x)) + F.linear(x, self.square.weight))

    tried(Both(), (1, 6), (torch.randn(2, 1, 6),), share=0.8)


def test_clip_of_images_and_texts():
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 58}
    image = small | {"image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=8)
    data = {"input_ids": torch.randint(1, 58, (2, 8)), "pixel_values": torch.randn(2, 3, 16, 16)}

    def loss_of(output):
        return F.cross_entropy(output.logits_per_image, torch.arange(2))

    shape = {"input_ids": (8,), "pixel_values": (3, 16, 16)}
    subnet = tried(transformers.CLIPModel(config), shape, loss_of=loss_of, named=data)
    assert subnet.coverage.classifier == ("visual_projection", "text_projection")
    with pytest.raises(InputError, match=r"does not run on one input of shape \(3, 16, 16\)"):
        Subnet(transformers.CLIPModel(config), 1000, ANY, input_shape=(3, 16, 16))


# --- inputs --------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self, tokens=False):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.table, self.mix, self.head = nn.Linear(6, 8), nn.Linear(16, 12), nn.Linear(12, 3)
        self.embedding = nn.Embedding(9, 8) if tokens else None

    def forward(self, image, table, words=None):
        parts = [self.image(image).mean((2, 3)), torch.relu(self.table(table))]
        if words is not None:
            parts[0] = parts[0] + self.embedding(words).mean(1)
        return self.head(torch.relu(self.mix(torch.cat(parts, 1))))


def test_two_inputs_by_place_and_by_name():
    image, table = torch.randn(2, 3, 9, 9), torch.randn(2, 6)
    tried(Two(), ((3, 9, 9), (6,)), (image, table))
    tried(Two(), {"table": (6,), "image": (3, 9, 9)}, named={"image": image, "table": table})
    words = torch.tensor([[1, 2, 8], [0, 3, 3]])
    tried(Two(tokens=True), ((3, 9, 9), (6,), (3,)), (image, table, words))
    with pytest.raises(InputError, match="missing 1 required positional argument: 'table'"):
        Subnet(Two(), 1000, ANY, input_shape=(3, 9, 9))


def test_a_perceptron_of_vectors():
    def net():
        return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))

    vectors = torch.randn(4, 6)
    tried(net(), (6,), (vectors,), share=0.5)
    tried(net(), (6,), (vectors,), count="everything", share=0.8)
    ranking = medyate.rank(net(), [(vectors, torch.tensor([0, 1, 2, 0]))], input_shape=(6,))
    assert ranking.layers == ("0", "2")
    with pytest.raises(InputError, match=r"a sample is \(4, 6\) where the budget counts input_shape"):
        model = net()
        Subnet(model, 100, ANY, input_shape=(6,))
        model(torch.randn(2, 4, 6))


class Recurrent(nn.Module):
    def __init__(self, inner=True):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 12, num_layers=2, batch_first=True)
        self.middle, self.head = nn.Linear(12, 12) if inner else nn.Identity(), nn.Linear(12, 3)

    def forward(self, tokens):
        return self.head(torch.relu(self.middle(self.lstm(self.embedding(tokens))[0][:, -1])))


def test_an_lstm_is_told_and_what_surrounds_it_is_trained():
    subnet = tried(Recurrent(), (7,), (torch.randint(0, 20, (2, 7)),))
    assert [layer.name for layer in subnet.layers] == ["middle"] and "it is a LSTM" in str(subnet.coverage)
    model = Recurrent(inner=False)
    with pytest.raises(InputError, match="no layer to select.*'lstm': it is a LSTM; allowed: Conv1d"):
        Subnet(model, 1000, ANY, input_shape=(7,))
    assert not any(hasattr(module, "selected_weight") for module in model.modules())


def test_what_is_kept_is_told_for_texts_too():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Subnet(gpt2(), 300, ANY, input_shape=(12,))
    assert [one.category for one in told] == [BeyondBudget] and told[0].filename == __file__


# --- torchvision's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", ["layers", "blocks"])
def test_mobilenet_v3(recompute):
    model = torchvision().models.mobilenet_v3_small(weights=None, num_classes=5)
    tried(model, (3, 32, 32), (torch.randn(2, 3, 32, 32),), recompute=recompute)


def _nms(boxes, scores, iou_threshold):
    """torchvision's own is compiled, and not there beside a torch of another kind."""
    overlap = torchvision().ops.box_iou(boxes, boxes) > iou_threshold
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for place in scores.argsort(descending=True).tolist():
        if alive[place]:
            kept.append(place)
            alive &= ~overlap[place]
    return torch.tensor(kept, dtype=torch.long)


def test_a_detector_of_lists_whose_losses_are_a_dict(monkeypatch):
    monkeypatch.setattr(torchvision().ops.boxes, "nms", _nms)
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    backbone = nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.MaxPool2d(1, 2),
            nn.Conv2d(8, 8, 1),
            nn.Hardswish(),
        )
    )
    backbone.out_channels = [8]
    model = SSD(backbone, DefaultBoxGenerator([[2]]), (32, 32), num_classes=3)
    images = [torch.rand(3, 32, 32), torch.rand(3, 30, 28)]
    box = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "labels": torch.tensor([1])}

    def loss_of(losses):
        return sum(losses.values())

    subnet = tried(model, (3, 32, 32), (images, [box, box]), loss_of)
    heads = ("head.classification_head.module_list.0", "head.regression_head.module_list.0")
    assert subnet.coverage.classifier == heads


class Notes(nn.Module):
    """Computes something at its first forward pass and keeps it, as torchvision's anchors do."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.codes, self.by_size, self.runs = None, {}, []

    def forward(self, x):
        if self.codes is None:
            self.codes = torch.linspace(0, 1, x.shape[-1]).to(x)
        self.by_size[x.shape[-1]] = x.new_ones(())
        self.runs.append(x.new_zeros(()))
        x = x * self.codes * self.by_size[x.shape[-1]] + self.runs[-1]
        return self.head(F.max_pool2d(torch.relu(self.conv(x)), 1, 2).mean((2, 3)))


def test_probing_leaves_nothing_of_its_own_behind():
    model = Notes()
    with Subnet(model, 200, ANY, input_shape=(3, 8, 8)):
        assert model.codes is None and not model.by_size and not model.runs
    tried(Notes(), (3, 8, 8), (torch.randn(2, 3, 8, 8),), share=0.6)


class Proposes(nn.Module):
    """Takes more vectors of a sample in training than in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.box, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        rows = self.conv(x).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.box(rows if self.training else rows[:, :5]))).mean(1)


def test_more_vectors_than_the_budget_counts_are_refused():
    model = Proposes()
    subnet = Subnet(model, 500, ANY, input_shape=(3, 8, 8))
    subnet.attached.select({"box": [0, 1]})
    model.eval()(torch.randn(3, 3, 8, 8)).sum().backward()
    model.conv(torch.randn(2, 3, 8, 8))
    message = "layer 'box' takes 108 vectors from a batch of 3 where the budget counts 5 a sample"
    with pytest.raises(InputError, match=message):
        model.train()(torch.randn(3, 3, 8, 8))
    assert not hasattr(subnet.detach().box, "batch")


def test_a_function_within_that_is_compiled_runs_as_it_is():
    @torch.compile(backend="eager")
    def scaled(x):
        return torch.sigmoid(x) * x

    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(scaled(self.conv(x)).mean((2, 3)))

    tried(Compiled(), (3, 8, 8), (torch.randn(2, 3, 8, 8),), share=0.6)
