"""Adding a strategy is one entry: nothing else in the library names the strategies or their choices."""

import json

import pytest
import torch
from click.testing import CliRunner
from small_task import config, digits, one_thread, results  # noqa: F401 (fixtures)
from torch import nn

from medyate import InputError, Ranking, Strategy, Subnet, cli, strategies
from medyate.runs import finetune
from medyate.strategies import Choice, Needs

HEARD = []


def _pick(pool, norms):
    """First the last channels of the search space, then those that were not trained before, by a coin."""
    HEARD.append({name: len(values) for name, values in norms.items()})
    count = len(pool.first_weights)
    if not norms:
        return pool.take(torch.arange(count - 1, -1, -1))
    return pool.draw((pool.remember(norms) == pool.remember(norms).max()).double())


ALTERNATE = Choice("alternate", "those that were not trained", Needs.BUDGET | Needs.SAMPLES | Needs.OWN_GRADIENT, _pick)
LATEST = Strategy("LaRa Alternate", "from behind, then the others", ALTERNATE, order="lara", rule="alpha")


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(strategies.STRATEGIES, LATEST.name, LATEST)
    HEARD.clear()


def test_a_subnet_runs_it():
    HEARD.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    order = Ranking("own", "by hand", ("1",), (1.0,), (1.0,))
    subnet = Subnet(model, 27, LATEST, ranking=order, input_shape=(1, 6))  # a channel: 8 weights, one input
    HEARD.clear()  # of the selection that Subnet tries on a copy, to say what will be kept
    assert subnet.next_epoch().channels == {"1": (3, 4, 5)}
    x = torch.rand(4, 1, 6)
    nn.functional.cross_entropy(model(x), torch.arange(4) % 3).backward()
    second = subnet.next_epoch().channels
    assert len(second["1"]) == 3 and HEARD == [{}, {"1": 3}]
    subnet.detach()


def test_a_run_a_listing_and_a_name_take_it(added, results, one_thread):  # noqa: F811 (fixtures)
    assert strategies.get("lara-alternate") is LATEST
    record, there = finetune.run(config(strategy="LaRa alternate", epochs=1), device="cpu")
    assert not there and record["config"]["strategy"] == LATEST.name and record["config"]["order"] == "lara"
    # the first: the selection that Subnet tries on a copy, to say what will be kept
    assert HEARD[:-1] == [{}, {}] and sum(HEARD[-1].values()) == record["epochs"][0]["selected_channels"]
    for row in record["epochs"]:
        assert 0.9 * 27_946 < row["used_elements"] <= 27_946
    assert finetune.run(config(strategy="LaRa Alternate", epochs=1), device="cpu")[1]  # found again by its id


def test_the_listing_shows_it(added):
    *_, row = json.loads(CliRunner().invoke(cli.cli, ["strategies", "--json"]).stdout)
    assert (row["name"], row["choice"], row["channels"]) == (LATEST.name, "alternate", ALTERNATE.says)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"boosted": True, "order": None, "rule": "all"}, "boosted True does not apply to choice 'alternate'"),
        ({"once": True}, "once True does not apply to choice 'alternate'"),
        ({"rule": "alpha", "order": None}, "rule 'alpha' needs a layer order; allowed: lara, rgn"),
    ],
)
def test_what_does_not_go_together_is_refused_for_it_too(changes, words):
    with pytest.raises(InputError, match=words):
        strategies.replace(LATEST, **changes)
