"""Strategies: Algorithm 1 against a direct re-implementation, the others against what they declare."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medyate import costs, sampling, strategies
from medyate.errors import InputError
from medyate.ranking import Ranking
from medyate.selection import SearchSpace, Selection, Selector, search_layers
from medyate.strategies import Needs

# three layers of 4, 3 and 5 channels that cost 13, 9 and 21 each
LAYERS = (
    costs.conv_layer("a", (4, 4, 1, 1), (3, 3), (3, 3)),
    costs.conv_layer("b", (5, 3, 1, 1), (2, 2), (2, 2)),
    costs.conv_layer("c", (5, 1, 3, 3), (4, 3), (4, 3), groups=5),
)
RANKING = Ranking("tiny", "r", ("a", "b", "c"), lara=(1.0, 3.0, 2.0), layer_rgn=(3.0, 1.0, 2.0))
BUDGET = 60


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def selector(name="LaRa MeDyate", seed=0, budget=BUDGET, **options):
    strategy = strategies.get(name) if isinstance(name, str) else name
    return Selector(strategy, LAYERS, budget, generator(seed), ranking=RANKING, **options)


def test_the_tiny_space_costs_what_is_said():
    assert [layer.channel_elements for layer in LAYERS] == [13, 9, 21]
    assert [layer.channels for layer in LAYERS] == [4, 3, 5]


def norms_of(selection, epoch):
    """Some norms for the selected channels, other ones each epoch."""
    return {
        name: torch.tensor([0.5 + ((7 * epoch + 3 * channel + len(name) + ord(name)) % 11) for channel in chosen])
        for name, chosen in selection.channels.items()
    }


def algorithm_1(names, budget, metric, epochs, seed, fill="skip"):
    """Algorithm 1 with a dictionary from (layer, channel) to its norm, one step after another."""
    by_name = {layer.name: layer for layer in LAYERS}
    space = [(layer.name, c) for layer in LAYERS if layer.name in names for c in range(layer.channels)]
    price = {key: by_name[key[0]].channel_elements for key in space}
    random = generator(seed)
    norm, selections = None, []
    for epoch in range(1, epochs + 1):
        if epoch == 1:
            chance = dict.fromkeys(space, 1.0)  # line 4: uniform
        else:
            seen = {}
            for name, values in norms_of(Selection(selections[-1]), epoch - 1).items():
                for channel, value in zip(selections[-1][name], values.tolist(), strict=True):
                    seen[name, channel] = value / price[name, channel] if metric == "rgn" else value
            if epoch == 2:  # the others get the maximum that was seen
                norm = dict.fromkeys(space, max(seen.values()))
            norm.update(seen)  # only selected ones are replaced
            chance = dict(norm)
        weights = torch.tensor([chance[key] for key in space], dtype=torch.float64)
        taken = sampling.sample(torch.tensor([price[key] for key in space]), weights, budget, random, fill)
        chosen = {}
        for index in taken.tolist():
            chosen.setdefault(space[index][0], []).append(space[index][1])
        selections.append({name: tuple(channels) for name, channels in chosen.items()})
    return selections, norm


@pytest.mark.parametrize("metric", ["raw", "rgn"])
@pytest.mark.parametrize("names, k", [(("b", "c"), 2), (("a", "b", "c"), 3)])
@pytest.mark.parametrize("seed", range(5))
def test_medyate_is_algorithm_1(metric, names, k, seed):
    strategy = strategies.with_options(strategies.get("LaRa MeDyate"), metric=metric)
    ours = selector(strategy, seed, k=k)
    expected, norm = algorithm_1(names, BUDGET, metric, 6, seed)
    seen = set()
    selection = None
    for epoch in range(1, 7):
        selection = ours.select(None if selection is None else norms_of(selection, epoch - 1))
        assert dict(selection.channels) == expected[epoch - 1]
        assert selection.used_elements(LAYERS) <= BUDGET
        seen |= {(name, c) for name, chosen in selection.channels.items() for c in chosen}
        price = {layer.name: layer.channel_elements for layer in LAYERS}
        whole = sum(layer.search_elements for layer in LAYERS if layer.name in names)
        assert ours.explored_fraction == pytest.approx(sum(price[name] for name, _ in seen) / whole)
        assert ours.alpha == pytest.approx(BUDGET / whole)
    assert ours.norms.tolist() == pytest.approx(list(norm.values()))


def test_never_selected_channels_keep_the_maximum_of_epoch_2():
    ours = selector(k=3, budget=30)
    first = ours.select()
    seen = norms_of(first, 1)
    largest = max(float(values.max()) for values in seen.values())
    chosen = set(ours.space.indices(first).tolist())
    second = ours.select(seen)
    assert all(float(ours.norms[i]) == largest for i in range(12) if i not in chosen)
    chosen |= set(ours.space.indices(second).tolist())
    ours.select({name: values * 100 for name, values in norms_of(second, 2).items()})
    never = [i for i in range(12) if i not in chosen]
    assert never and all(float(ours.norms[i]) == largest for i in never)


def test_norms_bring_channels_back():
    """A channel whose norm is far above the others' comes each epoch once it was seen; one of norm 0 never again."""
    # not seen in epoch 1, whose maximum all unseen ones would share
    seed = next(
        seed
        for seed in range(99)
        if 0 not in selector(seed=seed, k=3, budget=45, fill="stop").select().channels.get("a", ())
    )
    ours = selector(seed=seed, k=3, budget=45, fill="stop")
    selection, hot_seen, cold_seen, hot_after = ours.select(), False, False, 0
    for _ in range(60):
        hot_seen |= 0 in selection.channels.get("a", ())
        cold_seen |= 1 in selection.channels.get("a", ())
        norms = {("a", 0): 1e6, ("a", 1): 0.0}
        selection = ours.select(
            {
                name: torch.tensor([norms.get((name, c), 1.0) for c in chosen])
                for name, chosen in selection.channels.items()
            }
        )
        if hot_seen:
            assert 0 in selection.channels["a"]
            hot_after += 1
        if cold_seen:
            assert 1 not in selection.channels.get("a", ())
    assert hot_after > 20 and cold_seen


