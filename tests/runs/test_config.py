"""Configs: canonical names, a stable id, and every kind of bad input told in one line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medyate import strategies
from medyate.errors import InputError
from medyate.importance import NORM_GRADIENTS
from medyate.networks import schemes
from medyate.runs import rankings, records, tables
from medyate.runs.config import KINDS, RankConfig, RunConfig, full, option

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(file for folder in ("runs", "failed") for file in (ROOT / "results" / folder).glob("*.json"))
SMALL = {"task": "digits", "resolution": 32, "weights": "random"}


def run_config(**changes):
    return RunConfig.of({**SMALL, **changes}).check()


def test_names_become_canonical():
    spoken = run_config(network="MbV2-w0.35", task="Digits", strategy="lara_medyate")
    assert (spoken.network, spoken.task, spoken.strategy) == ("mbv2-w0.35", "digits", "LaRa MeDyate")
    assert spoken == run_config(network="mbv2") and spoken.id == run_config().id


def test_a_config_holds_what_was_chosen():
    config = run_config(strategy="Prev MeDyate")
    assert (config.order, config.metric, config.boosted) == ("rgn", "raw", False)
    assert config.ranking == rankings.automatic("mbv2-w0.35", "digits") and config.budget == 27_946
    assert run_config(strategy="Prev MeDyate", order="lara").order == "lara"
    assert run_config(strategy="Head only", budget=500).budget is None
    assert run_config(strategy="SU").ranking is None
    assert run_config(network="mcunet", strategy="SU").budget == 15_936
    assert run_config(weights=None, network="efficientnet-lite0", strategy="Head only").weights == "imagenet"
    assert isinstance(run_config(learning_rate=1).learning_rate, float)
    assert run_config(learning_rate=1).id == run_config(learning_rate=1.0).id


def test_epochs_are_the_papers():
    """Warm-up on top: 55, 105 and 205 epochs in all (Sec. 4.1)."""
    found = {
        task: RunConfig.of({"task": task, "strategy": "Head only"}).complete().total_epochs
        for task in ("cifar-10", "cifar-100", "cub", "flowers", "food", "pets", "vww")
    }
    assert found == {"cifar-10": 105, "cifar-100": 55, "cub": 205, "flowers": 205, "food": 55, "pets": 205, "vww": 55}
    assert run_config(epochs=3, warmup_epochs=2).total_epochs == 5


def test_every_option_changes_the_id():
    base = run_config(batch_norm="train")
    others = dict(
        network="mcunet-in1",
        strategy="LaRa TraDy",
        budget=30_000,
        epochs=3,
        warmup_epochs=1,
        seed=1,
        resolution=48,
        batch_size=16,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        batch_norm="frozen",
        norm_affine=True,
        layers=7,
        order="rgn",
        metric="rgn",
        boosted=True,
        ranking="trady-fig9",
        norm_gradient="mean",
        probe_batches=2,
        fill="stop",
        count="everything",
        depthwise="authors",
        execution="dense",
    )
    unvaried = {"task", "weights"}  # only one of each is sure to be here
    unvaried |= {"recompute"}  # a transformer's: test_recompute_is_a_transformers_field
    unvaried |= {"boost"}  # of boosted draws: test_a_boost_is_of_boosted_draws
    unvaried |= {"data"}  # of one's own: test_own_data
    assert set(others) | unvaried == set(RunConfig.fields())
    ids = {run_config(**{name: value}).id for name, value in others.items()} | {base.id}
    assert len(ids) == len(others) + 1
    assert "device" not in RunConfig.fields() and "threads" not in RunConfig.fields()


def test_a_rankings_norm_gradient_is_in_its_id_and_name():
    made = [RankConfig.of({**SMALL, "norm_gradient": name}).check() for name in NORM_GRADIENTS]
    assert len({one.id for one in made}) == len({one.name for one in made}) == len(NORM_GRADIENTS)
    assert RankConfig.of(SMALL).check() in made and RankConfig.of(
        {**SMALL, "norm_gradient": "mean"}
    ).check().name.endswith("-mean")


def test_id_is_the_same_in_another_process_and_place(tmp_path):
    code = (
        "from medyate.runs.config import RunConfig, RankConfig\n"
        f"print(RunConfig.of({SMALL!r}).check().id, RankConfig.of({SMALL!r}).check().id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert done.stdout.split() == [run_config().id, RankConfig.of(SMALL).check().id]


def test_plain_data_there_and_back():
    for strategy in ("LaRa MeDyate", "SU", "Baseline", "Head only", "Det RGN", "TraDy"):
        config = run_config(strategy=strategy)
        plain = json.loads(json.dumps(config.as_dict()))
        assert set(plain) == set(RunConfig.fields()) - set(RunConfig.later_defaults())
        assert RunConfig.of(plain).check() == config and RunConfig.of(plain).check().id == config.id
    config = RankConfig.of({**SMALL, "epochs": 2}).check()
    assert RankConfig.of(json.loads(json.dumps(config.as_dict()))).check() == config
    assert config.id.startswith("rank-mbv2-w0.35-digits-s0-")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_field_changes_no_id_while_it_has_its_default(kind):
    """A field like ones to come: without it a config is what it was before, with it another run."""
    before = KINDS[kind].of({**SMALL, "epochs": 2}).check()

    @dataclasses.dataclass(frozen=True)
    class Grown(KINDS[kind]):
        colour: str = option("grey", later=True)

    same, other = Grown.of(before.as_dict()), Grown.of({**before.as_dict(), "colour": "red"})
    assert same.id == before.id and same.as_dict() == before.as_dict() and same.colour == "grey"
    assert Grown.of({**before.as_dict(), "colour": "grey"}).id == before.id  # however it was said
    assert other.id != before.id and other.as_dict() == {**before.as_dict(), "colour": "red"}
    assert Grown.of(other.as_dict()) == other


def test_a_table_says_how_older_records_were_made(own_records):
    """Records from before a field are rows with its default, in every table; a filter finds them by it."""
    assert full("run", {"seed": 3}) == {"seed": 3, "recompute": "layers", "boost": "value", "data": None}
    later = {"recompute": "none", "boost": "rank", "data": "a"}
    assert full("run", later) == later
    for table in (records.table(), tables.table().rename(columns=lambda name: name.removeprefix("config."))):
        assert dict(zip(table["id"], table["recompute"])) == {"old": "layers", "new": "none"}
    for table in (records.epochs_table(), tables.table(epochs=True)):
        assert list(table[[name for name in table if name.endswith("recompute")][0]]) == ["none", "layers"]
    assert records.table(recompute="layers")["id"].tolist() == ["old"]


@pytest.fixture
def own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path))
    monkeypatch.setattr(records.storage, "shipped", lambda: None)
    for name, more in (("old", {}), ("new", {"recompute": "none"})):
        one = {"schema": 1, "kind": "run", "id": name, "status": "finished", "config": {"seed": 0, **more}}
        records.write({**one, "epochs": [{"epoch": 1, "test_top1_percent": 5.0}], "test_top1_percent": 5.0})


def test_a_boost_is_of_boosted_draws():
    ids = {run_config(boosted=True, boost=boost).id for boost in strategies.BOOSTS}
    assert len(ids) == len(strategies.BOOSTS) and run_config(boosted=True).id in ids
    with pytest.raises(InputError, match="boost 'rank' needs boosted True, not False"):
        run_config(boost="rank")
    with pytest.raises(InputError, match="unknown boost 'best'; allowed: value, rank, softmax"):
        run_config(boosted=True, boost="best")


def test_recompute_is_a_transformers_field():
    """Where nothing is ever computed again, whatever is said is the same run (ids need text networks' shapes only)."""
    minilm = {"network": "minilm-l6", "task": "docstrings", "resolution": 32, "weights": "random", "budget": 300_000}
    pytest.importorskip("transformers")
    base = RunConfig.of(minilm).check()
    for mode in ("none", "blocks"):
        assert RunConfig.of({**minilm, "recompute": mode}).check().id != base.id
        assert RunConfig.of({**minilm, "recompute": mode, "execution": "dense"}).check().recompute == "layers"
        assert RunConfig.of({**minilm, "recompute": mode, "strategy": "Baseline"}).check().recompute == "layers"
        assert run_config(recompute=mode).id == run_config().id
    with pytest.raises(InputError, match="unknown recompute mode 'all'; allowed: none, layers, blocks"):
        run_config(recompute="all")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_records_have_their_configs_ids(file):
    """A config that changes its form would leave all records behind."""
    record = json.loads(file.read_text())
    config = KINDS[record["kind"]].of(record["config"]).complete()
    assert config.id == record["id"] == file.stem
    assert config.as_dict() == record["config"]


RANKINGS = sorted((ROOT / "results" / "rankings").glob("*.json"))
OF_RUNS = [file for file in RANKINGS if json.loads(file.read_text())["source"].startswith("run ")]


@pytest.mark.parametrize("file", OF_RUNS, ids=lambda file: file.stem)
def test_shipped_rankings_have_their_runs_names(file):
    """A ranking names the run that made it; that run's config says the ranking's name."""
    found = json.loads(file.read_text())
    run_id = found["source"].removeprefix("run ").partition(",")[0]
    record = json.loads((ROOT / "results" / "runs" / f"{run_id}.json").read_text())
    config = RankConfig.of(record["config"]).complete()
    assert config.id == run_id and record["ranking"] == config.name
    assert (config.network, config.task, config.name) == (found["network"], found["task"], found["name"])
    assert file.stem == f"{config.network}.{config.name}"


BAD = [
    ({"netwrok": "mbv2"}, "unknown run option 'netwrok'; allowed: network, task"),
    ({"network": "resnet"}, "unknown network 'resnet'; allowed: mbv2-w0.35"),
    ({"network": 5}, "unknown network 5"),
    ({"network": None}, "unknown network None"),
    ({"task": "digitss"}, "unknown task 'digitss'; allowed: "),
    ({"task": 5}, "unknown task 5"),
    ({"task": "folder:/nowhere/at/all"}, "'/nowhere/at/all'"),
    ({"task": "sst-2"}, "takes images"),
    ({"strategy": "Medyate"}, "unknown strategy 'Medyate'; allowed: SU"),
    ({"strategy": 3}, "unknown strategy 3"),
    ({"weights": "caffe"}, "'caffe'; allowed: imagenet"),
    ({"budget": "27946"}, "budget '27946' is not an integer; allowed: an integer"),
    ({"budget": "abc"}, "budget 'abc' is not an integer"),
    ({"budget": 27946.0}, "budget 27946.0 is not an integer"),
    ({"budget": True}, "budget True is not an integer"),
    ({"budget": [27946]}, "budget [27946] is not an integer"),
    ({"budget": -1}, "budget -1 is out of range"),
    ({"budget": 10**9}, "budget 1000000000 is out of range"),
    ({"epochs": "3"}, "epochs '3' is not an integer"),
    ({"epochs": 0}, "epochs 0 is out of range; allowed: an integer at least 1"),
    ({"warmup_epochs": -1}, "warm-up epochs -1 is out of range"),
    ({"seed": "0"}, "seed '0' is not an integer"),
    ({"seed": -3}, "seed -3 is out of range"),
    ({"seed": 2**70}, "is out of range"),
    ({"resolution": 8}, "resolution 8 is out of range; allowed: an integer at least 16 at most 1,024"),
    ({"resolution": "128"}, "resolution '128'"),
    ({"batch_size": 0}, "batch size 0"),
    ({"learning_rate": "0.1"}, "learning rate '0.1' is not a number"),
    ({"learning_rate": 0}, "learning rate 0 is out of range; allowed: a finite number above 0"),
    ({"learning_rate": float("nan")}, "learning rate nan is out of range"),
    ({"momentum": -0.1}, "momentum -0.1 is out of range"),
    ({"weight_decay": "none"}, "weight decay 'none' is not a number"),
    ({"batch_norm": "eval"}, "'eval'; allowed: frozen, train"),
    ({"norm_affine": "False"}, "norm_affine 'False' is not a truth value; allowed: True, False"),
    ({"norm_affine": True, "batch_norm": "frozen"}, "norm_affine True needs"),
    ({"boosted": "True"}, "boosted 'True' is not a truth value"),
    ({"boosted": True, "strategy": "SU"}, "boosted True does not apply"),
    ({"layers": 0}, "number of layers K 0 is out of range; allowed: an integer at least 1 at most 52"),
    ({"layers": 53}, "number of layers K 53 is out of range"),
    ({"layers": "20"}, "'20' is not an integer"),
    ({"layers": 5, "strategy": "SU"}, "layers 5"),
    ({"layers": 5, "strategy": "Baseline"}, "layers 5"),
    ({"order": "lora"}, "unknown layer order 'lora'; allowed: lara, rgn"),
    ({"order": "lara", "strategy": "Head only"}, "layer order 'lara' does not apply"),
    ({"metric": "RGN"}, "unknown metric 'RGN'; allowed: raw, rgn"),
    ({"ranking": "nobody"}, "unknown ranking 'nobody' of 'mbv2-w0.35'; allowed: "),
    ({"norm_gradient": "first"}, "'first'; allowed: last, mean_norm, mean"),
    ({"probe_batches": 0}, "probe batches 0"),
    ({"fill": "full"}, "unknown fill 'full'; allowed: skip, stop"),
    ({"count": "all"}, "unknown count 'all'; allowed: paper, everything"),
    ({"depthwise": "eq5"}, "'eq5'; allowed: eq4, authors"),
    ({"execution": "sparse"}, "unknown execution 'sparse'; allowed: subnet, dense"),
    ({"strategy": "SU", "budget": 30_000}, "budget 30000 is not a tier of 'mbv2-w0.35'; SU allows: 27946, "),
    (
        {"strategy": "SU", "network": "efficientnet-lite0", "budget": 30_000},
        "'efficientnet-lite0'; allowed: mbv2-w0.35",
    ),
    ({"network": "efficientnet-lite0"}, "budget None: network 'efficientnet-lite0' has no tiers"),
]


@pytest.mark.parametrize("changes, words", BAD, ids=[str(changes) for changes, _ in BAD])
def test_bad_input_is_told_in_one_line(changes, words):
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        run_config(**changes)
    assert words in str(caught.value)


def test_budget_must_pay_for_a_channel_of_the_search_space():
    """The cheapest channel of the network is not always among the top K layers'."""
    layers = run_config().backbone_layers()
    cheapest = min(layer.channel_elements for layer in layers)
    with pytest.raises(
        InputError, match=f"budget {cheapest - 1} is out of range; allowed: an integer at least {cheapest} "
    ):
        run_config(budget=cheapest - 1)
    top = rankings.load("mbv2-w0.35", "trady-fig9").order("lara")[0]
    price = next(layer.channel_elements for layer in layers if layer.name == top)
    assert price > cheapest
    assert run_config(layers=1, budget=price, ranking="trady-fig9").budget == price
    with pytest.raises(
        InputError, match=f"budget {price - 1} is below the cheapest channel; allowed: {price} elements or more"
    ):
        run_config(layers=1, budget=price - 1, ranking="trady-fig9")


def test_a_config_is_a_value():
    """It holds what was said; only its completion asks what that comes to, and is its own completion."""
    said = RunConfig(network="MbV2", task="Digits", strategy="lara medyate", weights="random", resolution=32)
    assert (said.network, said.budget, said.epochs, said.order) == ("MbV2", None, None, None)
    assert RunConfig(network="nothing", budget="abc").network == "nothing"
    whole = said.complete()
    assert (whole.network, whole.strategy, whole.budget, whole.order) == ("mbv2-w0.35", "LaRa MeDyate", 27_946, "lara")
    assert whole.complete() == whole == said.check() and whole.id == said.id
    assert hash(whole) == hash(said.complete()) and dataclasses.replace(whole, seed=3).id != whole.id


def test_declaring_needs_no_torch():
    """Help texts and listings are made from the fields alone."""
    code = (
        "import sys; from medyate.runs.config import RunConfig, RankConfig, full; RunConfig(task='x').as_dict(); "
        "full('run', {}); assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_declared_config_needs_neither_data_nor_ranking():
    with pytest.raises(InputError, match="unknown task 'pack-that-is-elsewhere'"):
        run_config(task="pack-that-is-elsewhere")
    declared = RunConfig.of({**SMALL, "task": "pack-that-is-elsewhere", "ranking": "elsewhere"}).complete()
    assert (declared.task, declared.ranking) == ("pack-that-is-elsewhere", "elsewhere")
    with pytest.raises(InputError, match="'2' is not an integer"):
        RunConfig.of({**SMALL, "epochs": "2"}).complete()


def test_rank_config_checks_itself_too():
    for changes, words in (
        ({"epochs": "1"}, "epochs '1' is not an integer"),
        ({"budget": 5}, "unknown rank option 'budget'; allowed: network, task, epochs"),
        ({"network": "x"}, "unknown network 'x'"),
    ):
        with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
            RankConfig.of({**SMALL, **changes}).check()
        assert words in str(caught.value)
    assert RankConfig.of({**SMALL, "epochs": 2, "seed": 3}).check().name == "digits-s3-e7-r32"
    assert RankConfig.of({**SMALL, "epochs": 2, "resolution": 128}).check().name == "digits-s0-e7"


def test_su_allows_every_tier():
    layers = RunConfig.of({"task": "digits", "weights": "random"}).check().backbone_layers()
    for tier in range(1, 6):
        budget = schemes.budget("mbv2-w0.35", tier, layers)
        assert (
            RunConfig.of({"task": "digits", "weights": "random", "strategy": "SU", "budget": budget}).check().budget
            == budget
        )
