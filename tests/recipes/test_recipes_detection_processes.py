"""Two processes under torchrun train a detector as one process does, and measure the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ghostnet

_CELLS = Path(__file__).parents[1] / "detect" / "cells"


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    torch.manual_seed(0)
    ghostnet.save(ghostnet.create_model("ghostnet_050"), tmp_path / "trunk.safetensors")
    changes = [
        f'start="{tmp_path / "trunk.safetensors"}"',
        "train_split=cells.json",
        "held_out_split=cells.json",
    ]
    changes += [
        "min_size=96",
        "max_size=128",
        "epochs=6",
        "batch_size=4",
        "evaluate_every=0",
        "untrained=false",
    ]
    changes += ["bf16=false", "frozen_stages=0", "score_threshold=0.0", "name=cells"]
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launcher = (
            ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"] if processes == 2 else []
        )
        command = [sys.executable, "-m", *launcher, "ghostnet", "detect", "train", "bccd_light"]
        command += ["--data", str(_CELLS), "--out", str(out), *changes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((out / "cells-seed0.json").read_text()))
    one, two = (record["metrics"] for record in found)
    assert one["steps"] == two["steps"] == 12
    for first, second in zip(one["curve"], two["curve"], strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)
    assert (
        one["curve"][-1]["loss"] < 0.9 * one["curve"][0]["loss"]
    )  # it learned, so that equal losses say something
    assert two["AP50"] == pytest.approx(one["AP50"], abs=0.01)
    assert two["images"] == one["images"] == 10
    assert found[0]["command"].startswith("ghostnet detect train bccd_light ")
    assert found[1]["command"].startswith("torchrun --nproc-per-node 2 -m ghostnet detect train bccd_light ")
