"""The keys of a detector's recipe: flat TOML like all recipes, with boxes instead of class folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from ghostnet.detect import DetectorSettings, light_settings
from ghostnet.recipes.schema import checked_recipe, read_recipe_file
from ghostnet.train import TrainSettings

_FOLDER = Path(__file__).parent


class DetectionRecipe(pydantic.BaseModel):
    """One training run of a detector.

    Attributes:
        name: stem of the recipe's file.
        exhibit: folder of `results/` that the result belongs to.
        detector: "retinanet" or "faster_rcnn".
        light: start from `detect.light_settings` instead of the paper's setting.
        backbone: name of the zoo, timm:NAME or torchvision:NAME.
        backbone_args: arguments of its builder.
        weights: packaged or published tag or file for it; empty for fresh weights drawn from `seed`.
        start: saved network to take as backbone instead, a converted one for example; empty for none.
        data: folder or JSON, see `data.open_detection`.
        train_split, held_out_split: its parts to train and to be measured on.
        bad_boxes: "error", or "drop" boxes without width or height or outside their image.
        batch_size: images a step, over all processes.
        longest: pixels; larger training images are reduced to it when they are read, held-out ones never. 0 keeps
            their size.
        keep_in_memory: decode each training image once; for small sets, without workers.
        mirror: flip at random.
        workers: processes that decode.
        seed: of weights, shuffling and mirroring.
        untrained: also measure the same detector with random weights everywhere, before any training.
        evaluate_every: epochs between evaluations on the held-out images, the best detector being kept beside the
            last; 0 evaluates at the end only.
        tensorboard: write TensorBoard's event files into the output folder.
        freeze_batch_norm: of the backbone, statistics and factors.
        mean, std: None takes what the weights say, or ImageNet's.

    The keys from `min_size` to `detections` are those of `detect.DetectorSettings`; None is the setting's own. The
    others are those of `train.TrainSettings`.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=False, protected_namespaces=(), allow_inf_nan=False
    )

    name: str = ""
    exhibit: str = "detection"
    detector: Literal["retinanet", "faster_rcnn"] = "retinanet"
    light: bool = False
    backbone: str
    backbone_args: dict[str, float | int | str] = {}
    weights: str = ""
    start: str = ""
    data: str = pydantic.Field(min_length=1)
    train_split: str = "train"
    held_out_split: str = "val"
    bad_boxes: Literal["error", "drop"] = "error"
    batch_size: int = pydantic.Field(16, ge=1)
    longest: int = pydantic.Field(0, ge=0)
    keep_in_memory: bool = False
    mirror: bool = True
    workers: int = pydantic.Field(0, ge=0)
    seed: int = pydantic.Field(0, ge=0, lt=2**63)
    untrained: bool = False
    evaluate_every: float = pydantic.Field(0.0, ge=0)
    tensorboard: bool = False
    min_size: int | None = None
    max_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pyramid_channels: int | None = None
    head_layers: int | None = None
    anchor_scale: float | None = None
    proposals: int | None = None
    box_channels: int | None = None
    frozen_stages: int | None = None
    freeze_batch_norm: bool | None = None
    batch_norm_eps: float | None = None
    score_threshold: float | None = None
    nms_threshold: float | None = None
    candidates: int | None = None
    detections: int | None = None
    epochs: float = 12
    optimizer: str = TrainSettings.optimizer
    learning_rate: float = 0.01
    schedule: str = "step"
    warmup_fraction: float = 0.006
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    momentum: float = TrainSettings.momentum
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norms: bool = TrainSettings.decay_norms
    ema_decay: float = TrainSettings.ema_decay
    bf16: bool = False
    checkpoint_seconds: float = TrainSettings.checkpoint_seconds
    accumulation_steps: int = TrainSettings.accumulation_steps
    gradient_clip: float = TrainSettings.gradient_clip

    def settings(self) -> TrainSettings:
        """Return the part that the training loop takes; the backbone itself freezes its batch norms.

        Settings that are no keys here, those of classifiers, keep the loop's defaults.
        """
        known = {field.name for field in dataclasses.fields(TrainSettings)}
        names = known & set(type(self).model_fields) - {"freeze_batch_norm"}
        return TrainSettings(**{name: getattr(self, name) for name in names})

    def detector_settings(self, said: dict[str, Any]) -> DetectorSettings:
        """Return how the detector is built.

        Args:
            said: what the backbone's file says of its images; the recipe's own keys win.
        """
        fields = [field.name for field in dataclasses.fields(DetectorSettings)]
        changes: dict[str, Any] = {key: tuple(said[key]) for key in ("mean", "std") if key in said}
        changes |= {
            key: getattr(self, key)
            for key in fields
            if key not in ("kind", "light") and getattr(self, key) is not None
        }
        if self.light:
            return light_settings(self.detector, **changes)
        return DetectorSettings.from_dict({**changes, "kind": self.detector})


def list_detection_recipes() -> list[str]:
    """Return the names of the packaged recipes of detectors, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_detection_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> DetectionRecipe:
    """Read a detector's recipe and apply overrides.

    Args:
        name_or_path: a packaged recipe's name or the path of a TOML file.
        overrides: `key=value` strings.

    Raises:
        InputError: no such recipe, TOML that does not parse, an unknown key (near match) or a wrong value.

    Example:
        >>> load_detection_recipe("retinanet_ghostnet_110", ["epochs=2"]).epochs
        2.0
    """
    values, source = read_recipe_file(name_or_path, overrides, _FOLDER)
    recipe = checked_recipe(DetectionRecipe, values, source)
    recipe.settings()
    recipe.detector_settings({})
    return recipe
