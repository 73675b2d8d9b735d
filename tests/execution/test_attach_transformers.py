"""Transformers as subnets: gradients against dense autograd, what is kept against closed forms."""

import copy
import gc
import inspect
import threading
import warnings
import weakref

import pytest
import torch
from test_attach import assert_same, dense_gradients, some_channels, subnet_gradients
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from medyate import costs
from medyate.errors import InputError
from medyate.execution import measure as memory
from medyate.execution import recompute
from medyate.execution.attach import attach
from medyate.execution.layers import SubnetLinear
from medyate.execution.modes import RECOMPUTE
from medyate.networks._torchvision import torchvision

MODES = tuple(RECOMPUTE)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    yield
    assert recompute.current() is None  # no test leaves a scope open


# --- models ------------------------------------------------------------------------------------


def shaken(model: nn.Module, dtype=torch.float64) -> nn.Module:
    """Away from the initial values: biases of zero and norms of one would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.to(dtype).train()


def swin(depth_drop=0.0, dropout=0.0, attention_dropout=0.0, version=1) -> nn.Module:
    """Two stages of two blocks; windows of 4 on 9 x 11 tokens, so that padding, shifts and merging all occur."""
    swins = torchvision().models.swin_transformer
    more = {} if version == 1 else {"block": swins.SwinTransformerBlockV2, "downsample_layer": swins.PatchMergingV2}
    return swins.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 3],
        window_size=[4, 4],
        num_classes=3,
        stochastic_depth_prob=depth_drop,
        dropout=dropout,
        attention_dropout=attention_dropout,
        **more,
    )


class Text(nn.Module):
    """A transformers classifier of one tensor of token numbers; 0 is padding."""

    def __init__(self, kind="Bert", attention="sdpa", dropout=0.0):
        super().__init__()
        torchvision()  # transformers imports it where it is installed
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, kind + "Config")(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            vocab_size=50,
            num_labels=3,
            max_position_embeddings=40,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            pad_token_id=0,
            attn_implementation=attention,
        )
        self.net = getattr(transformers, kind + "ForSequenceClassification")(config)

    def forward(self, tokens):
        mask = None if tokens.is_meta else (tokens != 0).long()
        return self.net(tokens, attention_mask=mask).logits


def small_encoder(family="bert", layers=2) -> nn.Module:
    """The form that this project's text networks have."""
    pytest.importorskip("transformers")
    from medyate.networks import transformers as encoders
    from medyate.networks.architectures import TextEncoder

    options = {"separator": 7, "pad": 0} if family == "bert" else {"separator": None, "pad": 0}
    shape = TextEncoder(family, layers=layers, width=24, heads=3, inner=40, vocabulary=50, positions=40, **options)
    return encoders.build(shape, 3)


class Encoder(nn.Module):
    """torch's own encoder layers, with a padding mask: tokens of zeros are padding."""

    def __init__(self, norm_first=False, activation="gelu", dropout=0.0):
        super().__init__()
        torchvision()  # torch.compile's import of it, which a TransformerEncoder brings about
        self.embed = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout, activation, batch_first=True, norm_first=norm_first)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(16, 3)

    def forward(self, x):
        padding = (x == 0).all(-1)
        return self.classifier(self.blocks(self.embed(x), src_key_padding_mask=padding).mean(1))


