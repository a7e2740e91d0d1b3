"""Two processes under torchrun train as one process does on the same batches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "train_in_processes.py"


def run(folder, optimizer, *launcher):
    folder.mkdir()
    command = [sys.executable, *launcher, str(PROGRAM), str(folder), optimizer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())


def losses(result, name="train/loss"):
    return [(step, values[name]) for step, values in result["curve"] if name in values]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "tolerance"), [("sgd", 1e-4), ("muon", 0.1)]
)  # Muon rounds to bfloat16
def test_two_processes_give_the_losses_of_one(tmp_path, optimizer, tolerance):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    one, two = run(tmp_path / "one", optimizer), run(tmp_path / "two", optimizer, *torchrun)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["steps"] == two["steps"] == 50
    for name, count in (("train/loss", 50), ("held_out/loss", 3)):
        assert [step for step, _ in losses(one, name)] == [step for step, _ in losses(two, name)]
        differences = [
            abs(a - b) for (_, a), (_, b) in zip(losses(one, name), losses(two, name), strict=True)
        ]
        assert len(differences) == count
        assert max(differences) < tolerance
    assert losses(one)[-1][1] < 0.9 * losses(one)[0][1]  # it learned, so that equal losses say something
    assert two["best"] == one["best"]
