"""Commands that show what there is and what it costs; nothing is trained."""

from __future__ import annotations

import re

import click

from ..errors import InputError
from ..runs.config import RunConfig
from .options import given, options
from .terminal import json_option, print_json, table


@click.command()
@json_option
@click.option("--resolution", default=128, show_default=True, help="Side of the input in pixels; of texts, the tokens.")
def networks(as_json, resolution):
    """The networks: where their weights come from, what training all of one costs."""
    from .. import costs
    from .. import networks as registry
    from ..errors import whole
    from ..networks import schemes

    whole(resolution, "resolution", 16, 1024)
    rows = []
    left_out = []
    for network in registry.NETWORKS.values():
        try:
            layers = registry.backbone(network.name, resolution=min(resolution, network.longest))
        except InputError as error:  # a text network without its extra hides no other network
            left_out.append(f"{network.name}: {error}")
            continue
        rows.append(
            {
                "name": network.name,
                "label": network.label,
                "description": network.description,
                "sources": list(network.sources),
                "layers": len(layers),
                "channels": sum(layer.channels for layer in layers),
                **costs.totals(layers),
                "kind": network.kind,
                "budgets": {str(tier): budget for tier, budget in schemes.budgets(network.name, layers).items()},
            }
        )
    for text in left_out:
        click.echo(text, err=True)
    if as_json:
        return print_json(rows)
    table(
        f"Networks; elements at {resolution}x{resolution} pixels or {resolution} tokens, one sample",
        ["name", "description", "weights from", "layers", "weights", "activations", "total"],
        [
            [
                r["name"],
                r["description"],
                ", ".join(r["sources"]),
                r["layers"],
                r["weight_elements"],
                r["activation_elements"],
                r["total_elements"],
            ]
            for r in rows
        ],
        right=(3, 4, 5, 6),
    )


@click.command()
@json_option
def strategies(as_json):
    """The strategies: which layers, which channels, chosen when."""
    from .. import strategies as registry

    rows = [
        vars(strategy)
        | {
            "choice": strategy.choice.name,
            "channels": strategy.choice.says,
            "layers": registry.RULES[strategy.rule].says,
        }
        for strategy in registry.STRATEGIES.values()
    ]
    if as_json:
        return print_json(rows)
    table(
        "",
        ["name", "description", "layer order", "number of layers K", "metric"],
        [[r["name"], r["description"], r["order"], r["layers"], r["metric"]] for r in rows],
    )


@click.command()
@json_option
def tasks(as_json):
    """The tasks: the paper's data sets, packs, and how to use one's own."""
    from .. import tasks as registry

    rows = registry.listing()
    if as_json:
        return print_json(rows)
    table(
        "",
        ["name", "description", "kind", "classes", "train", "test", "licence", "here"],
        [
            [
                r["name"],
                r["description"],
                r["kind"],
                r["classes"],
                r["train"],
                r["test"],
                r["licence"],
                "yes" if r["present"] else "no",
            ]
            for r in rows
        ],
        right=(3, 4, 5),
    )
    click.echo("Your own: folder:PATH (image folders as torchvision's ImageFolder, a folder or a tar), tsv:PATH.")


