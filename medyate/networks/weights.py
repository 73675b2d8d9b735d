"""Files of pretrained weights, read under the names of our modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files.pickles import read_numpy_pickle
from .architectures import Architecture, Swin, TextEncoder
from .transformers import package


def read(architecture: Architecture | Swin | TextEncoder, source: str, path: Path) -> dict[str, Tensor]:
    """The weights of ``source`` by our names; fails on a name that is not understood."""
    if isinstance(architecture, Architecture):
        return _read_int8(path) if source == "imagenet-int8" else _read_fp32(path)
    state = _state(path)
    return swin_names(state) if isinstance(architecture, Swin) else encoder_names(architecture, state)


def fill(model: nn.Module, weights: dict[str, torch.Tensor], path: Path, new: tuple[str, ...] = ()) -> None:
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
        return package("safetensors.torch").load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def swin_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict under our names."""
    return {f"classifier.{name[5:]}" if name.startswith("head.") else name: t for name, t in state.items()}


def encoder_names(architecture: TextEncoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A hub's state dict under our names; heads of its pretraining are left out.

    The layer that RoBERTa puts in the pooler's place is not in it: it is new for every task.
    """
    prefix = f"{architecture.family}."
    if any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    known = ("embeddings.", "encoder.", "pooler.")
    renamed = {".gamma": ".weight", ".beta": ".bias"}  # layer norms in old files
    ours = {}
    for name, tensor in state.items():
        if name.startswith(known) and not name.endswith("position_ids"):
            for old, new in renamed.items():
                name = name.removesuffix(old) + new if name.endswith(old) else name
            if architecture.family == "bert" or not name.startswith("pooler."):
                ours[f"body.{name}"] = tensor
    return ours


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
    content = read_numpy_pickle(path)
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
