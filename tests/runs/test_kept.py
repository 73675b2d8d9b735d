"""What one step of a configured run holds: the accounting of the paper beside the measurement, and closed forms."""

import pytest
import torch

from medyate.errors import InputError
from medyate.execution import measure
from medyate.runs import kept
from medyate.runs.config import RunConfig


def test_the_report_and_its_goal():
    found = kept.report("mbv2", 27_946)
    assert found["budget_bytes"] == 4 * 27_946
    parts = found["kept_bytes"]
    assert set(parts) == set(measure.PARTS) and found["kept_total_bytes"] == sum(parts.values())
    assert parts["selected_activations"] + parts["weight_gradients"] == 4 * found["used_elements"]
    assert found["full_finetuning_bytes"] >= 50 * found["kept_total_bytes"]
    # the paper's part, and one bit per rectified output; nothing else
    assert found["kept_total_bytes"] <= 1.02 * (4 * 27_946 + parts["masks"])
    assert found["peak_bytes"] >= found["kept_total_bytes"] - found["kept_bytes"]["weight_gradients"]
    everything = kept.report("mbv2", 27_946, count="everything")
    assert everything["kept_total_bytes"] <= 4 * 27_946
    assert everything["full_finetuning_bytes"] >= 50 * everything["kept_total_bytes"]


@pytest.mark.parametrize("network", ["swin-t", "minilm-l6"])
def test_the_report_of_a_transformer(network):
    if network == "minilm-l6":
        pytest.importorskip("transformers")
    found = kept.report(network, 27_946, "Det RGN")
    parts, full = found["kept_bytes"], found["full_finetuning_kept_bytes"]
    assert set(parts) == set(full) and set(measure.PARTS) < set(parts) <= {*measure.PARTS, *measure.TRANSFORMER_PARTS}
    assert found["kept_total_bytes"] == sum(parts.values()) and found["full_finetuning_bytes"] == sum(full.values())
    assert parts["selected_activations"] + parts["weight_gradients"] == 4 * found["used_elements"]
    assert parts["other"] == parts["masks"] == 0 and found["full_finetuning_bytes"] > 20 * found["kept_total_bytes"]
    # a budget that pays for all of it buys channels of the last layers alone, if any
    try:
        bounded = kept.report(network, 27_946, "Det RGN", count="everything")
    except InputError as refusal:
        assert "is below the cheapest channel" in str(refusal)
    else:
        assert bounded["kept_total_bytes"] <= 4 * 27_946


def test_a_batch_norm_that_trains_holds_far_more():
    frozen, train = (kept.report("mcunet", 15_936, batch_norm=mode) for mode in ("frozen", "train"))
    assert frozen["kept_bytes"]["batch_norm"] == 0
    assert train["kept_bytes"]["batch_norm"] > 10 * train["budget_bytes"]
    for part in ("selected_activations", "weight_gradients", "masks"):
        assert train["kept_bytes"][part] == frozen["kept_bytes"][part]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "vgg"}, "unknown network 'vgg'; allowed: "),
        ({"network": "mbv2", "budget": 3}, "budget 3 is out of range"),
        ({"network": "mbv2", "strategy": "Magic"}, "unknown strategy 'Magic'"),
        ({"network": "mbv2", "batch_norm": "eval"}, "unknown batch norm mode 'eval'"),
        ({"network": "mbv2", "count": "some"}, "unknown count 'some'; allowed: paper, everything"),
        ({"network": "mbv2", "batch_size": 0}, "batch size 0 is out of range"),
    ],
)
def test_bad_reports(options, message):
    with pytest.raises(InputError) as caught:
        kept.report(**options)
    assert message in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_holds_the_same_and_tells_the_allocators_peak():
    here, there = (kept.report("mbv2", 27_946, batch_size=8, device=device) for device in ("cpu", "cuda"))
    assert here["kept_bytes"] == there["kept_bytes"]
    assert there["peak_bytes"] > there["kept_total_bytes"]


def test_accounting_beside_measurement():
    rows = kept.compare("mcunet", [15_936, 64_832], batch_sizes=(1, 3), resolution=64)
    assert [(row["budget"], row["batch_norm"], row["batch_size"]) for row in rows] == [
        (budget, mode, size) for budget in (15_936, 64_832) for mode in ("frozen", "train") for size in (1, 3)
    ]
    for row in rows:
        assert row["selected_activations_bytes"] + row["weight_gradients_bytes"] == row["paid_bytes"]
        assert row["kept_total_bytes"] == sum(row[f"{part}_bytes"] for part in measure.PARTS)
        assert row["kept_total_bytes"] < row["full_finetuning_bytes"]
        if row["batch_size"] == 1:
            assert row["paid_bytes"] <= row["budget_bytes"] == 4 * row["budget"]
        assert (row["batch_norm_bytes"] == 0) == (row["batch_norm"] == "frozen")


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_peak_covers_what_is_kept(batch_norm):
    found = kept.report("mbv2-w0.35", resolution=64, batch_norm=batch_norm, strategy="TraDy")
    saved = found["kept_total_bytes"] - found["kept_bytes"]["weight_gradients"]
    assert found["peak_bytes"] >= saved
    with pytest.raises(InputError, match="unknown strategy with a budget 'Baseline'; allowed: SU, Det RGN, TraDy"):
        kept.compare("mcunet", [15_936], "baseline")


def test_one_step_counts_the_channels_that_it_is_given():
    """Closed form: a selected channel holds its gradient once, its input map once a sample."""
    config = RunConfig(
        network="mcunet", task="digits", strategy="Head only", weights="random", batch_norm="frozen", resolution=64
    ).check()
    channels = {"b9.pw1.conv": [0, 3, 5], "b12.pw2.conv": [7]}
    chosen = {layer.name: layer for layer in config.backbone_layers() if layer.name in channels}
    step = kept.Step(config, channels=channels)
    for size in (1, 3):
        held = step.held(size).backbone
        for part, factor, of in (
            ("weight_gradients", 1, "weight_elements_per_channel"),
            ("selected_activations", size, "activation_elements_per_channel"),
        ):
            cost = sum(getattr(layer, of) * len(channels[name]) for name, layer in chosen.items())
            assert held[part] == 4 * factor * cost
    ways = kept.held_bytes("mcunet", channels, batch_size=2)
    assert list(ways) == list(kept.WAYS)
    ours, masked = ways["subnet, batch norm frozen"], ways["masked dense gradients, batch norm frozen"]
    assert sum(ours.values()) < sum(masked.values()) < sum(ways["all trained, batch norm train"].values())
    assert ours["batch_norm"] == 0 < ways["subnet, batch norm train"]["batch_norm"]


def test_a_batch_norm_with_one_value_a_channel_is_told():
    with pytest.raises(InputError, match="resolution 32 with batch size 1 leaves batch norm .* a batch of at least 2$"):
        kept.report("mbv2", resolution=32)
    assert kept.report("mbv2", resolution=32, batch_size=2)["kept_total_bytes"] > 0
