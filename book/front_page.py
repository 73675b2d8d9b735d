"""What is generated in README.md and in the book's first page: `make pages` writes it, a test compares it.

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` stands what the function NAME returns; the figure is drawn
by :func:`figure` from a measured training step.
"""

import ast
import functools
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# the order to read them in: each builds upon those before it
ALGORITHM = ("__init__", "errors", "costs", "importance", "ranking", "sampling", "strategies", "selection", "subnet")
PARTS = {
    "selected_activations": ("inputs of selected channels", "#0173B2"),
    "weight_gradients": ("gradients", "#DE8F05"),
    "masks": ("one-bit masks", "#029E73"),
    "batch_norm": ("batch norm", "#CC78BC"),
    "other": ("other saved tensors", "#949494"),
}
WAYS = {
    "everything trained": {"strategy": "Baseline", "batch_norm": "train"},
    "a selection,\ngradients masked": {"strategy": "LaRa MeDyate", "execution": "dense"},
    "the same, this library,\ntrain-mode batch norm": {"strategy": "LaRa MeDyate", "batch_norm": "train"},
    "the same, this library,\nfrozen batch norm": {"strategy": "LaRa MeDyate"},
}
# Pages with generated parts, and how each of them links to the book's pages
PAGES = {ROOT / "README.md": "book/{}.md", ROOT / "book" / "index.md": "{}.md"}
# How each verdict of the ledger answers a question about its claim
ANSWERS = {
    "holds": "Yes",
    "holds in part": "In part",
    "undecided here": "Our runs cannot tell",
    "does not hold here": "Not in our runs",
    "not yet run": "Nobody has run it yet",
    "wrong in the paper": "No, the paper contradicts itself",
}
NOTEBOOK = {"book/{}.md": "notebooks/{}.ipynb", "{}.md": "../notebooks/{}.ipynb"}


@functools.cache
def claims() -> tuple:
    """The ledger's lines; they take a while."""
    from medyate.paper import ledger

    return ledger.lines()


def state() -> str:
    """How many claims of the paper came to which verdict and on what they rest, and what our runs are."""
    from medyate.paper import ledger
    from medyate.runs import records as runs

    recorded = runs.table()
    lines = ["| verdict | claims | rest on |", "| --- | --- | --- |"]
    lines += [f"| {verdict} | {count} | {rests} |" for verdict, count, rests in ledger.summary(claims())]
    packs = ", ".join(sorted(recorded.task.unique()))
    epochs = sorted(set((recorded.epochs + recorded.warmup_epochs).tolist()))
    length = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    seeds = f"{recorded.seed.nunique()} seed{'s' if recorded.seed.nunique() > 1 else ''}"
    lines += [
        "",
        f"Behind this are the paper's own numbers and {len(recorded)} recorded runs of ours, on small cuts of the data "
        f"sets ({packs}), {length} each, {seeds} so far. At this scale we can see whether a relation shows; we cannot "
        "confirm or refute an accuracy of the paper.",
    ]
    return "\n".join(lines)


def costs() -> str:
    """Machine time of the recorded runs."""
    from medyate.runs import records as runs

    lines = ["| recorded | runs | hours | on |", "| --- | --- | --- | --- |"]
    for kind, label in (("rank", "rankings of layers"), ("run", "fine-tuning runs")):
        for device, part in runs.table(kind).groupby("device"):
            lines.append(f"| {label} | {len(part)} | {part.seconds.sum() / 3600:.1f} | {device} |")
    return "\n".join(lines)


def to_ledger(page: str, number: int, line) -> str:
    """Where a link leads to a claim: the book knows its label; elsewhere it is the heading, as GitHub names it."""
    if page == PAGES[ROOT / "README.md"]:
        words = re.sub(r"[^\w\- ]", "", f"{number}. {line.claim.claim}".lower())
        return f"{page.format('ledger')}#{words.replace(' ', '-')}"
    return f"#{line.claim.id}"


