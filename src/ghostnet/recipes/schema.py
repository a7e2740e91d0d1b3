"""Recipes: flat TOML files, one a run, checked key by key; `key=value` overrides win over the file.

A recipe names a network, what to train it on and how. The resolved recipe goes into the run's result.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from ghostnet import models
from ghostnet.convert import PRUNE_METHODS, check_method
from ghostnet.data import CIFAR10_MEAN, CIFAR10_STD
from ghostnet.errors import InputError, unknown_name
from ghostnet.train import TrainSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent
_Kind = TypeVar("_Kind", bound=pydantic.BaseModel)


class Recipe(pydantic.BaseModel):
    """One training run, on CIFAR-10 or on images of one's own.

    Attributes:
        name: stem of the recipe's file.
        exhibit: folder of `results/` that the result belongs to.
        model: name of the zoo, or of a network from outside (`models.outside_of`); a file behind that is its `weights`.
        model_args: arguments of the builder.
        weights: packaged tag or file for `create_model`; empty for fresh weights drawn from `seed`. In this key,
            `start` and `teacher`, "@resnet56" means the network that the recipe resnet56 left in the output folder.
        start: saved network to start from instead of `model`; empty for none.
        teacher: saved network, or name as in `model`, to distil from; "dense" for the network before its conversion;
            empty for none.
        teacher_weights: tag or file of weights for a teacher that is a name.
        method: how the network is made cheaper: "ghost" (if `convert_ratio` or `allocation` says so), or a pruning
            method.
        macs: share of the multiply-accumulates that pruning leaves, or a conversion whose `allocation` is measured.
        streams: layers whose maps are added keep the same filters, see `ghostify`, or lose channels together, see
            `prune`. Left out, a conversion that starts from the dense weights does so, unless `feature_layers` compare
            the maps, and pruning does not.
        sparsity_epochs: of "sss", before the `epochs` that follow; its training with sparse factors.
        sparsity_learning_rate: of the same, constant.
        convert_ratio: above 1, the network is converted by `ghostify` with this ratio before it is trained.
        allocation: "uniform" gives each layer `convert_ratio`; "measured" gives it the ratio that costs the network's
            answers least at `macs` (`convert.sensitivity`).
        convert_init: "dense" or "random".
        cheap_kernel_size: d of the conversion.
        calibration_images: training images that the conversion may look at; Ghost conversion leaves their labels out.
        data: "cifar10", or the path of a folder with a subfolder a class, or of shards; `train` and `val` in it are
            taken where they are there, otherwise images are held out class by class.
        labels: "folders" names classes by subfolders; "teacher" takes all images below `data` without labels and learns
            the teacher's answers; top-1 is then the share of held-out images on which both agree.
        held_out_fraction: share of each class that is held out where there is no `val`.
        mean, std: per-channel normalisation of pixel values in [0, 1]; the weights decide it.
        batch_size: images a step, over all processes.
        crop_padding, crop_border, mirror, cutout: see `data.Augmentation`; `crop_border` and `cutout` are for CIFAR-10
            only.
        seed: of weights, shuffling, augmentation and the split.
        image_size: side in pixels that images of one's own are brought to; 0 takes the network's.
        crop_fraction, interpolation: see `data.Preprocessing`.
        augmentation: "resized_crop" or "padded_crop" (see `data.CropAugmentation`), for images of one's own.
        crop_scale: least and largest share of the area of a resized crop.
        workers: processes that decode images of one's own, for each training process; 0 for none.
        strict: stop at an image that cannot be read, instead of leaving it out.
        evaluate_every: epochs between evaluations on the held-out images, the best network being kept beside the
            last; 0 evaluates at the end only.
        tensorboard: write TensorBoard's event files into the output folder.

    The other fields are those of `train.TrainSettings`.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=False, protected_namespaces=(), allow_inf_nan=False
    )

    name: str = ""
    exhibit: str = "runs"
    model: str
    model_args: dict[str, float | int | str] = {}
    weights: str = ""
    start: str = ""
    teacher: str = ""
    teacher_weights: str = ""
    method: str = "ghost"
    macs: float = pydantic.Field(0.5, gt=0, lt=1)
    streams: bool | None = None
    sparsity_epochs: float = pydantic.Field(2.0, gt=0)
    sparsity_learning_rate: float = pydantic.Field(0.05, gt=0)
    convert_ratio: int = pydantic.Field(1, ge=1)
    allocation: Literal["uniform", "measured"] = "uniform"
    convert_init: Literal["dense", "random"] = "dense"
    cheap_kernel_size: int = pydantic.Field(3, ge=1)
    calibration_images: int = pydantic.Field(2048, ge=1, le=50_000)
    data: str = pydantic.Field("cifar10", min_length=1)
    labels: Literal["folders", "teacher"] = "folders"
    held_out_fraction: float = pydantic.Field(0.2, gt=0, lt=1)
    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_STD
    batch_size: int = pydantic.Field(128, ge=1)
    crop_padding: int = pydantic.Field(4, ge=0)
    crop_border: Literal["reflect", "zeros"] = "reflect"
    mirror: bool = True
    cutout: int = pydantic.Field(0, ge=0)
    seed: int = pydantic.Field(0, ge=0, lt=2**63)
    image_size: int = pydantic.Field(0, ge=0)
    crop_fraction: float = pydantic.Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    augmentation: Literal["resized_crop", "padded_crop"] = "resized_crop"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    workers: int = pydantic.Field(0, ge=0)
    strict: bool = False
    evaluate_every: float = pydantic.Field(0.0, ge=0)
    tensorboard: bool = False
    epochs: float = TrainSettings.epochs
    optimizer: str = TrainSettings.optimizer
    learning_rate: float = TrainSettings.learning_rate
    schedule: str = TrainSettings.schedule
    warmup_fraction: float = TrainSettings.warmup_fraction
    milestones: tuple[float, ...] = TrainSettings.milestones
    momentum: float = TrainSettings.momentum
    nesterov: bool = TrainSettings.nesterov
    weight_decay: float = TrainSettings.weight_decay
    decay_norms: bool = TrainSettings.decay_norms
    label_smoothing: float = TrainSettings.label_smoothing
    ema_decay: float = TrainSettings.ema_decay
    distillation_weight: float = TrainSettings.distillation_weight
    temperature: float = TrainSettings.temperature
    feature_layers: tuple[str, ...] = TrainSettings.feature_layers
    feature_weight: float = TrainSettings.feature_weight
    bf16: bool = TrainSettings.bf16
    compile: bool = TrainSettings.compile
    checkpoint_seconds: float = TrainSettings.checkpoint_seconds
    accumulation_steps: int = TrainSettings.accumulation_steps
    freeze_batch_norm: bool = TrainSettings.freeze_batch_norm
    gradient_clip: float = TrainSettings.gradient_clip

    @pydantic.model_validator(mode="before")
    @classmethod
    def _files_apart(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        for network, weights in (("model", "weights"), ("teacher", "teacher_weights")):
            values[network], file = name_and_file(values.get(network), values.get(weights))
            values |= {weights: file} if file else {}
        return {key: value for key, value in values.items() if value is not None}

    @pydantic.field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return check_method(value)

    @property
    def converts(self) -> bool:
        """Whether the network is made cheaper before it is trained."""
        return self.convert_ratio > 1 or self.method != "ghost" or self.allocation == "measured"

    def settings(self) -> TrainSettings:
        """Return the part that the training loop takes."""
        return TrainSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainSettings)})


