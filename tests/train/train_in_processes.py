"""A training run for one or, under torchrun, several processes, whose first writes its losses: FOLDER OPTIMIZER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from ghostnet.data import Augmentation, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, Watch, fit, share_of_processes


def main(folder, optimizer):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 64)
    images = (random.integers(0, 100, (64, 8, 8, 3)) + 40 * labels[:, None, None, None]).astype(np.uint8)
    normal = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    batches = TensorBatches(images, labels, 16, augmentation=Augmentation(crop_padding=2), seed=1, **normal)
    held_out = TensorBatches(images[:33], labels[:33], 8, **normal)
    model = create_model("ghost_resnet20", width_mult=0.25, num_classes=4)
    curve = []
    result = fit(
        model,
        batches,
        TrainSettings(
            epochs=12.5,
            bf16=False,
            freeze_batch_norm=True,
            optimizer=optimizer,
            learning_rate=0.02 if optimizer == "sgd" else 0.005,
            ema_decay=0.9,
        ),
        watch=Watch(held_out, every_epochs=5, log=lambda step, values: curve.append((step, values))),
        checkpoint=folder / "run.checkpoint",
        progress=False,
    )
    if share_of_processes()[0] == 0:
        processes = share_of_processes()[1]
        content = {"processes": processes, "curve": curve, "steps": result.steps, "best": result.best("top1")}
        (folder / "result.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
