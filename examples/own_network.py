"""A network of your own class: score its layers, convert the redundant half, fine-tune with the original as teacher.

    python examples/own_network.py my_images/ --epochs 2 --out runs/own

`my_images` holds a folder of images a class, or two such sets in `train` and `val`; without these a fifth of each class
is held out. The network here is small and trained from nothing first, so that the script shows the whole way; take your
own class and weights instead. What it learns in a few epochs is not much.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

import ghostnet
from ghostnet import data, train
from ghostnet.measure import features


class OwnNetwork(nn.Module):
    """Three stages, each with a shortcut: `(N, 3, H, W) -> (N, classes)`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.grow = nn.ModuleList()
        self.keep = nn.ModuleList()
        for channels in (16, 32):
            wider = nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False)
            self.grow.append(nn.Sequential(wider, nn.BatchNorm2d(2 * channels), nn.ReLU()))
            same = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
            self.keep.append(nn.Sequential(same, nn.BatchNorm2d(2 * channels)))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for grow, keep in zip(self.grow, self.keep, strict=True):
            x = grow(x)
            x = (x + keep(x)).relu()
        return self.head(x.mean((2, 3)))


def run(folder: str, epochs: float, size: int, out: Path) -> dict[str, float]:
    """Train, score, convert and fine-tune; return the accuracies and the share of MACs that is left."""
    wanted = data.Preprocessing(size, 1.0)
    images, held_out = data.open_split(folder, held_out_fraction=0.2, seed=0)
    augment = data.CropAugmentation("padded_crop", padding=2)
    batches = data.ImageBatches(images, 16, preprocessing=wanted, augmentation=augment)
    test = data.ImageBatches(held_out, 64, preprocessing=wanted)
    settings = train.TrainSettings(epochs=epochs, learning_rate=0.05)

    dense = OwnNetwork(len(images.classes))
    train.fit(dense, batches, settings, progress=False)
    calibration = torch.cat([pixels for pixels, _ in islice(batches, 4)])
    scores = features.redundancy(dense, calibration)
    for layer in scores.ranked():
        print(f"{layer.name:12} {layer.ghost_error:.3f} of the variance lost, {layer.macs:,} MACs")

    ghost, report = ghostnet.ghostify(dense, layers=scores.least_hurt(0.5), calibration=calibration)
    converted = ghostnet.evaluate(ghost, test).top1
    train.fit(ghost, batches, settings, teacher=dense.eval(), progress=False)
    out.mkdir(parents=True, exist_ok=True)
    ghostnet.save(ghost, out / "ghost.safetensors", info=wanted.to_dict())
    ghostnet.deploy.export(ghost.eval(), "onnx", out / "ghost.onnx", input_size=(3, size, size), force=True)
    return {
        "dense": ghostnet.evaluate(dense, test).top1,
        "as converted": converted,
        "fine-tuned": ghostnet.evaluate(ghost, test).top1,
        "MACs left": (report.macs_after or 0) / (report.macs_before or 1),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    for name, value in run(given.folder, given.epochs, given.size, given.out).items():
        print(f"{name:12} {value:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
