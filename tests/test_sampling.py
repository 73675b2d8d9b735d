"""Sampling: the budget is a hard bound and is filled; draws have the distribution of Algorithm 1.

Oracles: every subset of small sets, exact probabilities of successive draws, a direct loop.
"""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from medyate import sampling
from medyate.errors import InputError

seeds = st.integers(0, 2**32)
weight_values = st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.floats(0.01, 10))


@st.composite
def cases(draw, most=40, dear=20_000):
    """Costs of a few kinds, as layers have them, or of all kinds; weights with zeros; a budget."""
    kinds = draw(st.lists(st.integers(1, dear), min_size=1, max_size=6))
    count = draw(st.integers(1, most))
    costs = draw(st.lists(st.one_of(st.sampled_from(kinds), st.integers(1, dear)), min_size=count, max_size=count))
    weights = draw(st.lists(weight_values, min_size=count, max_size=count))
    budget = draw(st.integers(min(costs), max(sum(costs) + 5, min(costs))))
    return torch.tensor(costs), torch.tensor(weights, dtype=torch.float64), budget


def reachable(costs, budget):
    """All sums up to the budget that subsets make, one cost at a time."""
    sums = {0}
    for cost in costs:
        sums |= {one + cost for one in sums if one + cost <= budget}
    return sums


def used(costs, taken):
    return int(costs[taken].sum())


@settings(max_examples=1000, deadline=None)
@given(cases(), st.sampled_from(list(sampling.FILLS)), seeds, st.data())
def test_budget_is_never_exceeded(case, fill, seed, data):
    costs, weights, budget = case
    overheads = None
    if data.draw(st.booleans()):
        overheads = torch.tensor(data.draw(st.lists(st.integers(0, 500), min_size=len(costs), max_size=len(costs))))
        assume(int((costs + overheads).min()) <= budget)
    taken = sampling.sample(costs, weights, budget, torch.Generator().manual_seed(seed), fill, overheads)
    assert taken.tolist() == sorted(set(taken.tolist()))
    once = 0 if overheads is None or len(taken) == 0 else int(overheads[taken].max())
    assert used(costs, taken) + once <= budget
    if fill == "skip":
        assert len(taken) >= 1
        if overheads is None:  # nothing that is left out would still fit
            rest = set(range(len(costs))) - set(taken.tolist())
            assert all(used(costs, taken) + int(costs[i]) > budget for i in rest) or used(costs, taken) >= 0.99 * budget


@settings(max_examples=1500, deadline=None)
@given(cases(most=12, dear=60), st.randoms(use_true_random=False))
def test_budget_is_filled_to_99_percent_wherever_the_costs_allow_it(case, shuffler):
    costs, _, budget = case
    order = list(range(len(costs)))
    shuffler.shuffle(order)
    taken = sampling.take(torch.tensor(order), costs, budget)
    best = max(reachable(costs.tolist(), budget))
    assert used(costs, taken) <= budget
    if 100 * best >= 99 * budget:
        assert 100 * used(costs, taken) >= 99 * budget


@settings(max_examples=150, deadline=None)
@given(cases(most=300), seeds)
def test_many_channels_fill_it_too(case, seed):
    costs, weights, budget = case
    taken = sampling.sample(costs, weights, budget, torch.Generator().manual_seed(seed))
    bits = 1
    for cost in costs.tolist():
        bits |= (bits << cost) & ((1 << (budget + 1)) - 1)
    best = bits.bit_length() - 1
    assert used(costs, taken) <= budget
    assert 100 * used(costs, taken) >= 99 * budget or 100 * best < 99 * budget


def plain_take(order, costs, budget, fill):
    """Algorithm 1's loop as it stands."""
    taken, sum_ = [], 0
    for index in order:
        if sum_ + costs[index] > budget:
            if fill == "stop":
                break
            continue
        taken.append(index)
        sum_ += costs[index]
    return taken, sum_


@settings(max_examples=800, deadline=None)
@given(cases(most=15, dear=100), st.randoms(use_true_random=False))
@example((torch.tensor([60, 50, 50]), None, 100), __import__("random").Random(0))
def test_take_is_the_plain_loop_and_gives_back_only_latest_draws(case, shuffler):
    costs, _, budget = case
    order = list(range(len(costs)))
    shuffler.shuffle(order)
    plain, sum_ = plain_take(order, costs.tolist(), budget, "stop")
    assert sampling.take(torch.tensor(order), costs, budget, "stop").tolist() == sorted(plain)
    plain, sum_ = plain_take(order, costs.tolist(), budget, "skip")
    taken = sampling.take(torch.tensor(order), costs, budget).tolist()
    if 100 * sum_ >= 99 * budget:
        assert taken == sorted(plain)
        return
    goal = [s for s in reachable(costs.tolist(), budget) if 100 * s >= 99 * budget]
    if not goal:
        assert taken == sorted(plain)
        return
    # the longest head of draws that some set of the others fills is kept
    for kept in range(len(plain), -1, -1):
        head = plain[:kept]
        others = [costs.tolist()[i] for i in order if i not in head]
        sum_ = sum(costs.tolist()[i] for i in head)
        if any(100 * (sum_ + more) >= 99 * budget for more in reachable(others, budget - sum_)):
            break
    assert set(head) <= set(taken)


