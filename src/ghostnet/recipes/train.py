"""Run a recipe: data, network, conversion, teacher and loop meet here; the result is JSON beside the saved network.

Under `torchrun` every process runs this; the first one writes the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostnet import data, models
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite
from ghostnet.measure import profile
from ghostnet.recipes.conversion import convert_network
from ghostnet.recipes.head import count_outputs, give_fresh_head_, output_count
from ghostnet.recipes.identity import conversion_identity, identity_of
from ghostnet.recipes.result import make_result, source_commit, write_json
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.sets import Sets, cifar10_sets, image_sets, open_image_sets, preprocessing_of
from ghostnet.recipes.teacher import adapted_teacher, load_teacher, quick_teacher
from ghostnet.recipes.unlabelled import answered_sets
from ghostnet.train import (
    Evaluation,
    TrainResult,
    Watch,
    evaluate,
    fit,
    join_processes,
    other_run,
    tensorboard_log,
    union_over_processes,
    wait_for_first,
)

_CONVERTED = ".converted.safetensors"
_SPARSITY = ".sparsity.checkpoint"


def build(recipe: Recipe, classes: tuple[str, ...] | None = None) -> nn.Module:
    """Return the network that a recipe starts from, before any conversion.

    Args:
        recipe: says which, and with which weights.
        classes: names of the classes to tell apart; a network whose file names others, or none, gets a fresh
            classifier. None leaves the network's own.

    Raises:
        InputError: weights or a name that cannot be used, or a fresh classifier on a network that is its own teacher.
    """
    args: dict[str, Any] = dict(recipe.model_args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.start:
            model = models.load(recipe.start)
        elif models.outside_of(recipe.model) is not None:
            model = _from_outside(recipe, classes)
        elif recipe.weights or classes is None:
            model = models.create_model(recipe.model, weights=recipe.weights or None, **args)
        else:
            return models.create_model(recipe.model, **{**args, "num_classes": len(classes)})
    if classes is not None and not _tells_apart(model, classes, recipe):
        if recipe.teacher == "dense":
            raise InputError(
                f"`teacher` (='dense') has nothing to teach: the classifier is drawn anew for the {len(classes)} "
                f"classes of {recipe.data}, which are not those of the network's file; train it on them first, without "
                "converting, and convert the result"
            )
        give_fresh_head_(model, len(classes), seed=recipe.seed)
    return model


def _from_outside(recipe: Recipe, classes: tuple[str, ...] | None) -> nn.Module:
    if recipe.model_args:
        raise InputError(
            f"`model_args` is for networks of the zoo; {recipe.model} takes its arguments in the name, if any"
        )
    return models.create_outside(recipe.model, recipe.weights or None, new_head=classes is not None)


def _tells_apart(model: nn.Module, classes: tuple[str, ...], recipe: Recipe) -> bool:
    """Tell whether a network's classifier is for these classes; of one that does not say, their number decides.

    Raises:
        InputError: it is for another number and built by one's own code, which alone can change that.
    """
    own = _own_builder(recipe)
    if own is not None:
        count = count_outputs(model, preprocessing_of(recipe, model).size, own)
        if count != len(classes):
            raise InputError(
                f"{own} tells {count} classes apart and {recipe.data} has {len(classes)}; let it be built "
                f"for {len(classes)}, as in FILE.py:Net(num_classes={len(classes)})"
            )
        return True
    known = (getattr(model, "ghostnet_info", None) or {}).get("classes")
    return known in (None, list(classes)) and output_count(model) == len(classes)


def _own_builder(recipe: Recipe) -> str | None:
    """Return what of the user's own code builds a recipe's network, or None."""
    outside = None if recipe.start else models.outside_of(recipe.model)
    return outside.builder if outside is not None and outside.library is None else None


def with_references(recipe: Recipe, out_dir: str | Path) -> Recipe:
    """Return a recipe whose "@name" keys are the files that those recipes left in the output folder.

    Raises:
        InputError: the network is not there yet.
    """
    found = {}
    for key in ("weights", "start", "teacher"):
        value = getattr(recipe, key)
        if value.startswith("@"):
            path = Path(out_dir) / f"{value[1:]}-seed{recipe.seed}.safetensors"
            if not path.is_file():
                raise InputError(
                    f"recipe {recipe.name}: `{key}` (={value!r}) needs {path}; `ghostnet reproduce` runs that first"
                )
            found[key] = str(path)
    return recipe.model_copy(update=found)


def _converted(
    dense: nn.Module,
    recipe: Recipe,
    sets: Sets,
    *,
    saved: Path,
    checkpoint: Path,
    sparsity: Path,
    progress: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    """Convert `dense`, or take up the conversion that an interrupted run left at `saved`, or half of it at `sparsity`.

    Raises:
        InputError: that conversion is another one, and there is a checkpoint of its training, or half of another one.
    """
    wanted = conversion_identity(identity_of(recipe, sets.told))
    if saved.exists():
        own = _own_builder(recipe)
        model = models.load(saved, model=None if own is None else models.create_outside(own))
        info = dict(getattr(model, "ghostnet_info", None) or {})
        made = info.pop("identity", None)
        other = sorted(key for key in wanted if made is not None and made.get(key) != wanted[key])
        if other and checkpoint.exists():
            raise other_run(checkpoint, other[0], made.get(other[0]), wanted[other[0]])
        if checkpoint.exists() or (made is not None and not other):
            return model, info
    stages = {"dense": evaluate(dense, _alone(sets.held_out), progress=progress).to_dict()}
    model, report = convert_network(
        dense, recipe, sets, checkpoint=sparsity, identity=wanted, progress=progress
    )
    stages["as converted"] = evaluate(model, _alone(sets.held_out), progress=progress).to_dict()
    info = {"stages": stages, "conversion": report.to_dict()}
    models.save(model, saved, info={**info, "identity": wanted})
    sparsity.unlink(missing_ok=True)
    return model, info


@dataclass(frozen=True)
class _WholeSet:
    """All images of a set for one process, batch by batch: `evaluate` shares out what can be asked for an epoch."""

    batches: data.Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.batches)


def _alone(batches: data.Batches) -> Any:
    """Return all batches for this process: the first one converts while the others wait."""
    return _WholeSet(batches) if join_processes()[1] > 1 else batches


def run_recipe(
    recipe: Recipe,
    out_dir: str | Path,
    *,
    data_root: str | None = None,
    progress: bool = True,
    force: bool = False,
) -> dict[str, Any]:
    """Train as a recipe says, going on from a checkpoint in `out_dir` if there is one.

    Args:
        recipe: from `load_recipe`.
        out_dir: gets `<name>-seed<k>.safetensors` (the last network), `.json`, `.best.safetensors` where
            `evaluate_every` is set, `.tensorboard/` where asked for and, while it runs, `.checkpoint`, or
            `.sparsity.checkpoint` while method "sss" chooses channels.
        data_root: where CIFAR-10 is, if not in the cache.
        progress: show progress on standard error.
        force: overwrite an earlier result.

    Returns:
        The result record that was written.

    Raises:
        InputError: the result exists and `force` is false; data, a teacher or a start that cannot be loaded; a method
            that trains before it chooses, in several processes.
    """
    refuse_earlier(stem_of(recipe, out_dir), stem_of(recipe, out_dir, ".checkpoint"), force=force)
    run = prepare(recipe, out_dir, data_root=data_root, progress=progress)
    trained = fit(
        run.model,
        run.sets.training,
        run.recipe.settings(),
        teacher=run.teacher,
        watch=_watch(run),
        checkpoint=run.path(".checkpoint"),
        identity=run.identity,
        progress=run.progress,
        description=recipe.name,
    )
    kept = None if force else run.path(".checkpoint")
    result = finish(run, trained, _final(trained, run.model, run.sets, run.progress), kept=kept)
    if run.chief:
        run.path(".checkpoint").unlink(missing_ok=True)
    return result


def refuse_earlier(stem: Path, checkpoint: Path, *, force: bool) -> None:
    """Raise where a run would replace an earlier one's files, unless `force` is set or it goes on from its checkpoint.

    Args:
        stem: path of the run's files without ending.
        checkpoint: of the run; networks beside it are its own.
        force: they may be replaced.

    Raises:
        InputError: one is there.
    """
    endings = [".json"] if checkpoint.exists() else [".json", ".safetensors", ".best.safetensors"]
    for ending in endings:
        refuse_overwrite(f"{stem}{ending}", force=force)


def refuse_later(result: Path, checkpoint: Path) -> None:
    """Raise where another run has written its result while this one trained; nothing of either is lost.

    Args:
        result: the record that would be replaced.
        checkpoint: of this run, which `fit` wrote when it was done.

    Raises:
        InputError: the record is there.
    """
    if result.exists():
        raise InputError(
            f"another run wrote {result} meanwhile; what this one trained is kept in {checkpoint}: move that into "
            "another folder and repeat the command with --out there"
        )


def stem_of(recipe: Recipe, out_dir: str | Path, ending: str = "") -> Path:
    """Return the file of a run with that ending: "<out_dir>/<name>-seed<k><ending>"."""
    return Path(f"{Path(out_dir) / f'{recipe.name}-seed{recipe.seed}'}{ending}")


@dataclass(frozen=True)
class PreparedRun:
    """A recipe with everything that training needs.

    Attributes:
        asked: the recipe as it was given; results name recipes, not files of this machine.
        recipe: with references to other runs resolved.
        model: converted, where the recipe converts.
        sets: its data.
        teacher: or None.
        info: what conversion found.
        stem: path of the run's files without ending.
        chief: this process writes them.
        progress: show progress.
    """

    asked: Recipe
    recipe: Recipe
    model: nn.Module
    sets: Sets
    teacher: nn.Module | None
    info: dict[str, Any]
    stem: Path
    chief: bool
    progress: bool

    @property
    def kept(self) -> dict[str, Any]:
        """What the saved network says of itself, its accuracy apart."""
        own = _own_builder(self.recipe)
        built_by = {} if own is None else {"built_by": own}
        return {"recipe": self.recipe.name, "classes": list(self.sets.classes), **self.sets.info, **built_by}

    @property
    def score(self) -> str:
        """What the share of right answers is called in the saved network; without labels right is what agrees."""
        return "top1" if self.recipe.labels == "folders" else "agreement"

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this run must share with it."""
        return identity_of(self.recipe, self.sets.told)

    def path(self, ending: str) -> Path:
        """Return a file of the run."""
        return Path(f"{self.stem}{ending}")


