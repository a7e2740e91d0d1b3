"""Ctrl-C, a real SIGINT, and SIGTERM: the checkpoint is one step's state, and resumed runs give the same bits."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ghostnet.data import (
    Augmentation,
    CropAugmentation,
    ImageBatches,
    ImageFolder,
    Preprocessing,
    TensorBatches,
)
from ghostnet.data.decode import leave_interrupts_to_parent
from ghostnet.models import create_model
from ghostnet.train import StackedBatches, StackedNetworks, TrainSettings, fit

SETTINGS = TrainSettings(epochs=2, ema_decay=0.9, checkpoint_seconds=1e9)


@pytest.fixture(autouse=True)
def _interruptible():
    """Python's own handler: a shell that starts the tests in the background has SIGINT ignored."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def batches():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    look = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "augmentation": Augmentation(1), "seed": 4}
    return TensorBatches(pixels, np.arange(32) % 4, 8, **look)


def small():
    torch.manual_seed(0)
    return create_model("ghost_resnet20", width_mult=0.25, num_classes=4)


def interrupting(model, at, times=1):
    """Return a network that sends its own process SIGINT in the middle of step `at`, between its batch norms."""
    passes = []

    def hook(*_):
        if not model.training:
            return
        passes.append(1)
        if len(passes) == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    model.layer2.register_forward_hook(hook)
    return model


def steps_of(path):
    state = torch.load(path, weights_only=True)
    norms = {int(value) for name, value in state["model"].items() if "num_batches" in name}
    return state["result"]["steps"], norms


def test_an_interrupt_within_a_step_waits_for_its_end(tmp_path):
    path = tmp_path / "run.checkpoint"
    whole = small()
    fit(whole, batches(), SETTINGS, progress=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(interrupting(small(), 3), batches(), SETTINGS, checkpoint=path, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert steps_of(path) == (3, {3})
    again = small()
    fit(again, batches(), SETTINGS, checkpoint=path, progress=False)
    other = again.state_dict()
    assert [name for name, value in whole.state_dict().items() if not torch.equal(value, other[name])] == []


def test_a_second_interrupt_stops_at_once_and_saves_nothing(tmp_path, capsys):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(interrupting(small(), 3, times=2), batches(), SETTINGS, checkpoint=path)
    assert not path.exists()
    assert "stopping after this step; Ctrl-C again stops at once" in capsys.readouterr().err


def test_an_interrupt_between_steps_saves_at_once(tmp_path):
    path = tmp_path / "run.checkpoint"

    class Interrupted(TensorBatches):
        def epoch(self, *args, **more):
            for number, batch in enumerate(super().epoch(*args, **more)):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    data = batches()
    data.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        fit(small(), data, SETTINGS, checkpoint=path, progress=False)
    assert steps_of(path) == (2, {2})


def test_a_programs_own_handler_of_sigterm_is_called_between_steps():
    found, model, passes = [], small(), []

    def hook(*_):
        passes.append(1)
        if len(passes) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            assert found == []

    model.register_forward_hook(hook)
    before = signal.signal(signal.SIGTERM, lambda number, _frame: found.append(number))
    try:
        result = fit(model, batches(), SETTINGS, progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIGTERM]
    assert result.steps == 8


def test_stacked_networks_finish_their_step_too(tmp_path):
    path = tmp_path / "run.checkpoint"
    stacked = StackedNetworks([small(), small()])
    passes = []

    def hook(*_):  # the statistics are written, the weights are not
        passes.append(1)
        if len(passes) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    stacked.register_forward_hook(hook)
    settings = TrainSettings(epochs=1, checkpoint_seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        fit(stacked, StackedBatches(batches(), (0, 1)), settings, checkpoint=path, progress=False)
    state = torch.load(path, weights_only=True)
    assert state["result"]["steps"] == 2
    assert all((v == 2).all() for name, v in state["model"].items() if "num_batches" in name)


def test_training_in_another_thread_leaves_the_signal_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def train():
        seen = lambda _step: found.append(signal.getsignal(signal.SIGINT))  # noqa: E731
        fit(small(), batches(), TrainSettings(epochs=0.25), after_step=seen, progress=False)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [before]


def test_processes_that_decode_live_through_an_interrupt(tmp_path):
    """At a terminal Ctrl-C goes to them as well; without them the step that is under way could not be finished."""
    (tmp_path / "a").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / "a" / f"{number}.png")
    look = {"preprocessing": Preprocessing(8), "workers": 1}
    data = ImageBatches(ImageFolder(tmp_path), 1, augmentation=CropAugmentation(), **look)
    found = iter(data)
    next(found)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
    assert len(list(found)) == 5


def test_what_is_trained_to_the_end_is_kept_for_what_follows(tmp_path):
    place, steps = tmp_path / "run.checkpoint", []
    trained = small()
    fit(trained, batches(), SETTINGS, checkpoint=place, progress=False)
    assert steps_of(place)[0] == 8
    again = small()
    result = fit(again, batches(), SETTINGS, checkpoint=place, after_step=steps.append, progress=False)
    assert (result.steps, steps) == (8, [])
    pairs = zip(trained.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def _decodes(begun):
    leave_interrupts_to_parent(0)
    begun.set()
    time.sleep(60)


def test_processes_that_decode_are_ended_by_sigterm():
    """However their parent takes it: that is how it ends them."""
    context = multiprocessing.get_context("fork")  # what is forked takes its parent's handlers over
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        begun = context.Event()
        process = context.Process(target=_decodes, args=(begun,))
        process.start()
        assert begun.wait(20)
        process.terminate()
        process.join(timeout=20)
        assert process.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
        process.kill()


TRAINING = """
import os, signal, sys
from torch import nn

norms = []


def stop_in_the_third_step(module, *_):
    if isinstance(module, nn.BatchNorm2d) and module.training:
        norms.append(module)
        if norms.count(norms[0]) == 3 and module is norms[0]:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background job has it
    nn.modules.module.register_module_forward_hook(stop_in_the_third_step)
    from ghostnet.__main__ import main

    main()
"""


def test_sigterm_ends_a_command_like_ctrl_c(tmp_path):
    """Containers and queues send it first, and kill later."""
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "main.py").write_text(TRAINING)
    command = [sys.executable, "main.py", "train", "--data", "images", "--model", "resnet20"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--out", "out", "epochs=3", "batch_size=4"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "ghostnet: interrupted; continue with the same command" in done.stderr
    assert "Traceback" not in done.stderr
    (checkpoint,) = (tmp_path / "out").rglob("*.checkpoint")
    steps, norms = steps_of(checkpoint)
    assert {steps} == norms == {3}
