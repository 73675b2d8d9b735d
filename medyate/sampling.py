"""From costs, weights and a budget to a set of channels that never costs more than the budget.

Algorithm 1, lines 4 and 11: channels are drawn one after another without replacement, each time in proportion to their
weights, "until the memory budget is met". The paper does not say what happens at the first channel that no longer fits.
``fill="skip"``, the default, passes over it and goes on, because the paper's methods fill 99.5-99.7 % of the budget;
``fill="stop"`` ends there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import InputError, choose

FILLS = {
    "skip": "pass over a channel that does not fit and go on (fills the budget)",
    "stop": "end at the first channel that does not fit",
}
ENOUGH_PERCENT = 99  # of the budget that is filled wherever the costs allow it


def draw_order(weights: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of all items: the order of successive draws in proportion to ``weights``.

    Exponential clocks of rate w ring in just that order (Efraimidis and Spirakis, 2006), so one sort replaces the
    sequence of draws. Items of weight 0 have no chance beside others and come last, in random order. ``weights`` is
    (N,) and not negative; the result is (N,) indices.
    """
    if weights.dim() != 1 or not torch.isfinite(weights).all() or (weights < 0).any():
        raise InputError("sampling weights must be a vector of finite numbers that are not negative")
    # double precision and a clamp: a uniform draw of exactly 0 would ring at infinity.
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    clocks = -torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny))
    weights = weights.double().cpu()
    positive = weights > 0
    # scaling by the largest weight keeps tiny weights from overflowing the quotient
    scale = weights.max() if positive.any() else torch.tensor(1.0)
    rang = clocks / torch.where(positive, weights / scale, torch.ones_like(weights)).clamp_min(1e-300)
    order = torch.argsort(rang, stable=True)
    return torch.cat([order[positive[order]], order[~positive[order]]])


def take(order: Tensor, costs: Tensor, budget: int, fill: str = "skip", overheads: Tensor | None = None) -> Tensor:
    """The channels that are taken when they are offered in ``order``; sorted indices.

    ``costs`` is (N,) integer elements. ``overheads``, where given, is (N,) too: what must be kept
    *once* when channel i is the one whose overhead is the largest of all taken (one-bit masks
    after the first selected layer, for instance). The sum of costs and the largest overhead never
    exceeds ``budget``. Where skipping leaves more than 1 % of the budget unused although other
    channels would fill it, the fewest latest draws are given back so that it can be filled.
    """
    choose(fill, FILLS, "fill")
    cost_list = costs.tolist()
    overhead_list = overheads.tolist() if overheads is not None else [0] * len(cost_list)
    used, overhead, taken = 0, 0, []
    cheapest = min(cost_list, default=0)
    for index in order.tolist():
        more = max(overhead, overhead_list[index])
        if used + cost_list[index] + more <= budget:
            used += cost_list[index]
            overhead = more
            taken.append(index)
        elif fill == "stop":
            break
        if used + overhead + cheapest > budget:
            break
    if fill == "skip" and overheads is None and len(taken) < len(cost_list):
        taken = _filled(taken, order.tolist(), cost_list, budget)
    return torch.tensor(sorted(taken), dtype=torch.long)


def sample(
    costs: Tensor,
    weights: Tensor,
    budget: int,
    generator: torch.Generator,
    fill: str = "skip",
    overheads: Tensor | None = None,
) -> Tensor:
    """Draw channels in proportion to ``weights`` until the budget is met; sorted indices.

    See :func:`draw_order` and :func:`take`. Raises :class:`InputError` where the budget pays for no channel at all.
    """
    check_budget(budget, costs, overheads)
    return take(draw_order(weights, generator), costs, budget, fill, overheads)


def check_budget(budget: int, costs: Tensor, overheads: Tensor | None = None) -> None:
    """Refuse a budget below the cheapest channel."""
    if len(costs) == 0:
        raise InputError("there is no channel to choose from")
    cheapest = int((costs if overheads is None else costs + overheads).min())
    if budget < cheapest:
        raise InputError(f"budget {budget!r} is below the cheapest channel; allowed: {cheapest:,} elements or more")


def _filled(taken: list[int], order: list[int], costs: list[int], budget: int) -> list[int]:
    """Give back the fewest latest draws so that the rest fills 99 % of the budget, if any can."""
    goal = -(-ENOUGH_PERCENT * budget // 100)
    if sum(costs[i] for i in taken) >= goal or _largest_sum([costs[i] for i in order], budget) < goal:
        return taken  # it is filled, or no set of channels fills it: keep the draw as it is
    for kept in range(len(taken), -1, -1):
        head = taken[:kept]
        used = sum(costs[i] for i in head)
        inside = set(head)
        free = [i for i in order if i not in inside]
        rest = _largest_sum([costs[i] for i in free], budget - used)
        if used + rest >= goal:
            return head + _combine(free, costs, rest)
    raise AssertionError("the empty head was shown to be fillable")


def _largest_sum(costs: list[int], limit: int) -> int:
    """The largest sum up to ``limit`` that some subset of ``costs`` makes. Exact."""
    return _reachable(Counter(costs), limit)[-1].bit_length() - 1


def _reachable(counts: Mapping[int, int], limit: int) -> list[int]:
    """The sums up to ``limit`` that the first k kinds of cost reach, k from 0: bit sets, each one long integer."""
    levels, mask = [1], (1 << (limit + 1)) - 1
    for cost, count in counts.items():
        bits, part = levels[-1], 1
        while count:  # equal costs in powers of two
            part = min(part, count)
            bits |= (bits << (part * cost)) & mask
            count -= part
            part *= 2
        levels.append(bits)
    return levels


def _combine(free: list[int], costs: list[int], total: int) -> list[int]:
    """Channels of ``free``, in draw order where costs are equal, that cost ``total`` together."""
    groups: dict[int, list[int]] = {}
    for index in free:
        groups.setdefault(costs[index], []).append(index)
    counts = {cost: len(groups[cost]) for cost in sorted(groups)}
    levels = _reachable(counts, total)
    chosen: list[int] = []
    for cost, level in zip(reversed(counts), reversed(levels[:-1])):
        count = 0
        while not (level >> total) & 1:
            total -= cost
            count += 1
        chosen += groups[cost][:count]
    return chosen