def test_epoch_1_is_uniform():
    """Each channel of a layer of equal costs is chosen alike often."""
    strategy = strategies.get("LaRa MeDyate")
    counts = torch.zeros(5)
    for seed in range(2000):
        chosen = selector(strategy, seed, k=2, budget=45).select().channels.get("c", ())
        counts[list(chosen)] += 1
    assert counts.min() > 0
    expected = float(counts.sum()) / 5
    assert float((counts - expected).abs().max()) < 5 * math.sqrt(expected)


def test_boosted_draws_unseen_channels_by_their_layers_metric():
    """First draws in proportion to LaRa; layers whose LaRa is 0 come last."""
    flat = Ranking("tiny", "r", ("a", "b", "c"), lara=(8.0, 1.0, 1.0), layer_rgn=(1.0, 1.0, 1.0))
    strategy = strategies.with_options(strategies.get("LaRa MeDyate"), boosted=True)
    share = 0
    for seed in range(3000):
        ours = Selector(strategy, LAYERS, 21, generator(seed), ranking=flat, k=3)
        # the first item of the order, before costs decide
        first = int(sampling.draw_order(ours.first_weights, generator(seed))[0])
        share += first < 4
    chance = 4 * 8 / (4 * 8 + 3 + 5)
    assert abs(share / 3000 - chance) < 4 * math.sqrt(chance * (1 - chance) / 3000)
    ours = Selector(strategy, LAYERS, 30, generator(), ranking=flat, k=3)
    selection = ours.select()
    values = norms_of(selection, 1)
    ours.select(values)
    largest = max(float(v.max()) for v in values.values())
    chosen = set(ours.space.indices(selection).tolist())
    for index in set(range(12)) - chosen:
        layer_share = 1.0 if index < 4 else 1 / 8
        assert float(ours.norms[index]) == pytest.approx(largest * layer_share)
    uniform = Selector(
        strategies.with_options(strategies.get("LaRa TraDy"), boosted=True), LAYERS, 30, generator(), ranking=flat, k=3
    )
    assert uniform.first_weights.tolist() == [8.0] * 4 + [1.0] * 8