def prepare(
    recipe: Recipe,
    out_dir: str | Path,
    *,
    data_root: str | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> PreparedRun:
    """Load what a recipe names and convert its network; arguments and errors as for `run_recipe`.

    Args:
        checkpoint: where training goes on from, if it is there; None is the run's own.
    """
    source_commit()
    rank, processes = join_processes()
    chief = rank == 0
    progress = progress and chief
    if (
        recipe.method == "sss" and processes > 1
    ):  # its training would wait for processes that wait for the conversion
        raise InputError(
            "method 'sss' trains before it chooses channels, in one process; run it without torchrun"
        )
    asked, stem = recipe, stem_of(recipe, out_dir)
    recipe = with_references(recipe, out_dir)
    teacher = load_teacher(recipe)
    model, sets = _model_and_sets(recipe, teacher, data_root, progress)
    if teacher is not None:
        teacher = adapted_teacher(teacher, recipe, model, sets)
    info: dict[str, Any] = {}
    if recipe.converts:
        if recipe.teacher == "dense":
            teacher = quick_teacher(model, recipe, sets.input_size[-1])
        with wait_for_first():
            files = {
                "saved": Path(f"{stem}{_CONVERTED}"),
                "checkpoint": checkpoint or Path(f"{stem}.checkpoint"),
                "sparsity": Path(f"{stem}{_SPARSITY}"),
            }
            model, info = _converted(model, recipe, sets, **files, progress=progress)
    return PreparedRun(asked, recipe, model, sets, teacher, info, stem, chief, progress)


def finish(
    run: PreparedRun,
    trained: TrainResult,
    accuracy: Evaluation,
    more: Mapping[str, Any] | None = None,
    *,
    kept: Path | None,
) -> dict[str, Any]:
    """Write the network and the record of a trained run and return the record.

    Args:
        run: its model holds the result.
        trained: from `fit`.
        accuracy: on the held-out images.
        more: metrics to add.
        kept: the checkpoint that stays where another run's result is there by now; None overwrites that.

    Raises:
        InputError: it is there.
    """
    counts = profile(run.model, run.sets.input_size)
    metrics = {
        **accuracy.to_dict(),
        "params": counts.params,
        "macs": counts.macs,
        "steps": trained.steps,
        "train_seconds": round(trained.seconds, 1),
        "curve": trained.curve,
        "evaluations": trained.evaluations,
        "skipped": union_over_processes(run.sets.skipped()),
        **run.info,
        **(more or {}),
    }
    asked = run.asked
    result = make_result(
        asked.exhibit, metrics=metrics, seconds=trained.seconds, seed=asked.seed, recipe=asked.model_dump()
    )
    if run.chief:
        if kept is not None:
            refuse_later(run.path(".json"), kept)
        models.save(run.model.cpu(), run.path(".safetensors"), info={**run.kept, run.score: accuracy.top1})
        write_json(run.path(".json"), result)
        run.path(_CONVERTED).unlink(missing_ok=True)
    return result


def _model_and_sets(
    recipe: Recipe, teacher: nn.Module | None, data_root: str | None, progress: bool
) -> tuple[nn.Module, Sets]:
    if recipe.labels == "teacher":
        model = build(recipe)
        teacher = model if recipe.teacher == "dense" else teacher
        images = answered_sets(recipe, model, teacher, progress=progress)
        return model, image_sets(recipe, images, model)
    if recipe.data != "cifar10":
        images = open_image_sets(recipe)
        if len(images.classes) < 2:  # any network would be right about all of them
            raise InputError(
                f"{recipe.data} has one class {images.classes[0]!r}; a classifier needs two; is {recipe.data} one "
                "level too high?"
            )
        model = build(recipe, images.classes)
        return model, image_sets(recipe, images, model)
    model = build(recipe)
    with wait_for_first():
        dataset = data.load_cifar10(data_root, progress=progress)
    return model, cifar10_sets(recipe, dataset)


def _watch(run: PreparedRun) -> Watch:
    recipe = run.recipe
    log = tensorboard_log(run.path(".tensorboard")) if recipe.tensorboard and run.chief else None
    if not recipe.evaluate_every:
        return Watch(log=log)

    def keep(model: nn.Module, found: Evaluation) -> None:
        models.save(model, run.path(".best.safetensors"), info={**run.kept, run.score: found.top1})

    return Watch(run.sets.held_out, recipe.evaluate_every, keep, log)


def _final(trained: TrainResult, model: nn.Module, sets: Sets, progress: bool) -> Evaluation:
    """Return the last network's accuracy, measured in the loop already or now."""
    if trained.evaluations and trained.evaluations[-1]["step"] == trained.steps:
        last = {key: value for key, value in trained.evaluations[-1].items() if key not in ("step", "epoch")}
        return Evaluation(**last)  # type: ignore[arg-type]
    return evaluate(model, sets.held_out, progress=progress)
