"""A training run in a process of its own, for the test that kills it: arguments FOLDER [kill_at_step]."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from ghostnet.data import Augmentation, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, fit


def main(folder, kill_at):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    batches = TensorBatches(
        random.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8),
        random.integers(0, 10, 40),
        8,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        augmentation=Augmentation(crop_padding=2, cutout=2),
        seed=4,
    )
    settings = TrainSettings(epochs=3, ema_decay=0.9, label_smoothing=0.1, checkpoint_seconds=1e-9)
    teacher = create_model("resnet20", width_mult=0.25)
    model = create_model("ghost_resnet20", width_mult=0.25)

    def maybe_die(step):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(
        model,
        batches,
        settings,
        teacher=teacher,
        checkpoint=folder / "run.checkpoint",
        after_step=maybe_die,
        progress=False,
    )
    torch.save(model.state_dict(), folder / "final.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else -1)
