"""Runs side by side: order, failures, Ctrl-C. The work is a file written in a real process of its own."""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ghostnet import InputError
from ghostnet.recipes.plan import run_plan
from ghostnet.recipes.side_by_side import run_side_by_side


@dataclass(frozen=True)
class Named:
    name: str
    needs: tuple[str, ...] = ()


def write_times(run, folder):
    started = time.time()
    if run.name == "broken":
        raise InputError("the data is broken")
    time.sleep(0.5)
    (folder / run.name).write_text(f"{started} {time.time()} {os.getpid()}")


def until_stopped(run, folder):
    (folder / run.name).touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / f"{run.name}.stopped").touch()
        raise


def test_two_at_a_time_and_what_is_needed_first(tmp_path):
    runs = [
        Named("dense"),
        Named("ghost", ("dense",)),
        Named("other"),
        Named("elsewhere", ("not in this plan",)),
    ]
    run_side_by_side(runs, functools.partial(write_times, folder=tmp_path), 2)
    start, end, process = {}, {}, set()
    for path in tmp_path.iterdir():
        start[path.name], end[path.name] = map(float, path.read_text().split()[:2])
        process.add(path.read_text().split()[2])
    assert sorted(start) == ["dense", "elsewhere", "ghost", "other"]
    assert len(process) == 4
    assert start["ghost"] >= end["dense"]


def test_a_failure_stops_only_what_needs_it(tmp_path, capfd):
    runs = [Named("broken"), Named("after", ("broken",)), Named("apart")]
    with pytest.raises(InputError, match=r"2 of 3 runs did not end: broken, after; see above"):
        run_side_by_side(runs, functools.partial(write_times, folder=tmp_path), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["apart"]
    assert "broken: the data is broken" in capfd.readouterr().err


def test_an_interrupt_reaches_every_process_and_is_waited_for(tmp_path):
    script = (
        "import functools, pathlib, test_recipes_side_by_side as here\n"
        "from ghostnet.recipes.side_by_side import run_side_by_side\n"
        "if __name__ == '__main__':\n"
        f"    work = functools.partial(here.until_stopped, folder=pathlib.Path({str(tmp_path)!r}))\n"
        "    run_side_by_side([here.Named('a'), here.Named('b')], work, 2)\n"
    )
    main = tmp_path / "main.py"
    main.write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, str(main)],
        env=environment,
        stderr=subprocess.DEVNULL,
        # a shell's background job, as tests may be, ignores Ctrl-C and hands that on
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.time() + 60
        while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
            assert time.time() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "a.stopped").exists()
    assert (tmp_path / "b.stopped").exists()


def test_at_least_one_job(tmp_path):
    with pytest.raises(InputError, match=r"`jobs` \(=0\) must be an integer >= 1"):
        run_plan([], tmp_path, jobs=0)