class Block(nn.Module):
    """As timm writes them: a packed qkv, grouped queries if asked for, scaled residuals."""

    def __init__(self, width=16, heads=4, causal=False, groups=1):
        super().__init__()
        self.heads, self.causal, self.groups, self.size = heads, causal, groups, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, width + 2 * width // groups)
        self.proj = nn.Linear(width, width, bias=False)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.7))

    def forward(self, x):
        sizes = [self.heads * self.size] + [self.heads * self.size // self.groups] * 2
        q, k, v = (
            part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(sizes, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.groups > 1)
        x = x + self.gamma * self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Own(nn.Module):
    """Images in patches, a class token, blocks, silu and a gate behind them, the mean of all tokens."""

    def __init__(self, wrap=lambda block, x: block(x), **options):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList(Block(**options) for _ in range(2))
        self.wrap = wrap
        self.gate, self.up, self.norm = nn.Linear(16, 20), nn.Linear(16, 20), nn.LayerNorm(20)
        self.head = nn.Sequential(nn.Linear(20, 7), nn.GELU(), nn.Linear(7, 3))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = self.wrap(block, x)
        return self.head(self.norm(F.silu(self.gate(x)) * self.up(x)).mean(1))


def images(count=3, height=36, width=44):
    return torch.randn(count, 3, height, width, dtype=torch.float64)


def tokens(count=3):
    found = torch.randint(1, 50, (count, 16))
    found[1 % count, 9:] = 0
    return found


def features(count=3):
    found = torch.randn(count, 7, 5, dtype=torch.float64)
    found[0, 5:] = 0
    return found


class Both(nn.Module):
    """torch's encoder and decoder, with attention across and a causal mask."""

    def __init__(self):
        super().__init__()
        torchvision()
        self.embed = nn.Linear(5, 16)
        self.both = nn.Transformer(16, 2, 1, 1, 24, 0.0, batch_first=True)
        self.classifier = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.classifier(self.both(x, x[:, 1:] * 2, tgt_mask=causal[1:, 1:], tgt_is_causal=True).mean(1))


class Weights(nn.Module):
    """nn.MultiheadAttention asked for its weights, which matter to the loss."""

    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Linear(5, 8), nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=7)
        self.keys, self.values, self.norm = nn.Linear(5, 6), nn.Linear(5, 7), nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        out, weights = self.attend(self.norm(self.embed(x)), self.keys(x), self.values(x))
        return self.classifier(out.mean(1) + weights.square().sum((1, 2))[:, None])


def vision_transformer() -> nn.Module:
    return torchvision().models.VisionTransformer(16, 4, 2, 2, 16, 24, num_classes=3)


def convnext() -> nn.Module:
    models = torchvision().models.convnext
    model = models.ConvNeXt(
        [models.CNBlockConfig(8, 12, 2), models.CNBlockConfig(12, None, 1)], 0.0, 0.5, num_classes=3
    )
    return model


# name -> (model, input, classifier)
MODELS = {
    "swin": (swin, images, "head"),
    "swin v2": (lambda: swin(version=2), images, "head"),
    "bert": (Text, tokens, "net.classifier"),
    "bert, eager": (lambda: Text(attention="eager"), tokens, "net.classifier"),
    "roberta": (lambda: Text("Roberta"), tokens, "net.classifier.out_proj"),
    "text network, bert": (small_encoder, tokens, "classifier"),
    "text network, roberta": (lambda: small_encoder("roberta"), tokens, "classifier"),
    "encoder": (Encoder, features, "classifier"),
    "encoder, norm first, relu": (lambda: Encoder(True, "relu"), features, "classifier"),
    "encoder and decoder": (Both, features, "classifier"),
    "attention weights": (Weights, features, "classifier"),
    "vision transformer": (vision_transformer, lambda count=3: images(count, 16, 16), "heads"),
    "convnext": (convnext, lambda count=3: images(count, 16, 24), "classifier"),
    "own": (Own, lambda count=3: images(count, 6, 8), "head"),
    "own, causal, grouped queries": (lambda: Own(causal=True, groups=2), lambda count=3: images(count, 6, 8), "head"),
}


def made(kind: str):
    build, example, classifier = MODELS[kind]
    return shaken(build()), example(), classifier


def random_channels(model: nn.Module, classifier: str, seed: int) -> dict[str, list[int]]:
    """A random part of the layers, a random part of each one's channels; some whole layers."""
    generator = torch.Generator().manual_seed(seed)
    every = some_channels(model, classifier, share=1.0)
    chosen = {}
    for name, channels in every.items():
        if torch.rand((), generator=generator) < 0.4 or name == list(every)[-1]:
            share = float(torch.rand((), generator=generator) * 1.2)
            count = max(1, round(min(share, 1.0) * len(channels)))
            chosen[name] = torch.randperm(len(channels), generator=generator)[:count].sort().values.tolist()
    return chosen


def check(model, x, chosen, classifier, mode, run=None, **options) -> None:
    """The output and the gradients are those of torch alone, the model is given back unchanged."""
    labels = torch.arange(len(x)) % 3
    expected_output, expected = dense_gradients(model, x, labels, chosen, classifier)
    model.zero_grad()
    before = copy.deepcopy(model.state_dict())
    contents = [set(module.__dict__) for module in model.modules()]
    attached = attach(model, classifier=classifier, recompute=mode, example=x[:1], **options)
    attached.select(chosen)
    output, found = subnet_gradients(model if run is None else run, attached, x, labels)
    torch.testing.assert_close(output, expected_output, rtol=1e-10, atol=1e-10)
    assert_same(found, expected, torch.float64)
    attached.detach()
    assert [set(module.__dict__) for module in model.modules()] == contents
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODELS)
def test_random_selections(kind, mode):
    model, x, classifier = made(kind)
    for seed in range(3):
        check(model, x, random_channels(model, classifier, seed), classifier, mode)