@click.command()
@click.argument("network")
@click.option("--resolution", default=128, show_default=True, help="Side of the input in pixels; of texts, the tokens.")
@click.option(
    "--depthwise",
    default="eq4",
    show_default=True,
    help="A depthwise channel's cost: eq4 (D^2 + HW) or authors (1 + HW).",
)
@click.option(
    "--weights",
    default=None,
    help="The source whose layers are meant; imagenet-int8 has no batch norm and no feature mix.",
)
@click.option("--measure", is_flag=True, help="Run one training step and count what it really holds.")
@click.option("--budget", type=int, default=None, help="With --measure: elements. [default: tier 1]")
@click.option("--strategy", default="LaRa MeDyate", show_default=True, help="With --measure.")
@click.option("--batch-size", default=1, show_default=True, help="With --measure.")
@click.option("--batch-norm", default="frozen", show_default=True, help="With --measure: frozen or train.")
@click.option(
    "--count",
    default="paper",
    show_default=True,
    help="With --measure: paper, or everything (masks count against the budget).",
)
@click.option("--seed", default=0, show_default=True, help="With --measure: the selection's.")
@click.option("--device", default="cpu", show_default=True, help="With --measure: auto, cpu or cuda.")
@json_option
def memory(network, resolution, depthwise, weights, measure, device, as_json, **step):
    """What NETWORK's layers cost (paper eqs. 4, 5); with --measure, what a step really holds."""
    from .. import costs
    from .. import networks as registry
    from ..errors import choose, whole

    whole(resolution, "resolution", 16, 1024)
    if measure:
        from ..runs.finetune import device_of
        from ..runs.kept import report

        return _show_measured(report(network, resolution=resolution, device=device_of(device), **step), as_json)
    entry = registry.get(network)
    choose(depthwise, costs.DEPTHWISE, "depthwise cost")
    source = weights or "random"
    choose(source, entry.sources, f"weights of {entry.name}")
    layers = registry.backbone(entry.name, source, resolution, depthwise)
    rows = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "channels": layer.channels,
            "out_channels": layer.out_channels,
            "kernel": list(layer.kernel),
            "channel_elements": layer.channel_elements,
            "weight_elements_per_channel": layer.weight_elements_per_channel,
            "activation_elements_per_channel": layer.activation_elements_per_channel,
            "weight_elements": layer.weight_elements,
            "activation_elements": layer.activation_elements,
            "total_elements": layer.total_elements,
            "weight_derivative_flops": layer.weight_flops,
        }
        for layer in layers
    ]
    totals = costs.totals(layers)
    if as_json:
        return print_json(
            {"network": entry.name, "resolution": resolution, "depthwise": depthwise, **totals, "layers": rows}
        )
    size = "x".join(map(str, entry.input_shape(resolution)[-2:])) + ("" if entry.kind == "image" else " tokens")
    table(
        f"{entry.name} at {size}: elements for one sample; FLOPs are multiply-accumulates of the weight derivative",
        ["layer", "kind", "channels", "weights/channel", "activations/channel", "cost/channel", "layer total", "FLOPs"],
        [
            [
                r["name"],
                r["kind"],
                r["channels"],
                r["weight_elements_per_channel"],
                r["activation_elements_per_channel"],
                r["channel_elements"],
                r["total_elements"],
                r["weight_derivative_flops"],
            ]
            for r in rows
        ],
        right=(2, 3, 4, 5, 6, 7),
    )
    click.echo(
        f"total {totals['total_elements']:,} elements ({costs.kilobytes(totals['total_elements']):,} kB): "
        f"weights {totals['weight_elements']:,}, activations {totals['activation_elements']:,}"
    )


def _show_measured(measured: dict, as_json: bool) -> None:
    if as_json:
        return print_json(measured)
    full = measured["full_finetuning_kept_bytes"]
    rows = [[part.replace("_", " "), size, full[part]] for part, size in measured["kept_bytes"].items()]
    rows.append(["all that is kept for the backbone", measured["kept_total_bytes"], measured["full_finetuning_bytes"]])
    table(
        f"{measured['network']}, {measured['strategy']}, batch {measured['batch_size']}, "
        f"batch norm {measured['batch_norm']}: bytes",
        ["part", "this strategy", "full fine-tuning, train-mode batch norm"],
        rows,
        right=(1, 2),
    )
    if measured["budget"]:
        ratio = measured["kept_total_bytes"] / measured["budget_bytes"]
        full_ratio = measured["full_finetuning_bytes"] / measured["kept_total_bytes"]
        click.echo(
            f"budget {measured['budget']:,} elements = {measured['budget_bytes']:,} bytes; selection uses "
            f"{measured['used_elements']:,}; kept / budget = {ratio:.3f}; "
            f"full fine-tuning keeps {full_ratio:.1f} times as much"
        )
    click.echo(f"most held at once within the step, outputs in passing included: {measured['peak_bytes']:,} bytes")
    click.echo("Outside the paper's unit: " + "; ".join(measured["outside_paper_unit"].values()) + ".")


@click.command()
@click.argument("network")
@click.argument("tier", type=int)
@click.option("--resolution", default=128, show_default=True)
@click.option("--depthwise", default="eq4", show_default=True)
@json_option
def scheme(network, tier, resolution, depthwise, as_json):
    """The sparse-update (SU) scheme of NETWORK's TIER (1 to 5) and its cost."""
    from .. import networks as registry
    from ..costs import DEPTHWISE
    from ..errors import choose, whole
    from ..networks import schemes

    name = registry.get(network).name
    whole(resolution, "resolution", 16, 1024)
    choose(depthwise, DEPTHWISE, "depthwise cost")
    layers = registry.backbone(name, "random", resolution, depthwise)
    counts = schemes.counts(name, tier, layers)
    by_name = {layer.name: layer for layer in layers}
    rows = [
        {
            "name": layer,
            "channels": count,
            "of": by_name[layer].channels,
            "channel_elements": by_name[layer].channel_elements,
            "elements": count * by_name[layer].channel_elements,
        }
        for layer, count in counts.items()
    ]
    total = schemes.cost_elements(name, tier, layers)
    printed = schemes.PRINTED_BUDGETS[name].get(tier)
    if as_json:
        return print_json(
            {"network": name, "tier": tier, "total_elements": total, "printed_budget": printed, "layers": rows}
        )
    table(
        f"SU scheme of {name}, tier {tier}",
        ["layer", "channels", "of", "cost/channel", "elements"],
        [list(row.values()) for row in rows],
        right=(1, 2, 3, 4),
    )
    click.echo(
        f"total {total:,} elements"
        + (f"; the paper prints {printed:,}" if printed else "; the paper prints no budget for this tier")
    )