def name_and_file(network: Any, weights: Any) -> tuple[Any, Any]:
    """Return a network's name and its weights, which may stand behind the name: "nets.py:Net=mine.pth".

    Raises:
        InputError: they stand there and are given, too.
    """
    outside = models.outside_of(network) if isinstance(network, str) else None
    if outside is None or outside.weights is None:
        return network, weights
    if weights:
        raise InputError(f"{network} names its weights already; leave {weights} out")
    return outside.builder, outside.weights


# Keys that only something reads, the keys that decide whether it happens, whether it does, and what to say.
_Use = tuple[tuple[str, ...], tuple[str, ...], Callable[[Recipe], bool], str]
_CONVERSION = ("method", "convert_ratio", "allocation")


def _has_streams(recipe: Recipe) -> bool:
    """Tell whether layers that write into one stream can be made cheaper together."""
    if recipe.method == "ghost":
        return recipe.converts and recipe.convert_init == "dense" and not recipe.feature_layers
    return not PRUNE_METHODS[recipe.method].one_reader


_USES: tuple[_Use, ...] = (
    (
        ("convert_ratio", "allocation"),
        ("method",),
        lambda recipe: recipe.method == "ghost",
        'is for method = "ghost"; leave it out, or leave out `method`',
    ),
    (
        ("macs",),
        _CONVERSION,
        lambda recipe: recipe.method != "ghost" or recipe.allocation == "measured",
        'is for a pruning method or allocation = "measured"; leave it out, or set one of them',
    ),
    (
        ("streams",),
        (*_CONVERSION, "convert_init", "feature_layers"),
        _has_streams,
        "is for a conversion that starts from the dense weights and compares no maps with a teacher's, and for the "
        "pruning methods l1, sss and taylor; leave it out",
    ),
    (
        ("convert_init", "cheap_kernel_size"),
        _CONVERSION,
        lambda recipe: recipe.method == "ghost" and recipe.converts,
        "is for a conversion to Ghost convolutions; leave it out, or set convert_ratio",
    ),
    (
        ("sparsity_epochs", "sparsity_learning_rate"),
        ("method",),
        lambda recipe: recipe.method == "sss",
        'is for method = "sss"; leave it out, or set that',
    ),
    (
        ("teacher_weights",),
        ("teacher",),
        lambda recipe: recipe.teacher not in ("", "dense"),
        "is for a `teacher` that is a name; leave it out, or name one",
    ),
    (
        ("temperature", "distillation_weight", "feature_layers", "feature_weight"),
        ("teacher",),
        lambda recipe: bool(recipe.teacher),
        "is for a `teacher`; leave it out, or name one",
    ),
    (
        ("milestones",),
        ("schedule",),
        lambda recipe: recipe.schedule == "step",
        'is for schedule = "step"; leave it out, or set that',
    ),
    (
        (
            *("image_size", "crop_fraction", "interpolation", "augmentation", "crop_scale"),
            *("held_out_fraction", "workers", "strict"),
        ),
        ("data",),
        lambda recipe: recipe.data != "cifar10",
        "is for images of your own; leave it out, or set `data`",
    ),
)