@pytest.mark.parametrize("kind", ["swin", "bert", "own"])
def test_every_layer_by_itself(kind):
    model, x, classifier = made(kind)
    for name, channels in some_channels(model, classifier).items():
        check(model, x[:2], {name: channels}, classifier, "layers")
        check(model, x[:1], {name: channels}, classifier, "blocks")


def test_the_real_swin_has_every_kind_of_layer():
    """Patch embedding, qkv, projection, MLP, merging of torchvision's own swin_t, by the names of the costs."""
    model = shaken(torchvision().models.swin_t(weights=None, num_classes=3), torch.float32)
    layers = costs.layers(model, (3, 128, 128), "head")
    attached = attach(model, classifier="head")
    attached.select({layer.name: [0] for layer in layers})
    assert len(attached.selected) == 52 and all(f"features.{i}" in " ".join(attached.selected) for i in range(8))


@pytest.mark.parametrize("mode", MODES)
def test_dropout_and_stochastic_depth(mode):
    for build, x, classifier in [
        (lambda: swin(depth_drop=0.3, dropout=0.2, attention_dropout=0.1), images(4), "head"),
        (lambda: Text(dropout=0.2), tokens(), "net.classifier"),
        (lambda: Text(dropout=0.2, attention="eager"), tokens(), "net.classifier"),
        (lambda: Encoder(dropout=0.2), features(), "classifier"),
    ]:
        model = shaken(build())
        for seed in range(2):  # subnet_gradients and dense_gradients start from one state of the generator
            check(model, x, random_channels(model, classifier, seed), classifier, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_the_user(mode, reentrant):
    def wrap(block, x):
        if reentrant and not x.requires_grad:
            return block(x)
        return checkpoint(block, x, use_reentrant=reentrant)

    whole = {"patch": [0, 2]}  # so that every block's input needs a gradient
    for build in (
        lambda: Own(wrap),
        lambda: Own(lambda block, x: checkpoint(lambda y: block(y) * 2, x, use_reentrant=False)),
    ):
        model = shaken(build())
        for seed in range(2):
            check(model, images(3, 6, 8), random_channels(model, "head", seed) | whole, "head", mode)
    if not reentrant:
        model, x, classifier = made("own")
        chosen = random_channels(model, classifier, 5)
        check(model, x, chosen, classifier, mode, run=_Through(model))


class _Through(nn.Module):
    def __init__(self, model, method="__call__"):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x):
        return checkpoint(getattr(self.model, self.method), x, use_reentrant=False)


@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_of_functional_layers(mode):
    """Code that is run again in the backward pass, outside of any module's call, and uses weights through functions."""

    class Net(Functional):
        def forward(self, x):
            def inner(x):
                return F.gelu(F.linear(x, self.a.weight, self.a.bias))

            x = checkpoint(inner, x, use_reentrant=False)
            return self.classifier(F.linear(x, self.b.weight, self.b.bias).mean(1))

    model, x = shaken(Net()), torch.randn(2, 4, 6, dtype=torch.float64)
    for chosen in ({"a": [0, 5]}, {"a": range(6), "b": [3]}):
        check(model, x, chosen, "classifier", mode)
    swins = shaken(swin())
    for stage in (1, 3):
        for number, block in enumerate(swins.features[stage]):
            swins.features[stage][number] = _Through(block, "forward")
    check(swins, images(), random_channels(swins, "head", 1), "head", mode)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_checkpointing_of_transformers(mode):
    model, x, classifier = made("bert")
    model.net.gradient_checkpointing_enable({"use_reentrant": False})
    for seed in range(2):
        check(model, x, random_channels(model, classifier, seed), classifier, mode)


@pytest.mark.parametrize("mode", MODES)
def test_several_passes_forward_before_one_backward_and_graphs_that_are_kept(mode):
    model, x, classifier = made("bert")
    chosen = random_channels(model, classifier, 1)
    labels = torch.arange(3)
    _, expected = dense_gradients(model, x, labels, chosen, classifier)
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select(chosen)

    def found():
        return attached.gradients() | {f"{classifier}.{n}": p.grad for n, p in attached.classifier.named_parameters()}

    losses = [F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]) / 3 for i in range(3)]
    sum(losses).backward()
    assert_same(found(), expected, torch.float64)
    model.zero_grad()
    for i in range(3):  # accumulated
        (F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]) / 3).backward()
    assert_same(found(), expected, torch.float64)
    model.zero_grad()
    loss = F.cross_entropy(model(x), labels) / 2
    loss.backward(retain_graph=True)
    loss.backward()
    assert_same(found(), expected, torch.float64)
    # a backward pass that goes only part of the way leaves nothing behind that the next one would mistake
    loss = F.cross_entropy(model(x), labels)
    last = attached.selected[list(attached.selected)[-1]].selected_weight
    torch.autograd.grad(loss, last, retain_graph=True)
    model.zero_grad()
    loss.backward()
    assert_same(found(), expected, torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["swin", "bert", "own"])
