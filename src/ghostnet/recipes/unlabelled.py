"""Images without labels: each is given the class that a teacher answers, so that a network can be taught to agree.

What is then called top-1 is the share of held-out images on which both agree. Left out: images that the teacher is
unsure of; they are learnt as well, from its probabilities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from ghostnet import data
from ghostnet.errors import InputError
from ghostnet.recipes.head import output_count
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.sets import ImageSets, preprocessing_of, preprocessing_of_teacher
from ghostnet.train import predict


def answered_sets(
    recipe: Recipe, model: nn.Module, teacher: nn.Module | None, *, progress: bool = False
) -> ImageSets:
    """Return the images below a recipe's folder with a teacher's answers for labels, a share of them held out.

    Args:
        recipe: its `data` is a folder of images; subfolders mean nothing.
        model: the network that is to learn.
        teacher: a classifier, given images as its file says; the class names there become those of the sets, where it
            has any. It may be `model`.
        progress: show its work on standard error.

    Raises:
        InputError: no teacher or one of another number of classes, no folder, fewer than two images that can be read,
            or one that cannot and `strict`.
    """
    if teacher is None:
        raise InputError(
            '`labels` (="teacher") needs a teacher; name a trained network (--teacher FILE or teacher=FILE)'
        )
    if output_count(model) != output_count(teacher):
        raise InputError(
            f"the network has {output_count(model)} classes and its teacher {output_count(teacher)}; a network learns "
            "from one with the same classes"
        )
    folder = Path(recipe.data).expanduser()
    if recipe.data == "cifar10" or not folder.is_dir():
        raise InputError(f'`labels` (="teacher") is for a folder of images, and {recipe.data} is none')
    images = data.UnlabelledImages(folder)
    wanted = preprocessing_of(recipe, model)
    if teacher is not model:
        wanted = preprocessing_of_teacher(teacher, wanted)
    found = predict(teacher, images.paths, wanted, top_k=1, strict=recipe.strict, progress=progress)
    readable = [number for number, answer in enumerate(found) if not answer.error]
    labels = np.asarray([found[number].indices[0] for number in readable], dtype=np.int64)
    names = (getattr(teacher, "ghostnet_info", None) or {}).get("classes") or ()
    classes = names if len(names) == output_count(teacher) else ()
    answered = data.Subset(images, readable, labels=labels, classes=classes)
    return ImageSets(*data.split_at_random(answered, recipe.held_out_fraction, recipe.seed))
