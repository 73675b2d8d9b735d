"""Networks: block for block the papers', with the weights of their authors."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medyate import networks
from medyate.errors import InputError
from medyate.files import fetch as files
from medyate.files.pickles import read_numpy_pickle
from medyate.networks import convolutional, weights

THREE = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")
CONVOLUTIONAL = (*THREE, "efficientnet-lite0")  # the others: tests/networks/test_transformers.py
RESIDUAL_BLOCKS = {
    "mbv2-w0.35": {2, 4, 5, 7, 8, 9, 11, 12, 14, 15},
    "mcunet-in1": {2, 4, 6, 8, 9, 11, 12},
    "proxyless-w0.3": {2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18},
    "efficientnet-lite0": {2, 4, 6, 7, 9, 10, 12, 13, 14},
}
SAMPLES = {  # file name -> classes of ImageNet that name what is in the photograph
    "chelsea.png": {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"},
    "coffee.png": {967: "espresso", 968: "cup", 504: "coffee mug"},
    "camera.png": {872: "tripod"},
    "motorcycle_left.png": {665: "moped", 670: "motor scooter"},
    "rocket.jpg": {657: "missile", 744: "projectile", 812: "space shuttle"},
    "china.jpg": {698: "palace", 663: "monastery", 832: "stupa", 538: "dome"},
    "flower.jpg": {985: "daisy"},
}


def weights_or_skip(network: str, source: str) -> Path:
    file = networks.get(network).files[source]
    if files.state(file)[0] != "present":
        pytest.skip(f"{file.name} is not here (MEDYATE_DATA)")
    return files.fetch(file, download=False)


def convolutions(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def conv_inputs(model, resolution):
    """Name -> elements of each convolution's input for one image, in order of execution."""
    seen = {}
    for name, conv in convolutions(model).items():
        conv.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0].numel()}))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, resolution, resolution))
    return seen


@pytest.mark.parametrize(
    "name, count, weight_elements, activation_elements",
    [
        ("mbv2-w0.35", 52, 288_864, 963_456),
        ("mcunet-in1", 42, 463_216, 846_592),
        ("proxyless-w0.3", 61, 357_680, 804_352),
    ],
)
def test_totals_of_the_paper(name, count, weight_elements, activation_elements):
    model = networks.build(name, weights="random")
    inputs = conv_inputs(model, 128)
    convs = convolutions(model)
    assert list(inputs) == list(convs)  # defined in order of execution
    assert len(convs) == count
    assert sum(c.weight.numel() for c in convs.values()) == weight_elements
    assert sum(inputs.values()) == activation_elements
    assert all(c.bias is None for c in convs.values())


@pytest.mark.parametrize(
    "name, parameters",
    # the zoo's sizes; for EfficientNet-Lite0 the 4.65 million that its authors report
    [("mbv2-w0.35", 750_280), ("mcunet-in1", 636_232), ("proxyless-w0.3", 754_280), ("efficientnet-lite0", 4_652_008)],
)
def test_parameters_with_1000_classes(name, parameters):
    model = networks.build(name, weights="random")
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_efficientnet_has_49_convolutions():
    model = networks.build("efficientnet-lite0", weights="random")
    convs = convolutions(model)
    assert len(convs) == 49
    assert sum(c.weight.numel() for c in convs.values()) == 3_328_992