def test_a_boost_weighs_layers_by_value_rank_or_softmax():
    lara = (2.0, 8.0, 5.0)  # standard deviation sqrt(6)
    skewed = Ranking("tiny", "r", ("a", "b", "c"), lara=lara, layer_rgn=(1.0, 1.0, 1.0))
    e = [math.exp(value / math.sqrt(6)) for value in lara]
    expected = {"value": lara, "rank": (1, 3, 2), "softmax": [one / sum(e) for one in e]}
    assert set(expected) == set(strategies.BOOSTS)
    for boost, (a, b, c) in expected.items():
        strategy = strategies.with_options(strategies.get("LaRa MeDyate"), boosted=True, boost=boost)
        ours = Selector(strategy, LAYERS, 30, generator(), ranking=skewed, k=3)
        assert ours.first_weights.tolist() == pytest.approx([a] * 4 + [b] * 3 + [c] * 5)
    # only the layers that are searched count, and alike layers are drawn alike
    two = Selector(strategy, LAYERS, 30, generator(), ranking=skewed, k=2)
    e = [math.exp(value / 1.5) for value in (8.0, 5.0)]
    assert two.first_weights.tolist() == pytest.approx([e[0] / sum(e)] * 3 + [e[1] / sum(e)] * 5)
    alike = Ranking("tiny", "r", ("a", "b", "c"), lara=(3.0, 3.0, 3.0), layer_rgn=(1.0, 1.0, 1.0))
    assert Selector(strategy, LAYERS, 30, generator(), ranking=alike, k=3).first_weights.unique().numel() == 1
    with pytest.raises(InputError, match="unknown boost 'best'; allowed: value, rank, softmax"):
        strategies.with_options(strategies.get("LaRa MeDyate"), boosted=True, boost="best")


def test_an_epoch_that_selects_nothing_tells_nothing():
    """With fill="stop" the first draw may cost more than the whole budget."""
    for seed in range(50):
        ours = selector(seed=seed, k=3, budget=20, fill="stop")
        selection = ours.select()
        empty_first = not selection.channels
        for epoch in range(2, 6):
            selection = ours.select(norms_of(selection, epoch))
            assert selection.used_elements(LAYERS) <= 20
        if empty_first:
            break
    assert empty_first