def answers(page: str) -> str:
    """Five lines for a reader with one minute; ``page`` is the pattern of a link to a page of the book."""
    from medyate import strategies
    from medyate.paper import verdicts
    from medyate.runs import records as runs
    from medyate.sweeps import protocols

    lines = {line.claim.id: line for line in claims()}
    numbers = {claim: number for number, claim in enumerate(lines, 1)}
    ledger_page, notebook_page = page.format("ledger"), NOTEBOOK[page]

    def link(claim: str, said: str) -> str:
        return f"[{said}]({to_ledger(page, numbers[claim], lines[claim])})"

    def asked(claim: str, ours: str) -> str:
        """The answer, what the paper says and what our runs say."""
        line = lines[claim]
        theirs = line.from_paper.text.split(":")[0] if line.from_paper else line.claim.paper_value
        scope = line.rests_on.removeprefix("our runs").strip(" ():")
        return (
            f"{ANSWERS[line.verdict]} ({link(claim, f'claim {numbers[claim]}')}: *{line.claim.claim}*). "
            f"In the paper: {theirs}." + (f" In our runs: {ours} ({scope})." if line.from_runs else "")
        )

    def plainly(text: str) -> str:
        """ "LaRa MeDyate over SU: -1.03 points [-1.41, -0.65], p = 1.000, ...", without the test's details."""
        return text.partition(", p ")[0].replace(" over ", " minus ").replace(" [", ", 95 % interval [")

    first = lines["state-of-the-art"].from_runs
    lead = plainly(first.brief) if first else ""
    who = lead.partition(" minus ")[2].partition(":")[0]
    # the other protocols that have an interval: what decides may be too few runs to have one
    others = [
        part.partition(",")[0] + ", " + plainly(part.rpartition("; ")[2]) for part in (first.parts if first else ())
    ]
    elsewhere = "; ".join(one for one in others[1:] if "interval" in one)
    rival = f" {who}: {strategies.get(who).description}." if who in strategies.STRATEGIES else ""
    consistent = lines["lara-consistent"].from_runs
    kept = kept_times()
    recorded = runs.table()
    wrong = {claim for claim, line in lines.items() if line.verdict == verdicts.WRONG}
    slips = {claim for claim in wrong if lines[claim].claim.slip}
    links = [link(claim, str(number)) for claim, number in numbers.items() if claim in wrong - slips]
    packs, lengths = ", ".join(sorted(recorded.task.unique())), recorded.epochs + recorded.warmup_epochs
    memory, data = notebook_page.format("memory"), page.format("reference/data")
    frozen, train = ("{:.2f} to {:.2f}".format(*kept["frozen"]), "{:.1f} to {:.1f}".format(*kept["train"]))
    return "\n".join(
        [
            f"* **Does MeDyate lead?** {asked('state-of-the-art', lead)}{rival}"
            + (f" Under other protocols: {elsewhere}." if elsewhere else ""),
            "* **Does a ranking of layers carry over between tasks?** "
            f"{asked('lara-consistent', consistent.text if consistent else '')}",
            f"* **What is really kept?** With frozen batch norm {frozen} times what the budget pays for; with batch "
            f"norm in train mode {train} times ([measured]({memory}), one image, the paper's three CNNs and budgets).",
            f"* **At what scale?** {len(recorded)} runs of {lengths.min()} to {lengths.max()} epochs on small cuts of "
            f"the data sets ({packs}), {recorded.seed.nunique()} seeds ([data sets]({data})). Most follow the protocol "
            f"`short`: {protocols.get('short').says}. We can see whether a relation shows at this scale; we cannot "
            "confirm or refute an accuracy of the paper.",
            f"* **What is wrong in the paper?** {len(wrong)} of {len(lines)} checkable claims: {len(wrong - slips)} "
            f"are contradicted by its own numbers or text ({', '.join(links)}), {len(slips)} are slips that "
            f"change no conclusion ([the ledger]({ledger_page})).",
        ]
    )


@functools.cache
def kept_times() -> dict[str, tuple[float, float]]:
    """Bytes kept for one image over the budget's bytes, by mode of batch norm: the least and the most."""
    from medyate.networks import schemes
    from medyate.runs import kept

    rows = [
        row
        for network, budgets in schemes.PRINTED_BUDGETS.items()
        for row in kept.compare(network, tuple(budgets.values()), "LaRa MeDyate", batch_sizes=(1,), seed=0)
    ]
    times = {}
    for row in rows:
        times.setdefault(row["batch_norm"], []).append(row["kept_total_bytes"] / row["budget_bytes"])
    return {mode: (min(values), max(values)) for mode, values in times.items()}


