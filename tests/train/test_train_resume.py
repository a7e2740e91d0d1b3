"""A run killed by SIGKILL and started again ends with the same weights, bit for bit, as one left alone."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import torch

PROGRAM = Path(__file__).parent / "train_to_the_end.py"


def run(folder, *more):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *more], capture_output=True, text=True, timeout=300
    )


def test_killed_and_resumed_run_gives_the_same_bits(tmp_path):
    done = run(tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    step = random.randint(2, 14)
    killed = run(tmp_path / "killed", str(step))
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "final.pt").exists()
    resumed = run(tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    whole, again = (torch.load(tmp_path / name / "final.pt") for name in ("whole", "killed"))
    different = [name for name in whole if not torch.equal(whole[name], again[name])]
    assert different == [], f"killed at step {step}"