def test_a_norm_that_is_not_finite_is_refused():
    ours = selector(k=3)
    selection = ours.select()
    name = next(iter(selection.channels))
    bad = norms_of(selection, 1)
    bad[name][0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        ours.select(bad)
    with pytest.raises(InputError, match="epoch 3 of strategy 'LaRa MeDyate' needs gradient norms"):
        ours.select()


def test_resumed_selector_goes_on_alike():
    ours, other = selector(k=3), selector(k=3, seed=99)
    selection = ours.select()
    selection = ours.select(norms_of(selection, 1))
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for epoch in range(2, 6):
        norms = norms_of(selection, epoch)
        selection = ours.select(norms)
        assert other.select(norms) == selection
        assert torch.equal(ours.norms, other.norms) and ours.explored_fraction == other.explored_fraction


# --- the other strategies ------------------------------------------------------------------------


def whole_norms(seed=1):
    random = generator(seed)
    return {layer.name: torch.rand(layer.channels, generator=random, dtype=torch.float64) + 0.01 for layer in LAYERS}


def test_largest_takes_the_largest_in_its_metric():
    norms = whole_norms()
    flat = [
        (float(value), layer.channel_elements, layer.name, c)
        for layer in LAYERS
        for c, value in enumerate(norms[layer.name])
    ]
    for name, key in (("Det RGN", lambda item: item[0] / item[1]), ("LaRa Det Raw", lambda item: item[0])):
        ours = selector(name, k=None if name == "Det RGN" else 3)
        chosen, used = set(), 0
        for item in sorted(flat, key=key, reverse=True):
            if used + item[1] <= BUDGET:
                chosen.add(item[2:])
                used += item[1]
        assert used >= 0.99 * BUDGET  # so nothing is given back
        selection = ours.select(norms)
        assert {(n, c) for n, channels in selection.channels.items() for c in channels} == chosen


def test_probability_is_in_proportion_to_the_whole_gradient():
    norms = {"a": torch.tensor([0.0, 0.0, 0.0, 1.0]), "b": torch.zeros(3), "c": torch.zeros(5)}
    for seed in range(20):
        assert 3 in selector("LaRa Prob Raw", seed, k=3).select(norms).channels["a"]
    counts = 0
    norms = {"a": torch.tensor([3.0, 1.0, 0.0, 0.0]), "b": torch.zeros(3), "c": torch.zeros(5)}
    for seed in range(2000):
        # one channel of a fits
        counts += selector("LaRa Prob Raw", seed, k=3, budget=13).select(norms).channels["a"] == (0,)
    assert abs(counts / 2000 - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)


def test_uniform_does_not_learn_and_redraws():
    ours = selector("TraDy", k=3)
    found = {tuple(sorted(ours.select().channels.items())) for _ in range(20)}
    assert len(found) > 5


def test_baseline_head_only_and_scheme():
    everything = selector("Baseline").select()
    assert everything.count == 12 and everything.used_elements(LAYERS) == sum(layer.search_elements for layer in LAYERS)
    assert selector("Head only").select() == Selection({})
    scheme = Selection({"a": (1, 2), "c": (0,)})
    ours = Selector(strategies.get("SU"), LAYERS, BUDGET, generator(), scheme=scheme)
    assert ours.select() == scheme and ours.select() == scheme
    assert ours.explored_fraction == pytest.approx((2 * 13 + 21) / 184)


@pytest.mark.parametrize(
    "name, order, layers",
    [
        # search costs 52 (a), 27 (b), 105 (c); budget 15; alpha 0.2 needs 75
        ("LaRa MeDyate", "lara", ("b", "c")),
        ("LaRa TraDy", "lara", ("b", "c")),
        ("LaRa Det Raw", "lara", ("b", "c")),
        ("LaRa Prob Raw", "lara", ("b", "c")),
        # layer RGN 3, 2, 1 of 6: 98 % is first reached by all three
        ("TraDy", "rgn", ("a", "c")),
        ("Prev MeDyate", "rgn", ("a", "c")),
        ("Det RGN", None, ("a", "b", "c")),
        ("SU", None, ("a", "b", "c")),
    ],
)
def test_search_spaces_are_the_papers(name, order, layers):
    strategy = strategies.get(name)
    assert strategy.order == order
    assert search_layers(strategy, LAYERS, RANKING, 15) == layers
    if order:
        assert search_layers(strategy, LAYERS, RANKING, 15, k=1) == layers[:1]
        other = strategies.with_options(strategy, order="rgn" if order == "lara" else "lara")
        assert search_layers(other, LAYERS, RANKING, 15, k=1) == (("a",) if order == "lara" else ("b",))


def test_search_space_maps_channels_there_and_back():
    space = SearchSpace(LAYERS, ("c", "a"))
    assert [layer.name for layer in space.layers] == ["a", "c"]
    assert space.costs.tolist() == [13] * 4 + [21] * 5 and space.elements == 157
    indices = torch.tensor([0, 3, 4, 8])
    selection = space.selection(indices)
    assert selection == Selection({"a": (0, 3), "c": (0, 4)})
    assert space.indices(selection).tolist() == indices.tolist()
    assert space.indices(Selection({})).tolist() == []


def test_what_a_selection_uses():
    selection = Selection({"a": (0, 3), "c": (1, 2, 4)})
    assert selection.count == 5
    assert selection.used_elements(LAYERS) == 2 * 13 + 3 * 21
    assert selection.weight_elements(LAYERS) == 2 * 4 + 3 * 9
    assert selection.activation_elements(LAYERS) == 2 * 9 + 3 * 12
    assert selection.weight_flops(LAYERS) == 2 * 4 * 9 + 3 * 9 * 12
    authors = (*LAYERS[:2], costs.conv_layer("c", (5, 1, 3, 3), (4, 3), (4, 3), groups=5, depthwise="authors"))
    assert selection.used_elements(authors) == 2 * 13 + 3 * 13
    assert selection.weight_elements(authors) == 2 * 4 + 3 * 9  # what is trained does not change with the count


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([name for name, one in strategies.STRATEGIES.items() if one.choice.searches]),
    st.integers(9, 200),
    st.integers(0, 2**32),
    st.sampled_from(list(sampling.FILLS)),
    st.one_of(st.none(), st.lists(st.integers(0, 5), min_size=3, max_size=3)),
    st.booleans(),
)
def test_every_strategy_keeps_the_budget(name, budget, seed, fill, overheads, boosted):
    strategy = strategies.get(name)
    if boosted and strategy.order and strategy.choice in (strategies.UNIFORM, strategies.MEDYATE):
        strategy = strategies.with_options(strategy, boosted=True)
    extra = None if overheads is None else dict(zip("abc", overheads))
    try:
        ours = selector(strategy, seed, budget, fill=fill, overheads=extra)
    except InputError as error:
        assert "below the cheapest channel" in str(error)
        return
    random, selection = generator(seed), None
    for _ in range(4):
        norms = None
        if strategy.needs(Needs.WHOLE_GRADIENT):
            norms = {layer.name: torch.rand(layer.channels, generator=random) for layer in LAYERS}
        elif selection is not None:
            norms = {n: torch.rand(len(c), generator=random) for n, c in selection.channels.items()}
        selection = ours.select(norms)
        once = max((extra[n] for n in selection.channels), default=0) if extra else 0
        assert selection.used_elements(LAYERS) + once <= budget
        assert set(selection.channels) <= set(ours.ranked)