def test_convolutions_are_numbered_as_in_the_paper():
    """0 the stem, 1 b0.dw, 2 b0.pw2, then 3b, 3b + 1, 3b + 2 of block b, the mix last."""
    names = list(convolutions(networks.build("mbv2-w0.35", weights="random")))
    assert names[:6] == ["stem.conv", "b0.dw.conv", "b0.pw2.conv", "b1.pw1.conv", "b1.dw.conv", "b1.pw2.conv"]
    assert names[3:51] == [f"b{b}.{layer}.conv" for b in range(1, 17) for layer in ("pw1", "dw", "pw2")]
    assert names[51:] == ["mix.conv"]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_residual_sums_only_where_the_architecture_has_them(name):
    """With pw2's output at zero a block returns its input if it has a sum, and zero if not."""
    model = networks.build(name, weights="random").eval()
    residual = set()
    for i, block in enumerate(m for m in model if isinstance(m, convolutional.InvertedBottleneck)):
        nn.init.zeros_(block.pw2.bn.weight)
        channels = (block.dw if block.pw1 is None else block.pw1).conv.in_channels
        x = torch.ones(1, channels, 8, 8)
        with torch.no_grad():
            y = block(x)
        if y.any():
            torch.testing.assert_close(y, x)
            residual.add(i)
    assert residual == RESIDUAL_BLOCKS[name]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_plain_modules_only(name):
    model = networks.build(name, weights="random", classes=7)
    torch.fx.symbolic_trace(model)
    allowed = (
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU6,
        nn.Linear,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        convolutional.SamePad2d,
    )
    leaves = [m for m in model.modules() if not list(m.children())]
    assert all(type(m) in allowed for m in leaves)
    assert not any(m.inplace for m in leaves if isinstance(m, nn.ReLU6))
    norms = [m for m in leaves if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-5 if name == "mcunet-in1" else 1e-3} and {m.momentum for m in norms} == {0.1}
    assert type(model.classifier) is nn.Linear and model.classifier.out_features == 7
    activated = {n for n, m in model.named_modules() if isinstance(m, nn.ReLU6)}
    assert {n.removesuffix(".conv") for n in convolutions(model)} - {n.removesuffix(".act") for n in activated} == {
        n for n, _ in model.named_modules() if n.endswith(".pw2")
    }


@pytest.mark.parametrize("name", THREE)
def test_blocks_are_the_zoos(name):
    """The zoo's own description of the network, block for block."""
    path = weights_or_skip(name, "imagenet").with_suffix(".json")
    if not path.is_file():
        pytest.skip(f"{path.name} is not here (MEDYATE_DATA)")
    config = json.loads(path.read_text())
    theirs = []
    for block in config["blocks"]:
        conv = block["mobile_inverted_conv"]
        if conv["name"] == "ZeroLayer":  # dropped by the search
            continue
        mid = conv["mid_channels"] or round(conv["in_channels"] * conv["expand_ratio"])
        shape = conv["in_channels"], mid, conv["out_channels"], conv["kernel_size"], conv["stride"]
        theirs.append((*shape, block["shortcut"] is not None))
    model = networks.build(name, weights="random")
    ours = [
        (
            (m.pw1 or m.dw).conv.in_channels,
            m.dw.conv.out_channels,
            m.pw2.conv.out_channels,
            m.dw.conv.kernel_size[0],
            m.dw.conv.stride[0],
            m.residual,
        )
        for m in model
        if isinstance(m, convolutional.InvertedBottleneck)
    ]
    assert ours == theirs
    assert networks.get(name).architecture.batch_norm_eps == config["bn"]["eps"]
    assert networks.get(name).native_resolution == config["resolution"]


