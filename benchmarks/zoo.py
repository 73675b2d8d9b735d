"""Benchmark: what fine-tuning under a budget really keeps, over the models of torchvision and timm.

    python benchmarks/zoo.py [--model NAME]... [--batch-size N]... [--rounds N] [--exact] [--json FILE] [--against FILE]

Each model gets random weights, images of 64 x 64, ten classes and 5 % of its own total as budget (weights, biases and
inputs of all layers, for one sample), which a uniform draw over the channels of its plain Conv2d and Linear layers
spends. *Paid* is what eq. 4 charges for the draw at this batch size, masks are one-bit masks; *kept* is all that the
backbone holds between forward and backward, gradients included. ``--rounds`` times a step against full fine-tuning and
against ``recompute="none"``, by turns, with the processor's clock on one thread. ``--exact`` compares all gradients
with dense autograd in double precision. Needs ``pip install --no-deps timm==1.0.31``; a model that is too large, does
not run at this size or ends in no Linear layer is left out with a word.
"""

import argparse
import copy
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from medyate import costs
from medyate.execution import measure as memory
from medyate.execution.attach import attach
from medyate.execution.layers import COUNTERPARTS, SELECTABLE
from medyate.execution.masked import Dense
from medyate.networks._torchvision import torchvision
from medyate.sampling import sample
from medyate.selection import Selection

PIXELS, CLASSES, SHARE, LARGEST = 64, 10, 0.05, 140_000_000
TORCHVISION = """
    alexnet convnext_tiny convnext_small densenet121 densenet161 densenet169 efficientnet_b0 efficientnet_b2
    efficientnet_b4 efficientnet_v2_s googlenet mnasnet0_5 mnasnet1_0 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_400mf regnet_x_3_2gf regnet_y_400mf regnet_y_1_6gf regnet_y_8gf resnet18 resnet34 resnet50 resnet101
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x2_0 swin_t swin_v2_t swin_s vgg11 vgg11_bn
    vgg13 vgg16_bn vit_b_16 vit_b_32 wide_resnet50_2
    """.split()
TIMM = """
    bat_resnext26ts beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny coat_tiny coatnet_0_rw_224
    coatnet_nano_rw_224 convit_tiny convmixer_768_32 convnext_atto convnext_nano convnext_tiny_hnf convnextv2_atto
    convnextv2_nano crossvit_9_240 cs3darknet_m cs3darknet_focus_s cspdarknet53 cspresnet50 cspresnext50 davit_tiny
    deit_tiny_patch16_224 deit3_small_patch16_224 densenetblur121d dla34 dla60_res2net dla46_c dm_nfnet_f0 dpn68 dpn68b
    eca_nfnet_l0 eca_resnet33ts eca_vovnet39b ecaresnet26t edgenext_small edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientnet_b0 efficientnet_es efficientnet_lite0 efficientnetv2_rw_t efficientvit_b0
    efficientvit_m0 ese_vovnet19b_dw eva02_tiny_patch14_224 fastvit_t8 fastvit_s12 fbnetc_100 fbnetv3_b
    focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnext26ts gcvit_xxtiny gernet_s ghostnet_100
    ghostnetv2_100 gmixer_24_224 gmlp_s16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224
    hrnet_w18_small inception_next_tiny inception_resnet_v2 inception_v4 lambda_resnet26t lcnet_050 lcnet_100
    legacy_seresnet18 legacy_seresnext26_32x4d levit_128s mambaout_femto maxvit_nano_rw_256 mixer_s16_224 mixnet_s
    mnasnet_small mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium
    mobileone_s0 mobilevit_xxs mobilevit_s mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nf_resnet50
    pit_ti_224 poolformer_s12 poolformerv2_s12 pvt_v2_b0 regnetx_002 regnety_002 regnetz_b16 regnetv_040 repghostnet_050
    repvgg_a0 repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d resnet18d resnet26t resnet50_gn resnetaa50
    resnetblur50 resnetrs50 resnetv2_50 resnetv2_50x1_bit rexnet_100 rexnetr_200 selecsls42b semnasnet_075 seresnet33ts
    seresnext26t_32x4d sequencer2d_s shvit_s1 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tf_efficientnet_b0 tf_efficientnetv2_b0 tf_mixnet_s
    tiny_vit_5m_224 tinynet_a tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11_bn visformer_tiny
    vit_tiny_patch16_224 vit_relpos_small_patch16_224 vit_small_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a
    wide_resnet50_2 xception41 xception41p xcit_nano_12_p16_224
    """.split()
NAMES = (*(f"torchvision/{name}" for name in TORCHVISION), *(f"timm/{name}" for name in TIMM))


class LeftOut(Exception):
    """Why a model has no row."""


