"""`ghostnet export --precision int8`: calibrated, and fine-tuned, on images of one's own or CIFAR-10's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.cli.calibration import (
    CALIBRATION,
    SYNTHETIC,
    check_calibration,
    folder_images,
    synthetic_batches,
)
from ghostnet.cli.network import input_size_of
from ghostnet.cli.output import note
from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ghostnet.data import Preprocessing
    from ghostnet.deploy import FakeQuantized, Limits, QuantizeReport

PRECISIONS = ("fp32", "fp16", "int8")
USUAL_BITS = "[default: 8; 7 on x86 without VNNI, which clips the sums of 8]"  # of a weight, for `--help`


def check_int8(
    precision: str, calibration: str | None, target: str, epochs: float | None, bits: int | None
) -> None:
    """Refuse what cannot be done, before anything slow is loaded.

    Raises:
        InputError: an unknown precision, int8 without the images that it needs, images or fine-tuning without int8, a
            place that is not there, a target without int8 or fine-tuning, or without weights of so few bits.
    """
    if precision == "bf16":
        raise InputError(
            "bf16 is chosen when a file runs (`ghostnet bench --precision bf16`, `deploy.load(precision=)`), not "
            "when it is exported; leave --precision out"
        )
    if precision not in PRECISIONS:
        raise unknown_name("export precision", precision, PRECISIONS)
    if bits is not None and precision != "int8":
        raise InputError("--weight-bits is for --precision int8; give both or neither")
    if bits not in (None, 7, 8) and epochs is None:
        raise InputError(f"--weight-bits (={bits}) must be 7 or 8 without --fine-tune-epochs")
    if epochs is not None:
        _check_fine_tuning(epochs, precision, target)
    if precision != "int8":
        if calibration is not None:
            raise InputError("--calibration is for --precision int8; give both or neither")
        return
    from ghostnet.deploy.quantization.quantiser import checked_weight_bits, require_quantiser
    from ghostnet.deploy.targets import require_to_write, target_named

    if epochs is None:
        require_quantiser(target)
        checked_weight_bits(target, bits)
    else:
        require_to_write(target_named(target))  # before the training, not after it
    if calibration is None and target != "c":
        raise InputError(f"int8 needs images to calibrate on: give {CALIBRATION}")
    if calibration == SYNTHETIC and epochs:
        raise InputError("--fine-tune-epochs trains on images of a folder or cifar10, not on synthetic ones")
    if calibration is not None:
        check_calibration(calibration)


def _check_fine_tuning(epochs: float, precision: str, target: str) -> None:
    from ghostnet.deploy.quantization.quantiser import TRAINED_TARGETS

    if precision != "int8":
        raise InputError("--fine-tune-epochs is for --precision int8; give both or neither")
    if not 0 <= epochs < float("inf"):
        raise InputError(f"--fine-tune-epochs (={epochs}) must be a finite number, 0 or above")
    if target not in TRAINED_TARGETS:
        raise InputError(
            f"--fine-tune-epochs is for {' and '.join(TRAINED_TARGETS)}, not for {target}; leave it out"
        )


@dataclass(frozen=True)
class Int8Job:
    """What one int8 export was asked for.

    Attributes:
        target: the runtime.
        out: the exported file; a checkpoint lies beside it while fine-tuning goes on.
        place: of the images: "cifar10", "synthetic" or a folder, with a subfolder a class where fine-tuning or labels
            want them.
        count: calibration images at most.
        passes: rewrites by name, None for the runtime's own.
        limits: what rounding may cost.
        epochs: of fine-tuning; 0 rounds to nearest and trains nothing, None leaves all to the runtime's quantiser.
        bits: of a weight; None for what this processor wants.
    """

    target: str
    out: Path
    place: str
    count: int
    passes: list[str] | None
    limits: Limits
    epochs: float | None
    bits: int | None

    def write(self, model: nn.Module, wanted: Preprocessing, written: Mapping[str, Any]) -> QuantizeReport:
        """Fine-tune if that is asked for, and write the files.

        Args:
            model: the float network.
            wanted: size and normalisation of images.
            written: further arguments of `deploy.quantize`.

        Raises:
            InputError: images that cannot be used, a network that cannot be traced, or limits that do not hold.
        """
        from ghostnet import deploy

        images, labels = int8_images(model, self.place, self.count, wanted)
        checkpoint, trained = None, self.epochs is not None
        if self.epochs is not None:
            model, checkpoint = self._fine_tuned(model, images, wanted, self.epochs)
        report = deploy.quantize(
            model,
            self.target,
            self.out,
            images,
            labels=labels,
            limits=self.limits,
            passes=None if trained else self.passes,  # what was trained has its own, and its own bits
            weight_bits=None if trained else self.bits,
            announce=note,
            **written,
        )
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return report

    def _fine_tuned(
        self, model: nn.Module, images: np.ndarray, wanted: Preprocessing, epochs: float
    ) -> tuple[FakeQuantized, Path | None]:
        """Return a network with rounding in it and its checkpoint, if any, to be removed when the files are there."""
        from ghostnet import deploy, recipes

        if not epochs:
            size = images.shape[1:]
            made = deploy.fake_quantized(
                model,
                images,
                target=self.target,
                passes=self.passes,
                weight_bits=self.bits,
                input_size=size,
            )
            return made, None
        # named after all that a resumed run must share with the first
        told = (self.place, (self.target, self.passes, self.bits), wanted)
        digest = hashlib.sha256(repr(told).encode() + images.tobytes())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        checkpoint = self.out.with_name(f"{self.out.name}.{digest.hexdigest()[:12]}.checkpoint")
        network = recipes.fine_tune_int8(
            model,
            images,
            data_path=self.place if self.place == "cifar10" else str(Path(self.place).expanduser()),
            preprocessing=wanted,
            target=self.target,
            passes=self.passes,
            weight_bits=self.bits,
            overrides=[f"epochs={epochs}"],
            checkpoint=checkpoint,
        )
        return network, checkpoint


def int8_images(
    model: nn.Module, place: str, count: int, wanted: Preprocessing
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return calibration images as the network wants them, and a classifier's labels where the place gives them.

    Args:
        model: tells its classes.
        place: "cifar10", "synthetic" or a folder.
        count: how many images at most.
        wanted: size and normalisation.

    Raises:
        InputError: too few images, none that can be read, or a count below 1.
    """
    from ghostnet.deploy.quantization.calibration import MIN_IMAGES

    if count < MIN_IMAGES:
        raise InputError(
            f"--calibration-images (={count}) must be at least {MIN_IMAGES}; 200 to 500 are usual"
        )
    if place == "cifar10":
        from ghostnet.cli.cifar10 import calibration_batches

        batches: list[tuple[Any, Any]] = calibration_batches(None, count, (wanted.mean, wanted.std))
        judged = _is_classifier(model, wanted.size)
        return _joined([images for images, _ in batches]), (
            _joined([labels for _, labels in batches]) if judged else None
        )
    if place == SYNTHETIC:
        size = (input_size_of(model, None)[0], wanted.size, wanted.size)
        return _joined(synthetic_batches(model, size, count)), None
    images, labels = folder_images(model, place, count, wanted)
    return _array(images), None if labels is None else _array(labels)


def _is_classifier(model: nn.Module, side: int) -> bool:
    """Tell whether a network scores classes of whole images; labels say nothing of other answers."""
    from ghostnet.cli.images import count_classes

    try:
        count_classes(model, side)
    except InputError:
        return False
    return True


def _array(tensor: Tensor) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(tensor.numpy())


def _joined(batches: list[Any]) -> np.ndarray:
    import numpy as np

    return np.concatenate([batch.numpy() for batch in batches])