@pytest.mark.parametrize("static, dynamic", [("Static TraDy", "TraDy"), ("Static Det RGN", "Det RGN")])
def test_static_twins_choose_as_their_dynamic_ones_and_then_no_more(static, dynamic):
    ours, other = selector(static), selector(dynamic)
    chosen = []
    for epoch in range(1, 6):
        norms = {
            layer.name: torch.arange(1.0, layer.channels + 1) ** (-epoch if epoch % 2 else epoch) for layer in LAYERS
        }
        whole = norms if other.strategy.needs(Needs.WHOLE_GRADIENT) else None
        assert ours.needs_whole_gradient is (whole is not None and epoch == 1)
        chosen.append(other.select(whole))
        assert ours.select(whole if epoch == 1 else None) == chosen[0]
    assert len(set(map(str, chosen))) > 1  # the dynamic one does choose anew
    # and so does one that goes on from a checkpoint
    again = selector(static)
    again.load_state_dict(ours.state_dict())
    assert not again.needs_whole_gradient and again.select() == chosen[0]


def test_names_are_the_papers():
    assert list(strategies.STRATEGIES) == [
        "SU",
        "Det RGN",
        "TraDy",
        "Prev MeDyate",
        "LaRa TraDy",
        "LaRa Det Raw",
        "LaRa Prob Raw",
        "LaRa MeDyate",
        "Static TraDy",
        "Static Det RGN",
        "Baseline",
        "Head only",
    ]
    assert strategies.get("lara-medyate") is strategies.get("LaRa_MeDyate") is strategies.STRATEGIES["LaRa MeDyate"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: strategies.get("MeDyate"), "unknown strategy 'MeDyate'; allowed: SU, Det RGN"),
        (lambda: strategies.get(None), "unknown strategy None"),
        (lambda: selector(k=0), "number of layers K 0 is out of range; allowed: an integer at least 1 at most 3"),
        (lambda: selector(k=4), "K 4 is out of range"),
        (lambda: selector(k="2"), "'2' is not an integer"),
        (lambda: selector("Det RGN", k=2), "K = 2 does not apply to strategy 'Det RGN'"),
        (lambda: selector(budget=8), "budget 8 is below the cheapest channel"),
        (lambda: selector(budget="60"), "budget '60' is not an integer"),
        (lambda: selector(budget=60.0), "budget 60.0 is not an integer"),
        (lambda: selector(k=1, budget=8), "allowed: 9 elements or more"),
        (lambda: selector("SU"), "needs the scheme's selection"),
        (lambda: selector(fill="all"), "unknown fill 'all'; allowed: skip, stop"),
        (lambda: Selector(strategies.get("TraDy"), LAYERS, 60, generator()), "needs a ranking"),
        (
            lambda: strategies.with_options(strategies.get("SU"), order="lara"),
            "layer order 'lara' does not apply to strategy 'SU'",
        ),
        (lambda: strategies.with_options(strategies.get("SU"), boosted=True), "boosted True does not apply"),
        (lambda: strategies.with_options(strategies.get("LaRa Det Raw"), boosted=True), "boosted True does not apply"),
        (
            lambda: strategies.with_options(strategies.get("TraDy"), metric="norm"),
            "unknown metric 'norm'; allowed: raw, rgn",
        ),
        (lambda: strategies.with_options(strategies.get("TraDy"), order="prev"), "unknown layer order 'prev'"),
    ],
)
def test_bad_input_is_told_in_one_line(call, words):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_a_strategy_is_pickled_and_copied(name):
    strategy = strategies.get(name)
    assert pickle.loads(pickle.dumps(strategy)) == strategy == copy.deepcopy(strategy)


def test_a_choice_of_ones_own_is_pickled_if_its_function_can_be():
    own = strategies.Choice("own", "the first", strategies.Needs.BUDGET, _first)
    assert pickle.loads(pickle.dumps(own)) == own
    twin = strategies.Choice("uniform", "not the shipped one", strategies.Needs.BUDGET, _first)
    assert pickle.loads(pickle.dumps(twin)) == twin != strategies.UNIFORM


def _first(pool, norms):
    return pool.channels[:1]