def test_evaluation(kind, mode):
    model, x, classifier = made(kind)
    model.eval()
    expected = model(x).detach()
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select(random_channels(model, classifier, 0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x).detach(), expected)


@pytest.mark.parametrize("mode", ["layers", "blocks"])
@pytest.mark.parametrize("kind", ["swin", "bert", "encoder", "own"])
def test_autocast(kind, mode):
    build, example, classifier = MODELS[kind]
    model = shaken(build(), torch.float32)
    x = example()
    x = x.float() if x.is_floating_point() else x
    labels = torch.arange(len(x)) % 3
    chosen = random_channels(model, classifier, 2)
    _, exact = dense_gradients(copy.deepcopy(model), x, labels, chosen, classifier)
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = dense_gradients(model, x, labels, chosen, classifier)
    model.zero_grad()
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select(chosen)
    with torch.autocast("cpu", torch.bfloat16):
        _, ours = subnet_gradients(model, attached, x, labels)

    def error(found):
        a, b = (torch.cat([part[name].double().flatten() for name in exact]) for part in (found, exact))
        return float((a - b).norm() / b.norm())

    assert all(value.dtype == torch.float32 for value in ours.values())
    assert error(ours) < max(0.02, 1.5 * error(theirs))  # no further from the truth than torch's own autocast


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": "bool"},
        {"attn_mask": "float"},
        {"attn_mask": "float", "scale": 2.0},
        {"enable_gqa": True},
        {"enable_gqa": True, "is_causal": True},
        {"attn_mask": "trained"},
        {"dropout_p": 0.4},
    ],
    ids=str,
)
def test_attention_alone(options):
    """Every argument of scaled_dot_product_attention; which of the three needs a gradient, in all ways."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.classifier = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(4, 3)
            self.bias = nn.Parameter(torch.randn(5, 5, dtype=torch.float64))

        def forward(self, x, which):
            y = self.norm(self.a(x)).unflatten(-1, (2, 4)).transpose(1, 2)  # (B, 2, 5, 4)
            grouped = options.get("enable_gqa", False)
            parts = [y, y[:, :1] * 2 if grouped else y * 2, y[:, 1:] - 1 if grouped else y - 1]
            parts = [part if needed else part.detach() for part, needed in zip(parts, which)]
            mask = options.get("attn_mask")
            if mask == "trained":
                mask = self.bias
            elif mask is not None:
                mask = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
                mask = (mask > -1) if options["attn_mask"] == "bool" else mask
            mixed = F.scaled_dot_product_attention(*parts, **options | {"attn_mask": mask})
            return self.classifier(mixed.mean((1, 2)))

    model, x = Attends().double(), torch.randn(3, 5, 8, dtype=torch.float64)
    for which in [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)]:
        plain = copy.deepcopy(model)
        torch.manual_seed(7)
        plain(x, which).square().sum().backward()
        attached = attach(copy.deepcopy(model), classifier="classifier")
        attached.select({"a": [1, 6]})
        if options.get("attn_mask") == "trained":
            attached.model.bias.requires_grad_(True)
        torch.manual_seed(7)
        attached.model(x, which).square().sum().backward()
        torch.testing.assert_close(attached.gradients()["a"], plain.a.weight.grad.t()[[1, 6]])
        if options.get("attn_mask") == "trained":
            torch.testing.assert_close(attached.model.bias.grad, plain.bias.grad)


# --- weights that are used through functions -------------------------------------------------------


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.classifier = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.linear(x, self.a.weight, self.a.bias)
        x = F.linear(input=x.tanh(), weight=self.b.weight)  # without the bias: no use of the layer
        return self.classifier(F.linear(x, torch.eye(5, dtype=x.dtype)).mean(1))


@pytest.mark.parametrize("mode", MODES)
def test_a_weight_used_through_a_function_gets_a_compact_gradient(mode):
    model = Functional().double()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    for chosen in ({"a": [0, 5]}, {"b": [2]}, {"a": [1], "b": [0, 7]}):
        check(model, x, chosen, "classifier", mode)
    attached = attach(model, classifier="classifier", recompute=mode)
    attached.select({"a": [0, 5]})
    kept = memory.measure(
        model, model.classifier, torch.optim.SGD(attached.parameters(), lr=0.0), x, torch.tensor([0, 1])
    )
    assert kept.backbone["selected_activations"] == 8 * 2 * 4 * 2
    assert kept.backbone["weight_gradients"] == 8 * 8 * 2


# --- what is kept ----------------------------------------------------------------------------------


def step(model, attached, x, lr=0.0) -> memory.Kept:
    labels = torch.arange(len(x)) % 3
    return memory.measure(model, attached.classifier, torch.optim.SGD(attached.parameters(), lr=lr), x, labels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["swin", "bert", "own"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_selection_keeps_what_it_pays_for(kind, mode, seed):
    model, x, classifier = made(kind)
    shape = tuple(x.shape[1:])
    layers = [layer for layer in costs.walk(model, shape) if not layer.name.startswith(classifier)]
    chosen = {}
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:  # not whole layers: these keep their input itself, which others may share
        if torch.rand((), generator=generator) < 0.5:
            chosen[layer.name] = torch.randperm(layer.channels, generator=generator)[: layer.channels // 3 + 1].tolist()
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select(chosen)
    held = step(model, attached, x).backbone
    by_name = {layer.name: layer for layer in layers}
    activations = sum(len(c) * by_name[n].activation_elements_per_channel for n, c in chosen.items())
    weights = sum(len(c) * by_name[n].weight_elements_per_channel for n, c in chosen.items())
    assert held["selected_activations"] == 8 * len(x) * activations
    assert held["weight_gradients"] == 8 * weights


def norm_bytes(rows: int, width: int) -> int:
    """A layer norm's input, a mean and a deviation a token, in double precision."""
    return 8 * rows * (width + 2)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("mode", ["layers", "blocks"])