# Padding


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 2), (3, 3)])
def test_same_padding_is_tensorflows(kernel, stride):
    """Output ceil(size / stride), padding as TensorFlow's documentation words it."""
    for size in (*range(1, 18), 112, 113):
        padded = convolutional.SamePad2d(kernel, stride)(torch.ones(1, 1, size, size + 1))
        for n, side, axis in ((size, padded.shape[2], 2), (size + 1, padded.shape[3], 3)):
            total = max(kernel - (stride if n % stride == 0 else n % stride), 0)
            assert side == n + total
            assert (side - kernel) // stride + 1 == -(-n // stride)
            kept = padded[0, 0].amax(1 if axis == 2 else 0)
            assert kept.tolist() == [0.0] * (total // 2) + [1.0] * n + [0.0] * (total - total // 2)


# Sources of weights


def test_random_weights_are_the_generators():
    def build(seed):
        return networks.build("mcunet", weights="random", generator=torch.Generator().manual_seed(seed)).state_dict()

    before = torch.get_rng_state()
    one, same, other = build(1), build(1), build(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["b3.dw.conv.weight"], other["b3.dw.conv.weight"])


def test_new_classifier_is_the_generators():
    def build(seed):
        return networks.build("efficientnet-lite0", classes=10, generator=torch.Generator().manual_seed(seed))

    one, same, other = build(1), build(1), build(2)
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.classifier.weight.shape == (10, 1280)
    assert 0.9 < one.classifier.weight.abs().max() * 1280**0.5 <= 1
    assert torch.equal(one.mix.conv.weight, other.mix.conv.weight)


def zoo_forward(state, config, x):
    """The zoo's network written out from its own description, with its own names."""

    def unit(prefix, x, kernel, stride, groups, act, eps=config["bn"]["eps"]):
        x = F.conv2d(x, state[f"{prefix}.conv.weight"], None, stride, kernel // 2, 1, groups)
        mean, var = state[f"{prefix}.bn.running_mean"], state[f"{prefix}.bn.running_var"]
        x = F.batch_norm(x, mean, var, state[f"{prefix}.bn.weight"], state[f"{prefix}.bn.bias"], False, 0.0, eps)
        return x.clamp(0, 6) if act else x

    x = unit("first_conv", x, 3, 2, 1, True)
    for i, block in enumerate(config["blocks"]):
        conv, y = block["mobile_inverted_conv"], x
        if conv["name"] == "ZeroLayer":
            continue
        prefix = f"blocks.{i}.mobile_inverted_conv"
        if f"{prefix}.inverted_bottleneck.conv.weight" in state:
            y = unit(f"{prefix}.inverted_bottleneck", y, 1, 1, 1, True)
        y = unit(f"{prefix}.depth_conv", y, conv["kernel_size"], conv["stride"], y.shape[1], True)
        y = unit(f"{prefix}.point_linear", y, 1, 1, 1, False)
        x = x + y if block["shortcut"] else y
    if config["feature_mix_layer"]:
        x = unit("feature_mix_layer", x, 1, 1, 1, True)
    return F.linear(x.mean((2, 3)), state["classifier.linear.weight"], state["classifier.linear.bias"])


@pytest.mark.parametrize("name", THREE)
def test_fp32_zoo_network_computes_what_the_zoo_describes(name):
    path = weights_or_skip(name, "imagenet")
    if not path.with_suffix(".json").is_file():
        pytest.skip(f"{path.stem}.json is not here (MEDYATE_DATA)")
    state = torch.load(path, weights_only=True)["state_dict"]
    config = json.loads(path.with_suffix(".json").read_text())
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = networks.build(name, weights="imagenet").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), zoo_forward(state, config, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, count, features", [("mbv2", 51, 112), ("mcunet", 42, 160), ("proxyless", 60, 96)])
def test_int8_networks(name, count, features):
    path = weights_or_skip(name, "imagenet-int8")
    model = networks.build(name, weights="imagenet-int8")
    convs = convolutions(model)
    assert len(convs) == count and all(c.bias is not None for c in convs.values())
    assert model.classifier.in_features == features and not hasattr(model, "mix")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())

    content = read_numpy_pickle(path)
    assert content["first_conv"]["params"]["x_scale"] == pytest.approx(2 / 255)  # 255 steps in [-1, 1]
    layer = content["blocks"][-1]["pointwise2"]["params"]
    ours = convs[f"b{len(content['blocks']) - 1}.pw2.conv"]
    weight, bias = ours.weight.detach(), ours.bias.detach()
    for out in range(5):  # one by one, as the format defines them
        scale = float(layer["w_scales"][out])
        assert float(weight[out, 3]) == pytest.approx(int(layer["weight"][out, 3, 0, 0]) * scale, rel=1e-6)
        assert float(bias[out]) == pytest.approx(int(layer["bias"][out]) * scale * layer["x_scale"], rel=1e-6)
    shapes = [c.weight.shape for c in convs.values()]
    fp32 = [c.weight.shape for c in convolutions(networks.build(name, weights="random")).values()]
    assert shapes == fp32[:count]


def test_foreign_weights_are_refused(tmp_path):
    state = networks.build("mcunet", weights="random").state_dict()
    torch.save({"state_dict": {"first_conv.conv.weight": state["stem.conv.weight"]}}, tmp_path / "few.pth")
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, tmp_path / "unknown.pth")
    with pytest.raises(InputError, match="head.weight"):
        weights._read_fp32(tmp_path / "unknown.pth")
    model = networks.build("mcunet", weights="random")
    with pytest.raises(InputError, match="does not fit"):
        weights.fill(model, weights._read_fp32(tmp_path / "few.pth"), tmp_path / "few.pth")


def test_weights_with_a_wrong_checksum_never_load(tmp_path, monkeypatch):
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("read before the check"))
    for _, _, file in networks.weight_files():
        (tmp_path / file.name).write_bytes(b"not these")
    for network, source, file in networks.weight_files():
        with pytest.raises(InputError, match=file.sha256):
            networks.build(network, weights=source)