@given(
    cases(most=12, dear=60), st.randoms(use_true_random=False), st.lists(st.integers(0, 40), min_size=12, max_size=12)
)
@settings(max_examples=300, deadline=None)
def test_take_with_overheads_is_the_plain_loop(case, shuffler, overheads):
    costs, _, budget = case
    order = list(range(len(costs)))
    shuffler.shuffle(order)
    overheads = overheads[: len(costs)]
    taken = []
    for index in order:
        wanted = [*taken, index]
        if sum(int(costs[i]) for i in wanted) + max(overheads[i] for i in wanted) <= budget:
            taken = wanted
    assert sampling.take(torch.tensor(order), costs, budget, "skip", torch.tensor(overheads)).tolist() == sorted(taken)


def order_probabilities(weights):
    """Exact probability of each order of successive draws without replacement; weight 0 comes last, alike."""
    found = {}
    for order in itertools.permutations(range(len(weights))):
        chance, rest = Fraction(1), list(range(len(weights)))
        for item in order:
            total = sum(weights[i] for i in rest)
            chance *= Fraction(weights[item], total) if total else Fraction(1, len(rest))
            rest.remove(item)
        found[order] = chance
    assert sum(found.values()) == 1
    return found


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 7), (5, 0, 1), (1, 2, 3, 4), (0, 3, 0, 1), (0, 0, 0)])
def test_order_has_the_distribution_of_successive_draws(weights):
    generator = torch.Generator().manual_seed(11)
    draws = 12_000
    exact = order_probabilities(weights)
    counts = dict.fromkeys(exact, 0)
    vector = torch.tensor(weights, dtype=torch.float64)
    for _ in range(draws):
        counts[tuple(sampling.draw_order(vector, generator).tolist())] += 1
    possible = [order for order, chance in exact.items() if chance]
    assert sum(counts[order] for order in possible) == draws
    expected = [float(exact[order]) * draws for order in possible]
    assert min(expected) > 5
    assert stats.chisquare([counts[order] for order in possible], expected).pvalue > 1e-3


def test_scale_of_weights_does_not_matter():
    weights = torch.tensor([0.3, 2.0, 1.0, 0.0, 5.0], dtype=torch.float64)
    for factor in (1e-250, 1e-30, 1.0, 1e30, 1e250):
        orders = [
            sampling.draw_order(weights * scale, torch.Generator().manual_seed(5)).tolist() for scale in (1.0, factor)
        ]
        assert orders[0] == orders[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(weight_values, min_size=1, max_size=30), seeds)
def test_order_is_a_permutation_with_zeros_last_and_the_generators_own(weights, seed):
    vector = torch.tensor(weights, dtype=torch.float64)
    first, again = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    order = sampling.draw_order(vector, first)
    torch.manual_seed(1)  # the global generator plays no part
    assert torch.equal(order, sampling.draw_order(vector, again))
    assert torch.equal(first.get_state(), again.get_state())
    assert sorted(order.tolist()) == list(range(len(weights)))
    zeros = [weights[i] == 0 for i in order.tolist()]
    assert zeros == sorted(zeros)


def test_seeds_differ():
    costs, weights = torch.full((200,), 10), torch.ones(200)
    found = {
        tuple(sampling.sample(costs, weights, 500, torch.Generator().manual_seed(seed)).tolist()) for seed in range(20)
    }
    assert len(found) == 20 and {len(one) for one in found} == {50}


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0], [[1.0]]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(InputError, match="finite numbers that are not negative"):
        sampling.draw_order(torch.tensor(weights), torch.Generator())


def test_bad_budgets_and_fills_are_refused():
    costs, weights, generator = torch.tensor([7, 12]), torch.ones(2), torch.Generator()
    with pytest.raises(InputError, match="budget 6 is below the cheapest channel; allowed: 7 elements or more"):
        sampling.sample(costs, weights, 6, generator)
    with pytest.raises(InputError, match="allowed: 14 elements or more"):
        sampling.sample(costs, weights, 13, generator, overheads=torch.tensor([20, 2]))
    with pytest.raises(InputError, match="unknown fill 'first'; allowed: skip, stop"):
        sampling.sample(costs, weights, 20, generator, fill="first")
    with pytest.raises(InputError, match="no channel"):
        sampling.sample(costs[:0], weights[:0], 6, generator)