def test_what_bert_keeps(family, mode):
    """Closed form. The selected layer is block 0's last, so that the gradient passes three norms: block 0's second,
    block 1's two."""
    x = tokens()
    rows, width = x.numel(), 24
    model = shaken(small_encoder(family))
    attached = attach(model, classifier="classifier", recompute=mode)
    attached.select({"body.encoder.layer.0.output.dense": [3]})
    held = dict(step(model, attached, x).backbone)
    assert held.pop("selected_activations") == 8 * rows
    assert held.pop("weight_gradients") == 8 * width
    assert held.pop("activations") == 8 * len(x) * width  # tanh of the first token
    assert held.pop("attention") == rows  # where there is padding, a byte a token
    if mode == "layers":
        assert held.pop("layer_norm") == 3 * norm_bytes(rows, width)
    else:  # the last norm's input, and that of block 0's first norm, from which the two between follow
        assert held.pop("layer_norm") == norm_bytes(rows, width) and held.pop("recipes") == 8 * rows * width
    assert set(held.values()) == {0}


@pytest.mark.parametrize("mode", ["none", "layers", "blocks"])
def test_depth_multiplies_what_is_kept(mode):
    """Per block of BERT: what each mode's description says, and nothing that grows with the square of the tokens."""

    def total(layers, length):
        model = shaken(small_encoder("bert", layers=layers))
        attached = attach(model, classifier="classifier", recompute=mode)
        attached.select({"body.encoder.layer.0.output.dense": [0]})
        return step(model, attached, torch.randint(1, 50, (2, length))).total_bytes

    block = total(5, 32) - total(4, 32)
    rows, width, inner = 2 * 32, 24, 40
    assert (
        block
        == {
            # queries, keys, values, torch's output of attention and a number a token and head, the mask as numbers,
            # GELU's input
            "none": 2 * norm_bytes(rows, width) + 8 * rows * (4 * width + 3 + 1 + inner),
            "layers": 2 * norm_bytes(rows, width),
            "blocks": norm_bytes(rows, width),
        }[mode]
    )
    assert total(5, 16) - total(4, 16) == block // 2


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_what_an_encoder_keeps(norm_first, activation):
    """The last selected layer is the embedding in front: both blocks pass the gradient on."""
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    for mode, norms in (("layers", 4), ("blocks", 2)):
        model = shaken(Encoder(norm_first, activation))
        attached = attach(model, classifier="classifier", recompute=mode)
        attached.select({"embed": [0, 1]})
        held = dict(step(model, attached, x).backbone)
        assert held.pop("selected_activations") == 8 * 2 * 21 and held.pop("weight_gradients") == 8 * 2 * 16
        assert held.pop("layer_norm") == norms * norm_bytes(21, 16)
        assert held.pop("masks") == (2 * 21 * 32 // 8 if activation == "relu" else 0)
        # what the first block's attention is computed from lies in front of any norm if the norms come last
        embedded = held.pop("recipes", 0)
        held.pop("attention", None)  # the padding mask
        assert embedded <= 8 * 21 * 16
        assert set(held.values()) == {0}


def test_what_swin_keeps():
    """The norms' inputs, and small roots: of masks and position bias."""
    x = images(2, 32, 32)
    sizes = [(64, 12)] * 4 + [(16, 48)] + [(16, 24)] * 4 + [(16, 24)]  # two blocks, merging, two blocks, the last
    model = shaken(swin())
    attached = attach(model, classifier="head", recompute="layers")
    attached.select({"features.0.0": [0]})
    held = dict(step(model, attached, x).backbone)
    assert held.pop("selected_activations") == 8 * 2 * 32 * 32
    assert held.pop("weight_gradients") == 8 * 12 * 16
    # the embedding's own norm too
    assert held.pop("layer_norm") == sum(norm_bytes(2 * tokens, width) for tokens, width in [(64, 12), *sizes])
    # one map of regions for the shifted block of stage 1: 8 x 8 tokens; stage 2 has one window, which is not shifted
    assert held.pop("recipes") == 8 * 64
    assert set(held.values()) == {0}
    blocks = attach(attached.detach(), classifier="head", recompute="blocks")
    blocks.select({"features.0.0": [0]})
    fewer = dict(step(model, blocks, x).backbone)
    # of each block's two norms one, the embedding's, the merging's, the last
    assert fewer["layer_norm"] < 0.62 * sum(norm_bytes(2 * tokens, width) for tokens, width in [(64, 12), *sizes])


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_kept_in_front_of_the_first_selected_layer(kind):
    model, x, classifier = made(kind)
    attached = attach(model, classifier=classifier)
    held = step(model, attached, x).backbone
    assert sum(held.values()) == 0  # the classifier alone
    last = list(some_channels(model, classifier))[-1]
    attached.select({last: [0]})
    few = step(model, attached, x).backbone
    attached.select({list(some_channels(model, classifier))[0]: [0]})
    many = step(model, attached, x).backbone
    # of a single block of attention that gives its weights away most is kept wherever the selection begins: 0.685
    assert sum(few.values()) < (0.7 if kind == "attention weights" else 0.5) * sum(many.values())


@pytest.mark.parametrize("kind", ["swin", "bert", "encoder"])
def test_without_recipes_all_that_torch_keeps_has_a_name(kind):
    model, x, classifier = made(kind)
    attached = attach(model, classifier=classifier, recompute="none")
    attached.select(some_channels(model, classifier))
    held = step(model, attached, x).backbone
    assert held["other"] == 0 and all(held[part] > 0 for part in ("layer_norm", "attention", "activations"))


@pytest.mark.parametrize("kind", ["swin", "bert", "bert, eager", "encoder", "own"])
def test_each_mode_keeps_less_than_the_one_before(kind):
    kept = []
    for mode in MODES:
        model, x, classifier = made(kind)
        attached = attach(model, classifier=classifier, recompute=mode)
        attached.select({list(some_channels(model, classifier))[0]: [0]})
        kept.append(step(model, attached, x).total_bytes)
    assert kept[0] > 2 * kept[1] > 2.4 * kept[2]


def test_what_was_kept_goes_with_the_graph():
    """After a backward pass nothing lives on, even while the loss does; without one, it goes with the loss."""
    for backward in (True, False):
        for mode in ("layers", "blocks"):
            model, x, classifier = made("bert")
            attached = attach(model, classifier=classifier, recompute=mode)
            attached.select(some_channels(model, classifier))
            seen, size = [], x.numel()

            class Watch(torch.utils._python_dispatch.TorchDispatchMode):
                def __torch_dispatch__(self, func, types, args=(), kwargs=None, seen=seen, size=size):
                    out = func(*args, **(kwargs or {}))
                    if isinstance(out, torch.Tensor) and out.numel() >= size:
                        seen.append(weakref.ref(out.untyped_storage()))
                    return out

            there = {id(p.untyped_storage()) for p in [*model.parameters(), *model.buffers()]}
            gc.collect()
            gc.disable()
            try:
                with Watch():
                    loss = F.cross_entropy(model(x), torch.arange(3))
                    if backward:
                        loss.backward()
                model.zero_grad()
                if not backward:
                    del loss
                alive = [ref() for ref in seen if ref() is not None and id(ref()) not in there]
                assert not alive, [storage.nbytes() for storage in alive]
            finally:
                gc.enable()


@pytest.mark.parametrize("mode", ["layers", "blocks"])
def test_what_comes_out_does_not_keep_what_it_was_made_of(mode):
    model, x, classifier = made("bert")
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select({"net.bert.encoder.layer.0.output.dense": [0]})
    roots = []
    hook = model.net.bert.embeddings.word_embeddings.register_forward_hook(
        lambda m, i, out: roots.append(weakref.ref(out))
    )
    gc.disable()
    try:
        features = model.net.bert(x).last_hidden_state.detach()
        assert len(roots) == 1 and roots[0]() is None and features.shape == (3, 16, 24)
    finally:
        gc.enable()
        hook.remove()


# --- changes in between, in-place operations ---------------------------------------------------------


def test_a_norm_that_changes_between_the_passes_is_an_error():
    """Whose output nobody else needs again: only its own gradient shows it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.first, self.b, self.second = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)
            self.classifier = nn.Linear(8, 3)

        def forward(self, x):
            return self.classifier(self.second(self.b(self.first(self.a(x)))))

    for changed in ("second.weight", "second.bias", "first.weight"):
        model = shaken(Net())
        attached = attach(model, classifier="classifier", recompute="blocks")
        attached.select({"a": [0]})
        loss = model(torch.randn(4, 8, dtype=torch.float64)).sum()
        with torch.no_grad():
            model.get_parameter(changed).add_(1)
        with pytest.raises(RuntimeError, match="changed between forward and backward|modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("mode", ["layers", "blocks"])
@pytest.mark.parametrize(
    "name",
    [
        "net.bert.encoder.layer.1.attention.self.query.weight",
        "net.bert.encoder.layer.1.attention.output.LayerNorm.weight",
        "net.bert.encoder.layer.1.intermediate.dense.weight",
    ],
)
def test_weights_that_change_between_the_passes_are_an_error(mode, name):
    model, x, classifier = made("bert")
    attached = attach(model, classifier=classifier, recompute=mode)
    attached.select({"net.bert.encoder.layer.0.output.dense": [0]})
    loss = model(x).sum()
    with torch.no_grad():
        model.get_parameter(name).add_(1)
    with pytest.raises(RuntimeError, match="changed between forward and backward|modified by an inplace operation"):
        loss.backward()


def test_a_selection_that_changes_between_the_passes_is_an_error():
    for change in (lambda a: a.select({"net.bert.encoder.layer.1.output.dense": [0]}), lambda a: a.detach()):
        model, x, classifier = made("bert")
        attached = attach(model, classifier=classifier)
        attached.select(
            {"net.bert.encoder.layer.0.output.dense": [0], "net.bert.encoder.layer.1.attention.self.key": [0]}
        )
        loss = model(x).sum()
        change(attached)
        with pytest.raises(RuntimeError, match="changed between forward and backward"):
            loss.backward()


class InPlace(nn.Module):
    """Changes queries, a GELU's input and a sum in place after they were made; the recipes must not be used."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.up, self.down = (nn.Linear(8, 8) for _ in range(5))
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        q, k, v = self.q(y), self.k(y), self.v(y)
        q *= 0.5
        k[:, 0] = 1.0
        v.view(-1)[3:5].zero_()
        z = F.scaled_dot_product_attention(q, k, v)
        u = self.up(z)
        u += 1
        u = F.gelu(u.clamp_(-3, 3))
        out = y * 2
        out.add_(z + self.down(u))
        return self.classifier(out.mean(1))


class OnResults(InPlace):
    """Changes in place what comes out of the functions that keep recipes."""

    def forward(self, x):
        y = self.norm(self.embed(x))
        scores = self.q(y) @ self.k(y).transpose(1, 2)
        scores += 1
        y = F.softmax(scores, -1) @ self.v(y)
        y -= 1
        y = F.gelu(self.up(y))
        y *= 2
        y = self.norm(y)
        y.mul_(3)
        return self.classifier(self.down(y).mean(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [InPlace, OnResults])
def test_in_place_operations_cancel_recipes(kind, mode):
    model = shaken(kind())
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    for seed in range(4):
        check(model, x, random_channels(model, "classifier", seed) | {"embed": [0, 2]}, "classifier", mode)


def test_a_root_that_is_changed_in_place_is_an_error_that_names_the_way_out():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.classifier = (
                nn.Linear(4, 4),
                nn.Linear(4, 16),
                nn.Linear(16, 4),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            x = self.a(x).cumsum(0)  # not known to give the same again, so a root
            y = self.c(F.gelu(self.b(x)))
            x = x.view(-1, 4)
            x += y.view(-1, 4)
            return self.classifier(x)

    class Instead(Changes):
        def forward(self, x):
            x = self.a(x).cumsum(0)
            return self.classifier(x + self.c(F.gelu(self.b(x))))

    model, x = shaken(Changes()), torch.randn(5, 4, dtype=torch.float64)
    twin = Instead().double()
    twin.load_state_dict(model.state_dict())
    twin(x).sum().backward()
    attached = attach(model, classifier="classifier", recompute="none")
    attached.select({"a": [0, 2]})
    model(x).sum().backward()
    torch.testing.assert_close(attached.gradients()["a"], twin.a.weight.grad.t()[[0, 2]])
    attached = attach(attached.detach(), classifier="classifier")
    attached.select({"a": [0, 2]})
    with pytest.raises(RuntimeError, match="modified by an inplace operation.*recompute='none' keeps them instead"):
        model(x).sum().backward()


# --- scopes ------------------------------------------------------------------------------------------


def test_a_scope_closes_whatever_happens():
    class Stops(Own):
        stop: type | None = None

        def forward(self, x):
            if self.stop:
                self.norm(torch.randn(2, 20, dtype=x.dtype))
                raise self.stop
            return super().forward(x)

    model = shaken(Stops())
    attached = attach(model, classifier="head")
    for kind in (ValueError, KeyboardInterrupt):
        model.stop = kind
        with pytest.raises(kind):
            model(images(2, 6, 8))
        assert recompute.current() is None and torch.overrides._get_current_function_mode() is None
    model.stop = None
    attached.select({"blocks.0.qkv": [0]})
    model(images(2, 6, 8)).sum().backward()
    assert attached.gradients()["blocks.0.qkv"].norm() > 0


def test_a_model_within_a_model_and_threads():
    """An attached model inside another one's forward pass; passes of two threads at once."""

    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.first, self.inner, self.classifier = nn.Linear(5, 5), [inner], nn.Linear(3, 3)

        def forward(self, x):
            return self.classifier(self.inner[0](self.first(x)))

    inner = shaken(Encoder())
    outer = shaken(Outer(inner))
    x, labels = features(), torch.arange(3)
    expected = dense_gradients(outer, x, labels, {"first": [1, 2]}, "classifier")[1]
    attached_inner = attach(inner, classifier="classifier")
    attached_inner.select({"embed": [0]})
    attached = attach(outer, classifier="classifier")
    attached.select({"first": [1, 2]})
    _, found = subnet_gradients(outer, attached, x, labels)
    assert_same(found, expected, torch.float64)
    alone = attached_inner.gradients()["embed"].clone()
    failures = []

    def work():
        try:
            for _ in range(5):
                one = torch.autograd.grad(outer(x).sum(), attached.selected["first"].selected_weight)
                other = torch.autograd.grad(outer(x).sum(), attached.selected["first"].selected_weight)
                assert torch.equal(one[0], other[0])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures and alone.norm() > 0


def test_no_scope_where_there_is_nothing_for_it():
    from test_attach import Around, convolution

    model = Around(convolution(kernel_size=3))
    attach(model, classifier="classifier")
    assert all("forward" not in module.__dict__ for module in model.modules() if module is not model)
    scopes = []
    model.conv.register_forward_hook(lambda *_: scopes.append(recompute.current()))
    model(torch.randn(2, 3, 8, 8))
    assert scopes == [None]


def test_signatures_and_copies():
    model, x, classifier = made("own")
    before = inspect.signature(model.forward)
    attached = attach(model, classifier=classifier)
    attached.select(some_channels(model, classifier))
    assert inspect.signature(model.forward) == before
    twin = copy.deepcopy(attached)
    with torch.no_grad():
        twin.selected["blocks.0.qkv"].selected_weight.add_(1)
    assert not torch.equal(twin.model(x), model(x))
    assert twin.model.__dict__["forward"].module is twin.model and twin.model.__dict__["forward"].owner is twin
    twin.model(x).sum().backward()
    assert twin.gradients() and not attached.gradients()
    assert type(twin.detach().blocks[0].qkv) is nn.Linear and type(model.blocks[0].qkv) is SubnetLinear


def test_a_forward_of_the_users_own_on_the_object_stays():
    model, x, classifier = made("own")
    former = model.blocks[0].forward
    model.blocks[0].forward = lambda x: former(x) * 2
    mine = model.blocks[0].forward
    attached = attach(model, classifier=classifier)
    attached.select({"blocks.0.fc1": [0]})
    model(x).sum().backward()
    attached.detach()
    assert model.blocks[0].__dict__["forward"] is mine


def test_an_unknown_mode():
    with pytest.raises(InputError, match="unknown recompute mode 'all'; allowed: none, layers, blocks"):
        attach(Own(), classifier="head", recompute="all")


def test_no_warnings():
    model, x, classifier = made("swin")
    attached = attach(model, classifier=classifier, recompute="blocks")
    attached.select(some_channels(model, classifier))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x).sum().backward()