def test_missing_weights_say_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, "")
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path)
    with pytest.raises(InputError) as caught:
        networks.build("mbv2", weights="imagenet", download=False)
    file = networks.get("mbv2").files["imagenet"]
    assert all(part in str(caught.value) for part in (file.name, file.sha256, *file.urls, str(tmp_path)))


def test_every_file_of_weights_can_be_had_from_somewhere():
    for name, _, file in networks.weight_files():
        # torchvision publishes eight digits alone, in the file's own name
        assert len(file.sha256) == 64 or (file.sha256 == "704ceda3" and file.sha256 in file.name)
        assert len(file.urls) > 1 or file.package or networks.get(name).kind == "text" or name == "swin-t"
        for url in file.urls:
            assert url.startswith("https://")
            revision = url.partition("/resolve/")[2].partition("/")[0]
            # the hub's files have the same names everywhere, and a revision that does not move
            assert url.endswith(f"/{file.name}") or (len(revision) == 40 and int(revision, 16))


def test_no_two_files_share_a_name():
    found = {}
    for network in networks.NETWORKS.values():
        for file in (*network.files.values(), network.tokenizer):
            if file is not None:
                assert found.setdefault(file.name, file) is file


# Names


def test_names():
    spelt = ("MbV2-w0.35", "MCUNET", "proxyless", "EfficientNet-Lite0", "SwinT", "BERT", "roberta", "MiniLM")
    assert [networks.get(name).name for name in spelt] == list(networks.NETWORKS)
    for network in networks.NETWORKS.values():
        assert networks.get(network.label) is network
        assert network.default_source in network.sources


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: networks.get("resnet"), ("'resnet'", *networks.NETWORKS)),
        (lambda: networks.get(3), ("3", *THREE)),
        (lambda: networks.build("mbv2", weights="int4"), ("'int4'", "imagenet", "imagenet-int8", "random")),
        (lambda: networks.build("efficientnet-lite0", weights="imagenet-int8"), ("imagenet, random",)),
        (lambda: networks.build("mbv2", weights="random", classes=0), ("0", "at least 1")),
        (lambda: networks.build("mbv2", weights="random", classes="10"), ("'10'", "integer")),
    ],
)
def test_bad_input(call, parts):
    with pytest.raises(InputError) as caught:
        call()
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


# What the networks see


def photograph(name: str, resolution: int) -> torch.Tensor:
    """A sample photograph of scikit-image or scikit-learn: shorter side to 8/7, centre crop, [-1, 1]."""
    image = pytest.importorskip("PIL.Image")
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        path = spec and Path(spec.origin).parent / folder / name
        if path and path.is_file():
            break
    else:
        pytest.skip(f"{name} comes with scikit-image or scikit-learn")
    picture = image.open(path).convert("RGB")
    scale = resolution * 8 / 7 / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    picture = picture.resize((width, height), image.Resampling.BICUBIC)
    pixels = np.asarray(picture.crop((left, top, left + resolution, top + resolution)), dtype=np.float32)
    return torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]


def labels(model, name, resolution):
    with torch.no_grad():
        return model.eval()(photograph(name, resolution)).argmax().item()


def test_efficientnet_labels_sample_photographs():
    model = networks.build("efficientnet-lite0")
    wrong = {name: found for name in SAMPLES if (found := labels(model, name, 224)) not in SAMPLES[name]}
    assert not wrong


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("source", ["imagenet", "imagenet-int8"])
def test_zoo_networks_label_sample_photographs(name, source):
    weights_or_skip(name, source)
    model = networks.build(name, weights=source)
    resolution = networks.get(name).native_resolution if source == "imagenet" else 128
    for sample in ("chelsea.png", "coffee.png", "camera.png", "motorcycle_left.png"):
        assert labels(model, sample, resolution) in SAMPLES[sample]


# torchvision


def test_torchvision_is_lazy_and_works():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    code = (
        "import sys, medyate.networks, medyate.networks._torchvision as t\n"
        "assert 'torchvision' not in sys.modules\n"
        "tv = t.torchvision()\n"
        "import torch, torchvision.transforms.v2 as v2\n"
        "assert t.torchvision() is tv is sys.modules['torchvision']\n"
        "with torch.device('meta'): tv.models.swin_t()\n"
        "assert v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