def _refuse_idle_keys(recipe: Recipe, overridden: Container[str], source: str, *, taught: bool) -> None:
    """Raise where a key was given that nothing reads: the result would record it as if it had been.

    A file's key is let pass where an override has switched off what reads it (`teacher=` leaves `temperature` idle).
    """
    for keys, deciders, happens, rule in _USES:
        if happens(recipe) or (taught and "teacher" in deciders):
            continue
        switched_off = any(key in overridden for key in deciders)
        for key in keys:
            if key in recipe.model_fields_set and (key in overridden or not switched_off):
                raise InputError(f"recipe {source}: `{key}` (={getattr(recipe, key)!r}) {rule}")


def list_recipes() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), *, taught: bool = False) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name_or_path: a packaged recipe's name or the path of a TOML file.
        overrides: `key=value` strings; values are read as TOML, and as plain text where that fails.
        taught: the caller gives a teacher, whatever the recipe's keys say.

    Raises:
        InputError: no such recipe, TOML that does not parse, an unknown key (near match), a wrong type, or a key that
            nothing would read.

    Example:
        >>> load_recipe("resnet9_050", ["epochs=2"]).epochs
        2.0
    """
    values, source = read_recipe_file(name_or_path, overrides, _FOLDER)
    recipe = checked_recipe(Recipe, values, source)
    recipe.settings()  # checks ranges before anything is loaded
    overridden = {override.partition("=")[0].strip() for override in overrides}
    _refuse_idle_keys(recipe, overridden, source, taught=taught)
    return recipe


def read_recipe_file(name_or_path: str, overrides: Sequence[str], folder: Path) -> tuple[dict[str, Any], str]:
    """Return a TOML file's keys, overrides applied, and what errors call the file.

    Args:
        name_or_path: the name of a recipe in `folder`, or the path of a TOML file.
        overrides: `key=value` strings.
        folder: of the packaged recipes.

    Raises:
        InputError: no such recipe, TOML that does not parse, or an override without "=".
    """
    given = Path(name_or_path)
    path = given if given.suffix == ".toml" else folder / f"{name_or_path}.toml"
    if not path.is_file():
        if given.suffix == ".toml":
            raise InputError(f"there is no recipe file {given}")
        raise unknown_name("recipe", name_or_path, [known.stem for known in folder.glob("*.toml")])
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid TOML: {error}") from error
    values.setdefault("name", path.stem)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"override {override!r} must have the form key=value")
        values[key.strip()] = _value(text.strip())
    return values, path.name


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def checked_recipe(kind: type[_Kind], values: dict[str, Any], source: str) -> _Kind:
    """Return a recipe of a kind from its keys.

    Raises:
        InputError: an unknown key (near match), or a value of the wrong type or outside its range.
    """
    for key in values:
        if key not in kind.model_fields:
            raise unknown_name(f"key in recipe {source}", key, kind.model_fields)
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"recipe {source}: `{place}` (={first.get('input')!r}): {said}") from error
