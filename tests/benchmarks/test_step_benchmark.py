"""The benchmark of a step runs, and its bound is what operations give."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


def test_one_round(tmp_path):
    words = [
        "--network",
        "mcunet",
        "--strategy",
        "SU",
        "--batch-size",
        "1",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--clock",
        "cpu",
    ]
    target = tmp_path / "step.json"
    done = subprocess.run([sys.executable, str(SCRIPT), *words, "--json", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(target.read_text())
    (result,) = [result for result in found["results"] if result["device"] == "cpu"]
    rows = {row["name"]: row for row in result["rows"]}
    ours, full = rows["ours"], rows["full fine-tuning, batch norm train"]
    assert 50 * ours["kept_bytes"] < full["kept_bytes"]
    assert rows["classifier only"]["kept_bytes"] == 0 and rows["forward pass alone"]["kept_bytes"] is None
    assert all(row["milliseconds"] > 0 for row in rows.values()) and ours["times_ours"] == 1
    operations = result["operations"]
    assert 0 < operations["selected_weight_gradients"] < operations["input_gradients"] < operations["forward"]
    assert 1 < result["bound_times_forward"] < 3
    assert "LoRA" in done.stdout  # measured, or said to be left out
