"""Images a second of decoding, augmenting and batching, ours beside torchvision's own `ImageFolder` and transforms v2.

Both read the same files, make the same float32 batches of random-resized crops through a DataLoader in this process,
and take turns (A B A B …), so that other load on the machine hits both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ghostnet.data.image_batches import ImageBatches
from ghostnet.data.image_folder import ImageFolder
from ghostnet.data.preprocessing import CropAugmentation, Preprocessing
from ghostnet.errors import InputError
from ghostnet.progress import Progress

OURS, TENSOR, PILLOW = "ghostnet", "torchvision, uint8 tensors", "torchvision, Pillow images"


def compare_loading_speed(
    root: str, *, batch_size: int = 64, rounds: int = 7, progress: bool = False
) -> dict[str, Any]:
    """Measure both of torchvision's documented ways and ours on a folder with a subfolder a class.

    Args:
        root: the images; at least one batch of them.
        batch_size: images a batch.
        rounds: measurements of each, after one that is not counted.
        progress: show a bar on standard error.

    Returns:
        `images`, `batch_size`, `rounds`, `seconds`; in `rows` for each way the median and all rates, in images per
        second of processor time on one core; `ratio` is ours over the faster one of torchvision's.

    Raises:
        InputError: no such folder, fewer images than a batch, or fewer than one round.
    """
    if rounds < 1:
        raise InputError(f"`rounds` (={rounds}) must be an integer >= 1")
    source = ImageFolder(root)
    if len(source) < batch_size:
        raise InputError(f"{root} has {len(source)} images; the comparison loads batches of {batch_size}")
    ours = ImageBatches(source, batch_size, preprocessing=Preprocessing(), augmentation=CropAugmentation())
    ways: dict[str, Callable[[int], Any]] = {
        OURS: ours.epoch,
        TENSOR: _torchvision(root, batch_size, pillow=False),
        PILLOW: _torchvision(root, batch_size, pillow=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    threads, started = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    try:
        with Progress("loading", total=(rounds + 1) * len(ways), unit="passes", enabled=progress) as bar:
            for number in range(rounds + 1):
                for name, way in ways.items():
                    rate = _rate(way, number)
                    if number:
                        rates[name].append(rate)
                    bar.update(1, f"{name} {rate:.0f}/s")
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        {
            "name": name,
            "images_per_s": round(medians[name], 1),
            "all": [round(rate, 1) for rate in rates[name]],
        }
        for name in ways
    ]
    ratio = medians[OURS] / max(medians[TENSOR], medians[PILLOW])
    return {
        "images": len(source),
        "batch_size": batch_size,
        "rounds": rounds,
        "rows": rows,
        "ratio": round(ratio, 3),
        "seconds": round(time.monotonic() - started, 1),
    }


def _rate(way: Callable[[int], Any], number: int) -> float:
    started = time.process_time()  # of this process alone: neighbours on the machine cost waiting, not work
    count = sum(len(labels) for _, labels in way(number))
    return count / (time.process_time() - started)


def _torchvision(root: str, batch_size: int, *, pillow: bool) -> Callable[[int], Any]:
    """Return what torchvision's guide recommends: `ImageFolder`, transforms v2 and a DataLoader."""
    from torchvision.datasets import ImageFolder as TorchvisionFolder
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2

    wanted = Preprocessing()
    ends = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(wanted.mean), list(wanted.std))]
    crop = [v2.RandomResizedCrop(wanted.size, antialias=True), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*crop, v2.ToImage(), *ends] if pillow else [*crop, *ends])
    extra = {} if pillow else {"loader": lambda path: decode_image(read_file(path), mode=ImageReadMode.RGB)}
    folder = TorchvisionFolder(root, transform=transform, **extra)
    loader = torch.utils.data.DataLoader(folder, batch_size, shuffle=True, drop_last=True)
    return lambda _number: loader
