"""The benchmark of a transformer's step runs, and its ways keep what they should beside one another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medyate import costs, networks

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "transformer_step.py"


def test_bytes_alone(tmp_path):
    pytest.importorskip("transformers")
    target = tmp_path / "step.json"
    words = ["--network", "minilm-l6", "--budget", "27946", "--batch-size", "1", "--rounds", "0", "--last-block"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words, "--json", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(target.read_text())["results"]
    rows = {row["name"]: row for row in result["rows"]}
    assert all(
        sum(row["kept"].values()) == row["kept_bytes"] <= row["peak_bytes"] + row["kept"].get("weight_gradients", 0)
        for row in rows.values()
    )
    kept = {name: row["kept_bytes"] for name, row in rows.items()}
    ours = [kept[f"ours, recompute {mode}"] for mode in ("blocks", "layers", "none")]
    assert (
        kept["classifier only"]
        == 0
        < result["paid_bytes"]
        < ours[0]
        < ours[1]
        < ours[2]
        < kept["dense-masked"]
        < kept["full fine-tuning"]
    )
    assert result["paid_bytes"] == 4 * result["used_elements"] <= 4 * 27_946
    assert result["first_layer"].startswith("body.encoder.layer.5.") and "LoRA" in done.stdout


@pytest.mark.parametrize(
    ("network", "block", "count"), [("swin-t", "features.7.1", 4), ("bert-base", "body.encoder.layer.11", 6)]
)
def test_last_block(network, block, count):
    if network != "swin-t":
        pytest.importorskip("transformers")
    from transformer_step import last_block

    layers = costs.layers(networks.skeleton(network), networks.get(network).input_shape())
    found = last_block(layers)
    assert len(found) == count and all(layer.name.startswith(block + ".") for layer in found)
