"""The network that a recipe distils from: loaded, held against the classes that are learnt, and adapted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from ghostnet import data, deploy, models
from ghostnet.errors import InputError
from ghostnet.recipes.head import count_outputs
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.sets import Sets, preprocessing_of_teacher
from ghostnet.train import AdaptedTeacher

_SHOWN = 5  # class names in a message


def load_teacher(recipe: Recipe) -> nn.Module | None:
    """Return the network to distil from, unless there is none or it is the one before conversion.

    Raises:
        InputError: "dense" where nothing is converted or nothing was trained, or a network that cannot be loaded.
    """
    if recipe.teacher == "dense" and not recipe.converts:
        raise InputError(
            f"recipe {recipe.name} converts nothing, so `teacher` cannot be 'dense'; name a network"
        )
    if recipe.teacher == "dense" and _untrained(recipe):
        raise InputError(
            f"`teacher` (='dense') has nothing to teach: {recipe.model} starts from random weights; name trained ones "
            "(weights=… or start=…), or leave `teacher` out"
        )
    if recipe.teacher in ("", "dense"):
        return None
    if models.outside_of(recipe.teacher) is not None:
        return models.create_outside(recipe.teacher, recipe.teacher_weights or None)
    if recipe.teacher_weights:
        return models.create_model(recipe.teacher, weights=recipe.teacher_weights)
    return models.load(recipe.teacher)


def _untrained(recipe: Recipe) -> bool:
    """Tell whether a recipe's network has the weights that were drawn for it; code of one's own may give it better."""
    outside = models.outside_of(recipe.model)
    own = outside is not None and outside.library is None
    return not (recipe.start or recipe.weights or own)


def adapted_teacher(teacher: nn.Module, recipe: Recipe, model: nn.Module, sets: Sets) -> nn.Module:
    """Return the teacher as the training of `model` needs it: images as it wants them, answers in the set's order.

    Its file, or timm's configuration of it, says mean, deviation and size of its images; what it leaves out is as for
    the student. Images of another size are resized to the teacher's own, which suits networks that take one size alone
    as well as those that take any; with `feature_layers` they stay, since maps have to be of one shape there.

    Names decide. A teacher with as many classes of other names is an error and no note: renamed folders look just like
    other classes, or like the same ones in another order, and a wrong guess teaches nonsense without a sign. Networks
    that are fine-tuned are held to the same rule (other names: a fresh classifier). Of a teacher whose file names no
    classes the number alone is checked. Where the labels are the teacher's own answers there is nothing to compare.

    Args:
        teacher: from `load_teacher`.
        recipe: what is run.
        model: that is to learn.
        sets: what it learns from.

    Raises:
        InputError: another number of classes, classes of other names, or a teacher that does not run on such images.
    """
    given = data.Preprocessing.from_info(sets.info, data.Preprocessing())
    wanted = preprocessing_of_teacher(teacher, given)
    if recipe.feature_layers:
        wanted = dataclasses.replace(wanted, size=given.size)
    order = None
    count = count_outputs(teacher, wanted.size, f"the teacher {recipe.teacher}")
    if recipe.labels != "teacher":
        order = _order(
            teacher, count, recipe, learnt=count_outputs(model, given.size, "the network"), sets=sets
        )
    alike = all(getattr(given, name) == getattr(wanted, name) for name in ("size", "mean", "std"))
    quick = quick_teacher(teacher, recipe, wanted.size)
    if alike and order is None:
        return quick
    return AdaptedTeacher(quick, order=order, given=given, wanted=wanted)


def quick_teacher(teacher: nn.Module, recipe: Recipe, size: int) -> nn.Module:
    """Return a teacher rewritten as for inference (`deploy.optimize`): 0.64 to 1.0 of its time on one CPU core.

    Left as it is: on a machine with an accelerator, where nothing was measured; with `feature_layers`, which name its
    modules; and where the rewriting fails.

    Args:
        teacher: from `load_teacher`, or the network before its conversion; it is not changed.
        recipe: what is run.
        size: rows and columns of the images that the teacher sees.
    """
    if recipe.feature_layers or torch.accelerator.is_available():
        return teacher
    try:
        return deploy.optimize(teacher, target="eager", input_size=(3, size, size))
    except (InputError, RuntimeError):
        return teacher


def _order(teacher: nn.Module, count: int, recipe: Recipe, *, learnt: int, sets: Sets) -> list[int] | None:
    """Return which output of the teacher each class of the set is; None where all are in their places."""
    if count != learnt:
        raise InputError(
            f"the teacher {recipe.teacher} tells {count} classes apart and the network learns {learnt}; take a teacher "
            "that was trained on the classes of this set, or leave `teacher` out"
        )
    known = known_classes(teacher, count)
    if known is None or known == list(sets.classes):
        return None
    if sorted(known) != sorted(sets.classes):
        raise InputError(
            f"the teacher {recipe.teacher} knows the classes {_told(known)} and {recipe.data} has "
            f"{_told(sets.classes)}; if they are the same, name the folders as the teacher's classes"
        )
    return [known.index(name) for name in sets.classes]


def known_classes(model: nn.Module, count: int) -> list[str] | None:
    """Return the names of a network's classes in the order of its outputs, where its file says them.

    Args:
        model: its file may state `classes`.
        count: of its outputs; a file that names another number speaks of an earlier classifier.
    """
    names = [str(name) for name in (getattr(model, "ghostnet_info", None) or {}).get("classes") or ()]
    numbered = names == [str(number) for number in range(count)]  # stands for outputs without names
    return names if len(names) == count and not numbered else None


def _told(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
