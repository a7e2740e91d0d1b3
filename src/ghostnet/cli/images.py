"""Images of the user's own for the verbs: how a network wants them, its classes' names, which files are meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghostnet.cli.cifar10 import normalisation_of
from ghostnet.cli.network import RGB, input_size_of
from ghostnet.errors import InputError, first_line

if TYPE_CHECKING:
    from torch import nn

    from ghostnet.data import ImageBatches, ImageSource, Preprocessing

_SMALL = 64  # pixels; networks made for such images are given the whole image
_IMAGENET_CLASSES = 1000
DATA_HELP = "cifar10, a folder with a subfolder a class, or a folder of shards (.tar)."


def preprocessing_for(
    model: nn.Module,
    *,
    normalisation: str | None = None,
    image_size: int | None = None,
    from_files: bool = True,
) -> Preprocessing:
    """Return how a network wants its images.

    Options win over what the network's file says; for networks of timm their own configuration comes next, then what
    is usual at their size: the whole image with CIFAR-10's normalisation up to 64 pixels, ImageNet's above.

    Args:
        model: the network.
        normalisation: name of one, or None.
        image_size: side in pixels, or None.
        from_files: whether image files are read with it, which gives RGB.

    Raises:
        InputError: an unknown normalisation, a size below 1, or a network that does not take RGB and `from_files`.
    """
    from ghostnet.data import Preprocessing, image_info

    channels, side, _ = input_size_of(model, None)
    if from_files and channels != RGB:
        raise InputError(
            f"the network takes images of {channels} channels, and files are read as RGB, which has {RGB}; "
            "run it from Python on images of your own"
        )
    small = side <= _SMALL
    mean, std = normalisation_of(model, normalisation, "cifar10" if small else "imagenet")
    usual = Preprocessing(side, 1.0 if small else 0.875, mean=mean, std=std)
    info = image_info(model)
    if normalisation is not None:
        info |= {"mean": mean, "std": std}
    if image_size is not None:
        info["image_size"] = image_size
    return Preprocessing.from_info(info, usual)


def class_names(model: nn.Module, count: int) -> list[str]:
    """Return the names of a network's classes: its file's, ImageNet's for 1000 classes, else "class 0", ….

    Args:
        model: its file may state `classes`.
        count: how many classes the network tells apart.
    """
    known = (getattr(model, "ghostnet_info", None) or {}).get("classes")
    if known and len(known) == count:
        return [str(name) for name in known]
    if count == _IMAGENET_CLASSES:
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return [f"class {number}" for number in range(count)]


def labelled_for(model: nn.Module, path: str, count: int) -> ImageSource:
    """Open images to evaluate a network on, with labels as the network numbers its classes.

    Raises:
        InputError: nothing usable there, or classes that the network does not know.
    """
    from ghostnet import data

    source = data.open_held_out(path)
    known = [str(name) for name in (getattr(model, "ghostnet_info", None) or {}).get("classes") or ()]
    if known and len(known) == count and set(source.classes) <= set(known):
        return data.with_labels_of(source, known, path)
    # names that are numbers, but not the outputs' own, are names: folder 100 is no output 100
    named = all(name.isdecimal() for name in known) and known != [str(number) for number in range(count)]
    if known and (named or not all(name.isdecimal() for name in source.classes)):
        return data.with_labels_of(source, known, path)  # says which name is unknown
    return data.with_class_indices(source, count, path)


def evaluation_batches(
    model: nn.Module,
    path: str,
    wanted: Preprocessing,
    *,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
) -> ImageBatches:
    """Return batches of the images at `path` as the network wants them.

    Raises:
        InputError: as `labelled_for`.
    """
    from ghostnet import data

    source = labelled_for(model, path, count_classes(model, wanted.size))
    return data.ImageBatches(source, batch_size, preprocessing=wanted, workers=workers, strict=strict)


def count_classes(model: nn.Module, side: int) -> int:
    """Return how many numbers a network puts out for an image.

    Raises:
        InputError: the network does not run on images of that size, or is no classifier.
    """
    import torch

    from ghostnet.train import scores_of

    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else None
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, RGB, side, side, device=device))
    except Exception as error:  # timm's transformers assert their image's size
        raise InputError(
            f"the network does not run on images of {side}x{side} pixels: {first_line(error)}"
        ) from error
    return int(scores_of(logits).shape[1])


def image_files(given: Sequence[Path]) -> list[Path]:
    """Return the image files that are meant: files as they are, folders with all images below them.

    Raises:
        InputError: something is not there, or a folder without images.
    """
    from ghostnet.data import IMAGE_ENDINGS, list_images

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise InputError(f"{path} holds no images (files ending in {', '.join(IMAGE_ENDINGS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no image {path}")
    return list(dict.fromkeys(found))
