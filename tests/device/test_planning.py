"""The plan against brute force: no selection within the budget needs more than it says."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from medyate import cli
from medyate.device import exporting, planning, sampler
from medyate.device.exporting import by_layer, first_selection
from medyate.errors import InputError


def _costs(program):
    return [program.channel_cost(n) for n in program.searched for _ in range(program.network.convolutions[n].channels)]


@pytest.mark.parametrize("mode", planning.MODES)
@pytest.mark.parametrize("budget_mode", planning.BUDGET_MODES)
def test_no_selection_needs_more_than_the_plan(mbv2, mode, budget_mode):
    """Random selections, and selections made to be bad: those of the cheapest layers, the heaviest, the earliest."""
    program = mbv2(mode=mode, budget_mode=budget_mode)
    plan, costs, random = planning.plan_of(program), _costs(program), np.random.default_rng(0)
    convolutions = program.network.convolutions
    of = np.array([n for n in program.searched for _ in range(convolutions[n].channels)])
    leanings = [
        np.array([convolutions[n].plane for n in of], float) ** 4,
        np.array([convolutions[n].channel_weights for n in of], float) ** 4,
        1e6 ** (1 - of / of.max()), 1e6 ** (of / of.max()), 1 / np.array(costs, float) ** 4,
    ]  # fmt: skip
    worst = 0
    for seed in range(60):
        weights = random.exponential(size=len(costs)) if seed % 6 == 5 else leanings[seed % 6]
        chosen = sampler.sample(weights / weights.max(), costs, program.budget, sampler.Generator(seed))
        counts = {number: len(own) for number, own in by_layer(program, chosen).items()}
        assert len(chosen) <= program.most_chosen
        for ours, bound in zip(planning.moments(program, counts), plan.moments[1:]):
            assert ours.total <= bound.total, (ours, bound)
            worst = max(worst, ours.total)
    assert worst <= plan.arena_bytes < 1.1 * worst, "a bound that nothing comes near proves little"


def test_the_bound_is_the_best_of_all_selections_where_they_can_be_counted(mbv2):
    """Brute force over all counts of three layers: never above the bound, and close below it."""
    from dataclasses import replace
    from itertools import product

    program = mbv2()
    program = replace(program, searched=program.searched[:2] + program.searched[-1:], budget=3000)
    channels = {n: program.network.convolutions[n].channels for n in program.searched}
    bound = planning.moments(program)
    best = [0] * (len(bound) - 1)
    for counts in product(*(range(min(count, 12) + 1) for count in channels.values())):
        given = dict(zip(channels, counts))
        if sum(counts) and sum(program.channel_cost(n) * count for n, count in given.items()) <= 3000:
            one = planning.moments(program, {n: count for n, count in given.items() if count})
            best = [max(a, moment.total) for a, moment in zip(best, one)]
    largest_channel = 4 * max(program.channel_cost(n) * 2 for n in program.searched)
    for found, moment in zip(best, bound[1:]):
        assert found <= moment.total <= found + largest_channel


@pytest.mark.parametrize("network", ["mbv2-w0.35", "mcunet-in1", "proxyless-w0.3"])
def test_tier_1_at_128_pixels_trains_within_320_kib_in_place(network):
    """The goal of the project's smallest class, and its parts add up."""
    found = planning.plan(network, mode="in-place")
    assert found["ram_bytes"] <= 320 * 1024
    assert "stm32f746" in found["boards"]
    assert sum(found["ram_by_part"].values()) == found["ram_bytes"]
    assert tuple(found["ram_by_part"]) == planning.PARTS
    assert found["tier"] == 1 and found["mode"] == "in-place"


def test_tier_5_trains_within_1_mb_in_place():
    """MCUNet's is within 1 MB too, but what it holds between forward and backward outgrows a block of 512 KiB."""
    for network, boards in (
        ("mbv2-w0.35", {"stm32h743", "rt1062"}),
        ("proxyless-w0.3", {"stm32h743", "rt1062"}),
        ("mcunet-in1", {"mps2-an500"}),
    ):
        budget = max(planning.schemes.PRINTED_BUDGETS[network].values())
        found = planning.plan(network, budget, mode="in-place")
        assert found["ram_bytes"] <= 1_000_000 and boards <= set(found["boards"])


