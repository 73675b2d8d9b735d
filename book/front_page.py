"""What is generated in README.md: `make pages` writes it, a test compares it.

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` stands what the function NAME returns; the figure is drawn
by :func:`figure` from a measured training step.
"""

import os
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "selected_activations": ("inputs of selected channels", "#0173B2"),
    "weight_gradients": ("gradients", "#DE8F05"),
    "masks": ("one-bit masks", "#029E73"),
    "batch_norm": ("batch norm", "#CC78BC"),
    "other": ("other saved tensors", "#949494"),
}
WAYS = {
    "this library": {"strategy": "LaRa MeDyate"},
    "the same selection,\ngradients masked": {"strategy": "LaRa MeDyate", "execution": "dense"},
    "everything trained": {"strategy": "Baseline", "batch_norm": "train"},
}


def state() -> str:
    """How many claims of the paper came to which verdict, and what our runs are."""
    from medyate import ledger, runs, verdicts

    counts = Counter(line.verdict for line in ledger.lines())
    found = runs.table()
    lines = ["| verdict | claims |", "| --- | --- |"]
    lines += [f"| {verdict} | {counts[verdict]} |" for verdict in verdicts.VERDICTS if counts[verdict]]
    packs = ", ".join(sorted(found.task.unique()))
    epochs = sorted(set((found.epochs + found.warmup_epochs).tolist()))
    length = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    seeds = f"{found.seed.nunique()} seed{'s' if found.seed.nunique() > 1 else ''}"
    lines += [
        "",
        f"Behind this are the paper's own numbers and {len(found)} recorded runs of ours, on small cuts of the data sets "
        f"({packs}), {length} each, {seeds} so far. At this scale we can see whether a relation shows; we cannot confirm or "
        "refute an accuracy of the paper.",
    ]
    return "\n".join(lines)


def costs() -> str:
    """Machine time of the recorded runs."""
    from medyate import runs

    lines = ["| recorded | runs | hours | on |", "| --- | --- | --- | --- |"]
    for kind, label in (("rank", "rankings of layers"), ("run", "fine-tuning runs")):
        for device, part in runs.table(kind).groupby("device"):
            lines.append(f"| {label} | {len(part)} | {part.seconds.sum() / 3600:.1f} | {device} |")
    return "\n".join(lines)


def text(readme: str) -> str:
    """The front page with its generated parts made anew."""
    for make in (state, costs):
        pattern = rf"(<!-- generated: {make.__name__} -->\n).*?(<!-- end -->)"
        readme, count = re.subn(pattern, lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", readme, flags=re.S)
        if count != 1:
            raise SystemExit(f"README.md has {count} places for {make.__name__!r}, not one")
    return readme


def held() -> dict[str, dict[str, int]]:
    """Bytes that one training step of one image holds for the backbone of MbV2-w0.35, by way and part."""
    import torch

    from medyate import dynamic, memory, networks, ranking, schemes

    found = {}
    for way, options in WAYS.items():
        model = networks.build("mbv2-w0.35", weights="random", classes=10)
        order = ranking.load("mbv2-w0.35", ranking.automatic("mbv2-w0.35", "none"))
        subnet = dynamic.Subnet(model, schemes.PRINTED_BUDGETS["mbv2-w0.35"][1], ranking=order, **options)
        optimizer = torch.optim.SGD(subnet.parameters(), lr=0.01)
        subnet.next_epoch(optimizer)
        model.train()
        images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        step = memory.measure(model, model.classifier, optimizer, images, torch.zeros(1, dtype=torch.long))
        found[way] = dict(step.backbone)
    return found


def figure(target: Path) -> None:
    """Bars of :func:`held`, with the budget as a line."""
    import matplotlib.pyplot as plt

    from medyate import plots, schemes

    found = held()
    with plots.style():
        drawn, ax = plt.subplots(figsize=(7.2, 2.6))
        left = dict.fromkeys(found, 0.0)
        for part, (label, colour) in PARTS.items():
            widths = [found[way][part] / 1024 for way in found]
            if any(widths):
                ax.barh(list(found), widths, left=list(left.values()), color=colour, label=label)
            left = {way: left[way] + width for way, width in zip(found, widths)}
        for row, total in enumerate(left.values()):
            ax.text(total, row, f" {total:,.0f} kB", va="center")
        budget = 4 * schemes.PRINTED_BUDGETS["mbv2-w0.35"][1] / 1024
        ax.axvline(budget, color="black", linestyle="--", linewidth=1, label=f"budget, {budget:.0f} kB")
        ax.set(xlabel="held for the backward pass, kB for one image", xlim=(0, 1.2 * max(left.values())))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.35, -0.3), ncols=3)
        drawn.savefig(target, metadata={"Date": None})
        plt.close(drawn)


def main() -> None:
    os.environ.pop("MEDYATE_RESULTS", None)  # what ships, not what was run here
    readme = ROOT / "README.md"
    readme.write_text(text(readme.read_text()))
    figure(ROOT / "book" / "_static" / "kept.svg")


if __name__ == "__main__":
    sys.exit(main())