def build(name: str) -> tuple[nn.Module, str]:
    """The model with random weights, and the name of its classifier."""
    library, _, short = name.partition("/")
    torch.manual_seed(0)
    if library == "torchvision":
        options = {"image_size": PIXELS} if short.startswith("vit") else {}
        if short in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        model = torchvision().models.get_model(short, weights=None, num_classes=CLASSES, **options)
    else:
        import timm

        try:
            model = timm.create_model(short, num_classes=CLASSES, img_size=PIXELS)
        except TypeError:
            model = timm.create_model(short, num_classes=CLASSES)
    linear = [module for module, kind in model.named_modules() if isinstance(kind, nn.Linear)]
    head = getattr(model, "default_cfg", {}).get("classifier") or (linear[-1] if linear else "")
    head = head if isinstance(head, str) else head[0]
    if head not in linear:
        inside = [module for module in linear if module.startswith(f"{head}.")]
        if len(inside) != 1:
            raise LeftOut("ends in no Linear layer")
        head = inside[0]
    if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        raise LeftOut(f"more than {LARGEST:,} weights")
    return model.train(), head


def drawn(model: nn.Module, head: str, seed: int = 0) -> tuple[Selection, tuple[costs.Layer, ...], int]:
    """A uniform draw of channels, the layers that it is from, and the budget."""
    layers = costs.layers(copy.deepcopy(model), (3, PIXELS, PIXELS), head)
    budget = int(SHARE * costs.totals(layers)["total_elements"])
    modules, users = dict(model.named_modules(remove_duplicate=False)), {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(module)

    def is_plain(module: nn.Module) -> bool:
        if type(module) not in SELECTABLE:
            return False
        weight = module._parameters[COUNTERPARTS[type(module)].weight_name]
        return weight is not None and len(users[id(weight)]) == 1

    plain = [layer for layer in layers if is_plain(modules[layer.name])]
    owners = [(layer.name, channel) for layer in plain for channel in range(layer.channels)]
    prices = torch.tensor([layer.channel_elements for layer in plain for _ in range(layer.channels)])
    taken = sample(prices, torch.ones(len(owners)), budget, torch.Generator().manual_seed(seed))
    chosen: dict[str, list[int]] = {}
    for index in taken.tolist():
        layer, channel = owners[index]
        chosen.setdefault(layer, []).append(channel)
    return Selection({layer: tuple(sorted(channels)) for layer, channels in chosen.items()}), layers, budget


def batch(size: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn((size, 3, PIXELS, PIXELS), generator=torch.Generator().manual_seed(1), dtype=dtype)
    return images, torch.arange(size) % CLASSES


def stepper(model, parameters, images, labels) -> Callable[[], float]:
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def step() -> float:
        begun = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.process_time() - begun

    return step


def trainable(model: nn.Module, images: torch.Tensor) -> str:
    """How full fine-tuning treats batch norms: "train", unless one sees a single number, which has no statistics."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(images)
    except ValueError:
        return "frozen"
    return "train"


def worst(model: nn.Module, head: str, selection: Selection) -> float:
    """The largest relative error of a gradient against dense autograd, in double precision, dropout included."""
    images, labels = batch(2, torch.float64)
    model = copy.deepcopy(model).double()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
    found = []
    for way in ("dense", "ours"):
        if way == "dense":
            attached = Dense(model, classifier=head, batch_norm="frozen")
        else:
            attached = attach(model, classifier=head, example=images[:1])
        attached.select(selection.channels)
        torch.manual_seed(3)
        nn.functional.cross_entropy(model(images), labels).backward()
        gradients = attached.gradients()
        gradients |= {"": torch.cat([p.grad.flatten() for p in attached.classifier.parameters()])}
        found.append({name: gradient.clone() for name, gradient in gradients.items()})
        for parameter in attached.parameters():
            parameter.grad = None
        attached.detach()
    dense, ours = found
    scale = max(float(gradient.abs().max()) for gradient in dense.values())
    differences = []
    for name, gradient in dense.items():
        own = ours.get(name, torch.zeros_like(gradient))
        differences.append(float((own - gradient).abs().max()) / max(float(gradient.abs().max()), 1e-6 * scale))
    return max(differences)


def measured(name: str, sizes: list[int], rounds: int, exact: bool) -> list[dict]:
    model, head = build(name)
    try:
        selection, layers, budget = drawn(model, head)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:150]
        raise LeftOut(f"{type(error).__name__}: {line}") from error
    paid_each, paid_once = selection.activation_elements(layers), selection.weight_elements(layers)
    rows = []
    for size in sizes:
        images, labels = batch(size)
        batch_norm = trainable(model, images)
        full = Dense(model, classifier=head, batch_norm=batch_norm)
        full.select({}, everything=True)
        baseline = memory.measure(model, full.classifier, torch.optim.SGD(full.parameters(), lr=0.0), images, labels)
        full.detach()
        attached = attach(model, classifier=head, example=images[:1])
        attached.select(selection.channels)
        kept = memory.measure(
            model, attached.classifier, torch.optim.SGD(attached.parameters(), lr=0.0), images, labels
        )
        attached.detach()
        paid, masks = 4 * (size * paid_each + paid_once), kept.backbone["masks"]
        rows.append(
            {
                "model": name,
                "batch_size": size,
                "budget": budget,
                "layers": len(selection.channels),
                "paid_bytes": paid,
                "masks_bytes": masks,
                "kept_bytes": kept.total_bytes,
                "ratio": kept.total_bytes / (paid + masks),
                "peak_bytes": kept.peak_bytes,
                "full_kept_bytes": baseline.total_bytes,
                "full_peak_bytes": baseline.peak_bytes,
                "parts": {part: held for part, held in kept.backbone.items() if held},
                "operations": dict(getattr(kept, "operations", {})),
            }
        )
        if rounds:
            rows[-1] |= timed(model, head, selection, images, labels, rounds, batch_norm)
    if exact:
        rows[0]["error"] = worst(model, head, selection)
    return rows


def timed(model, head, selection, images, labels, rounds, batch_norm: str) -> dict[str, float]:
    """Processor time of a step over full fine-tuning's, whose batch norms are treated as ``batch_norm`` says, and over
    that of ``recompute="none"``; medians of paired rounds."""
    spent: dict[str, list[float]] = {"full": [], "none": [], "layers": []}
    ways = {}
    for way in spent:
        own = copy.deepcopy(model)
        if way == "full":
            attached = Dense(own, classifier=head, batch_norm=batch_norm)
            attached.select({}, everything=True)
        else:
            attached = attach(own, classifier=head, recompute=way)
            attached.select(selection.channels)
        ways[way] = stepper(own, attached.parameters(), images, labels)
    for number in range(rounds + 1):
        for way, step in ways.items():
            seconds = step()
            if number:  # the first warms up
                spent[way].append(seconds)
    ours = spent["layers"]
    return {
        "milliseconds": statistics.median(ours) * 1e3,
        "time_of_full": statistics.median(a / b for a, b in zip(ours, spent["full"])),
        "time_of_none": statistics.median(a / b for a, b in zip(ours, spent["none"])),
    }


def summary(rows: list[dict]) -> dict:
    ratios = [row["ratio"] for row in rows]
    result = {
        "models": len(rows),
        "median": statistics.median(ratios),
        "within 1.25": sum(ratio <= 1.25 for ratio in ratios),
        "above 2.5": sum(ratio > 2.5 for ratio in ratios),
        "above 4": sum(ratio > 4 for ratio in ratios),
        "above 10": sum(ratio > 10 for ratio in ratios),
        "peak above full": sum(row["peak_bytes"] > row["full_peak_bytes"] for row in rows),
    }
    for key in ("time_of_full", "time_of_none"):
        found = [row[key] for row in rows if key in row]
        if found:
            result[f"median {key}"] = statistics.median(found)
    return result


def show(row: dict, before: dict | None) -> None:
    held = row["operations"] or row["parts"]
    most = sorted(((v, k) for k, v in held.items()), reverse=True)[:4]
    extra = f" was {before['ratio']:6.2f}" if before else ""
    extra += f"  error {row['error']:.0e}" if "error" in row else ""
    if "milliseconds" in row:
        extra += (
            f"  {row['milliseconds']:5.0f} ms, {row['time_of_full']:.2f} of full, {row['time_of_none']:.2f} of none"
        )
    print(
        f"{row['model']:42s} {row['batch_size']} {row['ratio']:6.2f}{extra}  paid {row['paid_bytes']:11,} kept "
        f"{row['kept_bytes']:11,} peak/full {row['peak_bytes'] / row['full_peak_bytes']:.2f}  "
        + ", ".join(f"{k} {v:,}" for v, k in most),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="Needs timm: pip install --no-deps timm==1.0.31"
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="torchvision/.. or timm/..; default: all")
    parser.add_argument("--batch-size", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--rounds", type=int, default=0, help="timed steps of each way")
    parser.add_argument("--exact", action="store_true", help="compare gradients with dense autograd too")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--against", type=Path, help="rows of an earlier run, to show beside")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torchvision()  # timm imports it
    warnings.simplefilter("ignore")
    before = {}
    if options.against:
        before = {(row["model"], row["batch_size"]): row for row in json.loads(options.against.read_text())}
    sizes, rows = options.batch_size or [1, 2], []
    for name in options.model or NAMES:
        try:
            for row in measured(name, sizes, options.rounds, options.exact):
                rows.append(row)
                show(row, before.get((name, row["batch_size"])))
        except LeftOut as reason:
            print(f"{name:42s} left out: {reason}", flush=True)
        except Exception as error:  # a model that does not run as a subnet is a result as well
            line = (str(error).splitlines() or [""])[0][:200]
            print(f"{name:42s} FAILS: {type(error).__name__}: {line}", flush=True)
        gc.collect()
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for size in sizes:
        found = [row for row in rows if row["batch_size"] == size]
        if found:
            parts = (
                f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
                for key, value in summary(found).items()
            )
            print(f"\nbatch {size}: " + ", ".join(parts))


if __name__ == "__main__":
    main()