@pytest.mark.parametrize("mode", planning.MODES)
def test_no_board_holds_full_fine_tuning(mode):
    assert planning.plan("mbv2", strategy="Baseline", mode=mode)["boards"] == []


def test_in_place_needs_no_gradients_and_less_of_everything(mbv2):
    one, other = (planning.plan_of(mbv2(mode=mode)) for mode in ("in-place", "accumulate"))
    assert one.ram_by_part["gradients"] == 0 < other.ram_by_part["gradients"]
    assert one.ram_bytes < other.ram_bytes


def test_the_largest_budget_fits_and_the_next_does_not():
    found = planning.largest("mcunet", ram_bytes=300_000, mode="accumulate")
    assert found["ram_bytes"] <= 300_000
    more = planning.plan("mcunet", found["budget"] + 40, mode="accumulate", budget_mode="device")
    assert more["ram_bytes"] > 300_000
    # the device mode counts the copies and gradients too: what it allows holds for every selection
    assert found["budget_mode"] == "device"


def test_a_board_with_its_ram_in_blocks_takes_the_arena_in_two():
    budget = planning.schemes.PRINTED_BUDGETS["mbv2-w0.35"][5]
    plan = planning.plan_of(planning.network_program("mbv2", budget=budget, mode="in-place"))
    placed = planning.place(plan, planning.board("stm32h743"))
    assert placed.split and placed.regions["arena"] != placed.regions["passing"]
    room = {region.name: region.length_bytes for region in planning.board("stm32h743").of_kind("ram")}
    sizes = {"arena": plan.held_bytes, "passing": plan.passing_bytes, "state": plan.state_bytes + planning.STACK_BYTES}
    for section, size in sizes.items():
        room[placed.regions[section]] -= size
    assert min(room.values()) >= 0


def test_the_schemes_channels_are_the_librarys():
    program = planning.network_program("mbv2", "SU", 27_946)
    used = sum(program.channel_cost(n) * len(own) for n, own in program.fixed.items())
    assert used <= 27_946 < used + 1000
    assert len(first_selection(program)) == sum(map(len, program.fixed.values()))


def test_the_timeline_goes_forward_and_back():
    rows = planning.timeline("mbv2", mode="in-place")
    phases = [row["phase"] for row in rows]
    assert phases == sorted(phases, key=["choose", "forward", "head", "backward"].index)
    plan = planning.plan("mbv2", mode="in-place")
    assert max(sum(row["ram_by_part"].values()) for row in rows) <= plan["ram_bytes"]
    forward = [row["ram_by_part"]["kept"] for row in rows if row["phase"] == "forward"]
    assert forward[0] == 0 and max(forward) > 0
    one = planning.timeline("mbv2", mode="in-place", channels={"b8.pw1.conv": 3})
    assert max(row["ram_by_part"]["copies"] for row in one) == 3 * 144 * 4
    with pytest.raises(InputError, match="layer of the search space 'stem.conv'"):
        planning.timeline("mbv2", channels={"stem.conv": 1})


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["swin-t"], "no convolutional network"),
        (["mbv2", "--ram", "lots"], "RAM 'lots' is not a size"),
        (["mbv2", "--ram", "100K"], "hold no budget"),
        (["mbv2", "--ram", ""], "RAM '' is not a size"),
        (["mbv2", "--ram", "0"], "RAM in bytes 0 is out of range"),
        (["mbv2", "--ram", "0.5M"], "RAM '0.5M' is not a size"),
        # a mistake, not a lack of room: the strategies that read the ranking must not vanish from the table
        (["mbv2", "--board", "stm32h743", "--ranking", "nosuch"], "unknown ranking 'nosuch'"),
        (["mbv2", "--board", "arduino"], "unknown board 'arduino'"),
        (["mbv2", "--board", "rp2350", "--ram", "1M"], "one of the two"),
        (["mbv2", "--budget-mode", "free"], "unknown budget mode 'free'"),
        (["mbv2", "--classes", "0"], "classes 0 is out of range"),
    ],
)
def test_bad_input_is_one_line(arguments, says):
    done = CliRunner().invoke(cli.cli, ["device", "plan", *arguments])
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize("strategy", ["Det RGN", "LaRa Prob Raw", "Static TraDy"])
def test_what_needs_the_whole_gradient_is_refused(strategy):
    with pytest.raises(InputError, match=f"strategy '{strategy}'"):
        planning.plan("mbv2", strategy=strategy)