@click.command()
@click.argument("network")
@click.argument("ranking")
@click.argument("how")
@json_option
def variant(network, ranking, how, as_json):
    """Write a variant HOW of NETWORK's recorded RANKING, for transformers: typed or shared.

    typed: LaRa over the mean of the layers of its place in the block; shared: the input of query, key and value charged
    once. The new ranking is called RANKING.HOW, and every LaRa strategy takes it by --ranking.
    """
    from .. import networks as registry
    from ..networks import attention_orders as orders
    from ..runs import rankings

    entry = registry.get(network)
    recorded = rankings.load(entry.name, ranking)
    length = re.search(r"-r(\d+)(?=-|$)", ranking)  # the size that it was recorded at, where not the paper's
    layers = registry.backbone(entry.name, resolution=int(length[1]) if length else None)
    reweighed = orders.variant(recorded, layers, how)
    path = rankings.save(reweighed)
    if as_json:
        return print_json(reweighed.as_dict)
    click.echo(f"by {orders.VARIANTS[how][1]}: {', '.join(reweighed.order('lara')[:8])}, ..")
    click.echo(f"ranking {reweighed.name!r} of {entry.name}; {path}")


@click.command()
@click.argument("network")
@options("budget")
@click.option("--strategy", default="LaRa MeDyate", show_default=True)
@options(
    "layers", "order", "metric", "boosted", "boost", "ranking", "resolution", "fill", "count", "depthwise", "weights"
)
@click.option("--seed", default=0, show_default=True)
@json_option
def select(network, seed, as_json, **values):
    """One selection of channels under a budget: the first epoch's.

    Strategies that need the whole gradient first (Det, Prob) are shown by `medyate run`.
    """
    from .. import networks as registry
    from ..runs import finetune
    from ..runs.config import stand_in_task
    from ..strategies import Needs

    values = given(values)
    config = RunConfig.of({"network": network, "task": stand_in_task(network), "seed": seed, **values}).check()
    if config.declaration.needs(Needs.WHOLE_GRADIENT):
        raise InputError(f"strategy {config.strategy!r} chooses by the gradient of a task; allowed here: the others")
    # others choose by no weight; the folded networks have layers of their own
    needed = config.declaration.needs(Needs.SCHEME) or config.weights == "imagenet-int8"
    weights = config.weights if needed else "random"
    model = registry.build(config.network, weights=weights, classes=10)
    layers = config.backbone_layers()
    subnet = finetune.subnet_of(config, model, check=False)
    selection = subnet.next_epoch()
    by_name = {layer.name: layer for layer in layers}
    chosen = {layer.name: selection.channels[layer.name] for layer in layers if layer.name in selection.channels}
    rows = [
        {
            "name": name,
            "channels": list(indices),
            "count": len(indices),
            "of": by_name[name].channels,
            "channel_elements": by_name[name].channel_elements,
            "elements": len(indices) * by_name[name].channel_elements,
        }
        for name, indices in chosen.items()
    ]
    used = selection.used_elements(layers)
    if as_json:
        return print_json(
            {
                "network": config.network,
                "strategy": config.strategy,
                "budget": config.budget,
                "used_elements": used,
                "K": len(subnet.selector.ranked),
                "search_space_elements": subnet.selector.space.elements,
                "ranking": config.ranking,
                "seed": seed,
                "layers": rows,
            }
        )
    table(
        f"{config.strategy} on {config.network}, seed {seed}",
        ["layer", "selected", "of", "cost/channel", "elements", "channels"],
        [
            [
                r["name"],
                r["count"],
                r["of"],
                r["channel_elements"],
                r["elements"],
                " ".join(map(str, r["channels"][:12])) + (" .." if r["count"] > 12 else ""),
            ]
            for r in rows
        ],
        right=(1, 2, 3, 4),
    )
    if config.budget:
        click.echo(
            f"uses {used:,} of {config.budget:,} elements ({100 * used / config.budget:.2f} %), {selection.count} "
            "channels"
        )