def algorithm(page: str) -> str:
    """The files of the method itself, in the order to read them in, each with its docstring's first sentence."""
    there = {file.stem for file in (ROOT / "medyate").glob("*.py")} - {"__main__"}
    if there != set(ALGORITHM):
        raise SystemExit(f"medyate/*.py is not the algorithm's files alone: {sorted(there ^ set(ALGORITHM))}")
    files = {name: (ROOT / "medyate" / f"{name}.py").read_text("utf-8") for name in ALGORITHM}
    lines = {name: len(content.splitlines()) for name, content in files.items()}
    rows = [
        f"**The algorithm: nine files, {sum(lines.values()):,} lines, in this order.** "
        "Networks, data, experiments, figures and commands are in subpackages of their own.",
        "",
        "| file | lines | what it says |",
        "| --- | --: | --- |",
    ]
    for name, content in files.items():
        if page == PAGES[ROOT / "README.md"]:
            link = f"[`{name}.py`](medyate/{name}.py)"
        else:  # the reference has no entry for the package's own file
            link = f"`{name}.py`" if name == "__init__" else f"{{py:mod}}`{name}.py <medyate.{name}>`"
        rows.append(f"| {link} | {lines[name]} | {ast.get_docstring(ast.parse(content)).splitlines()[0]} |")
    return "\n".join(rows)


def text(content: str, page: str) -> str:
    """A page with its generated parts made anew; ``page``: the pattern of its links."""
    made = {"state": state, "costs": costs, "answers": lambda: answers(page), "algorithm": lambda: algorithm(page)}
    for name in re.findall(r"<!-- generated: (\w+) -->", content):
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        content = re.sub(pattern, lambda place, name=name: f"{place[1]}{made[name]()}\n{place[2]}", content, flags=re.S)
    return content


def held() -> dict[str, dict[str, int]]:
    """Bytes that one training step of one image holds for the backbone of MbV2-w0.35, by way and part."""
    from medyate.runs import kept
    from medyate.runs.config import RunConfig

    shared = {"network": "mbv2-w0.35", "task": "digits", "weights": "random", "batch_norm": "frozen"}
    return {
        way: dict(kept.Step(RunConfig(**shared | options).check()).held(1).backbone) for way, options in WAYS.items()
    }


def figure(target: Path) -> None:
    """Bars of :func:`held`, with the budget as a line."""
    import matplotlib.pyplot as plt

    from medyate.networks import schemes
    from medyate.notebook import plots

    by_way = held()
    budget = 4 * schemes.PRINTED_BUDGETS["mbv2-w0.35"][1] / 1024
    with plots.style():
        drawn, ax = plt.subplots(figsize=(7.2, 3.0))
        left = dict.fromkeys(by_way, 0.0)
        for part, (label, colour) in PARTS.items():
            widths = [parts[part] / 1024 for parts in by_way.values()]
            if any(widths):
                ax.barh(list(by_way), widths, left=list(left.values()), color=colour, label=label)
            left = {way: left[way] + width for way, width in zip(by_way, widths)}
        for row, total in enumerate(left.values()):
            ax.text(total, row, f" {total:,.0f} kB, {total / budget:,.1f} × the budget", va="center")
        ax.axvline(budget, color="black", linestyle="--", linewidth=1, label=f"budget, {budget:.0f} kB")
        ax.set(xlabel="held for the backward pass, kB for one image", xlim=(0, 1.8 * max(left.values())))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.35, -0.3), ncols=3)
        drawn.savefig(target, metadata={"Date": None})
        plt.close(drawn)


def main() -> None:
    os.environ.pop("MEDYATE_RESULTS", None)  # what ships, not what was run here
    for path, page in PAGES.items():
        path.write_text(text(path.read_text("utf-8"), page), "utf-8")
    figure(ROOT / "book" / "_static" / "kept.svg")


if __name__ == "__main__":
    sys.exit(main())