def test_json_has_the_promised_shape():
    done = CliRunner().invoke(cli.cli, ["device", "plan", "mcunet", "--board", "rp2350", "--json"])
    assert done.exit_code == 0, done.output
    plans = json.loads(done.stdout)["plans"]
    asked = {
        "network", "tier", "budget", "strategy", "resolution", "mode", "ram_bytes", "ram_by_part", "flash_bytes",
        "boards",
    }  # fmt: skip
    assert plans and all(asked <= set(plan) for plan in plans)
    assert {plan["mode"] for plan in plans} <= {"accumulate", "in-place"}
    assert all("rp2350" in plan["boards"] for plan in plans)


def test_a_strategy_that_does_not_fit_is_named():
    done = CliRunner().invoke(cli.cli, ["device", "plan", "mbv2", "--ram", "270K"])
    assert done.exit_code == 0 and "left out: 276,480 bytes of RAM hold no budget of 'SU'" in done.stderr
    assert "at most 276,480 bytes" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--epochs", "0"], "epochs 0 is out of range"),
        (["--warmup-epochs", "-1"], "warm-up epochs -1 is out of range"),
        (["--learning-rate", "nan"], "learning rate nan is out of range"),
        (["--learning-rate", "-1"], "learning rate -1.0 is out of range"),
        (["--batch-size", "0"], "batch size 0 is out of range"),
        (["--seed", "-1"], "seed -1 is out of range"),
        (["--seed", "99999999999999999999999"], "is out of range"),
    ],
)
@pytest.mark.parametrize("command", ["export", "train"])
def test_what_no_training_can_do_is_refused_before_anything_is_written(tmp_path, command, arguments, says):
    more = ["--task", "flowers12"] if command == "train" else ["--weights", "random"]
    folder = tmp_path / "out"
    done = CliRunner().invoke(cli.cli, ["device", command, "mbv2", "-o", str(folder), *more, *arguments])
    assert isinstance(done.exception, InputError) and says in str(done.exception)
    assert not folder.exists()


def test_no_training_images_are_not_all_of_them():
    done = CliRunner().invoke(cli.cli, ["device", "train", "mbv2", "--task", "flowers12", "--train-images", "0"])
    assert isinstance(done.exception, InputError) and "train images 0 is out of range" in str(done.exception)


def test_an_export_replaces_an_export_and_nobodys_own_files(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    arguments = ["device", "export", "mbv2", "--weights", "random", "--resolution", "32", "-o"]
    done = CliRunner().invoke(cli.cli, [*arguments, str(tmp_path)])
    assert isinstance(done.exception, InputError) and "is not empty and holds no export" in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    for _ in range(2):
        done = CliRunner().invoke(cli.cli, [*arguments, str(tmp_path / "a new one")])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("option", ["boosted", "augment"])
def test_boosting_and_augmentation_are_no_options_of_a_device(tmp_path, option):
    with pytest.raises(InputError, match=f"option '{option}' is not one that a device knows; allowed: epochs"):
        exporting.export_network("mbv2", tmp_path / "out", weights="random", **{option: True})
    flag = CliRunner().invoke(cli.cli, ["device", "export", "mbv2", "-o", str(tmp_path / "out"), f"--{option}"])
    assert flag.exit_code == 2 and re.search(f"No such option:? '?--{option}", flag.output)
    assert not (tmp_path / "out").exists()
