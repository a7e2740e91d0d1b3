"""`quantize`: an export in int8: of a float export that was checked against PyTorch, or of what was trained for it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghostnet.deploy.answers import Listed
from ghostnet.deploy.export import ExportReport, eager_copy, export, narrow_passes, writable
from ghostnet.deploy.manifest import Manifest, describe_files, manifest_path, read_manifest
from ghostnet.deploy.optimize import optimize
from ghostnet.deploy.places import places_for
from ghostnet.deploy.quantization.calibration import calibration_array, labels_array
from ghostnet.deploy.quantization.fake import FakeQuantized
from ghostnet.deploy.quantization.quantiser import (
    TRAINED_TARGETS,
    Quantiser,
    checked_weight_bits,
    quantiser_for,
    require_quantiser,
)
from ghostnet.deploy.quantization.search import (
    Chosen,
    Judge,
    Limits,
    Score,
    allowance,
    choose,
    differing,
    largest_error,
    scored,
    to_dict,
    told,
)
from ghostnet.deploy.session import open_files, run_in_parts
from ghostnet.deploy.targets import TARGETS, Target, require_to_write, target_named
from ghostnet.deploy.targets.target import files_of
from ghostnet.errors import InputError, first_line

_BATCH = 32
_RANKING_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class QuantizeReport:
    """What was written, and what int8 cost on the calibration images.

    Attributes:
        path: the finished file that users name.
        target: key of `TARGETS`.
        bytes: size of all files but the manifest.
        float_bytes: of the float files that they were made from.
        images: calibration images.
        layers: convolutions and matrix products.
        float_layers: those that stayed in float, named as in the file, the worst first.
        agreement: share of calibration images with the same first answer as in float; None of a network that answers
            with tensors by name.
        relative_error: norm of the outputs' difference over that of the float outputs; of several the largest.
        top1_float, top1: percent on the calibration images, None without labels.
        input_size: shape of one input without the batch.
        files: every file that was written, the manifest last.
    """

    path: str
    target: str
    bytes: int
    float_bytes: int
    images: int
    layers: int
    float_layers: list[str]
    agreement: float | None
    relative_error: float
    top1_float: float | None
    top1: float | None
    input_size: tuple[int, ...]
    files: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**dataclasses.asdict(self), "precision": "int8"}

    def __str__(self) -> str:
        """Return two lines for people."""
        accuracy = (
            ""
            if self.top1 is None
            else f", top-1 {self.top1_float:.2f} % in float, {self.top1:.2f} % in int8"
        )
        stays = (
            f"the outputs differ by up to {100 * self.relative_error:.1f} % of their norm"
            if self.agreement is None
            else f"{100 * self.agreement:.2f} % of the answers stay"
        )
        kept = f", {len(self.float_layers)} of {self.layers} layers in float" if self.float_layers else ""
        return (
            f"{self.path}: {self.target} int8, {self.bytes / 1e6:.2f} MB (float {self.float_bytes / 1e6:.2f}){kept}\n"
            f"on {self.images} calibration images: {stays}{accuracy}"
        )


def quantize(
    model: nn.Module,
    target: str,
    path: str | os.PathLike[str],
    calibration: Any,
    *,
    labels: Any = None,
    limits: Limits | None = None,
    input_size: Sequence[int] = (3, 224, 224),
    weight_bits: int | None = None,
    passes: Sequence[str] | None = None,
    optimized: bool = True,
    force: bool = False,
    metadata: Mapping[str, str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    announce: Callable[[str], None] | None = None,
) -> QuantizeReport:
    """Export `model` in int8: float export, ranges from calibration images, 8-bit weights and activations.

    Weights are quantised per output channel, activations per tensor. All layers are quantised first; while the
    limits do not hold, the layers that change the output most stay in float. In "c" the calibration images only judge:
    a pixel's range, or a map's, is found while the network runs.

    What `fake_quantized` made, trained since then, is written with its own weights and ranges, all layers in int8;
    the limits are on what it differs from the float network that it was made from.

    The answer of a network with a single logit is its sign (1 above 0, else 0), of one that returns maps the largest of
    each pixel's channels. A network that answers with tensors by name (a backbone's maps, see `export`) has no such
    answer; the limit is then on the error of each tensor.

    Args:
        model: a classifier `(N, C, H, W) -> (N, classes)`, or what else `export` takes; it is untouched.
        target: "onnx", "openvino", or "litert" or "c" (not for what `fake_quantized` made).
        path: as for `export`.
        calibration: float32 images `(N, C, H, W)` normalised as the network expects, N >= 16 (200 to 500 are
            usual), or an iterable of batches of them.
        labels: class numbers `(N,)` for a classifier; with them the limit is on accuracy, without on agreement with
            float.
        limits: how much int8 may cost on these images; None takes `Limits()`.
        input_size: shape of one input without the batch.
        weight_bits: 8, or 7 for processors that add up products of bytes in 16 bits, which 8 bits exceed (x86 without
            VNNI; "onnx" and "openvino"). None takes what this processor wants; a file of 7 is right on all.
        passes: as for `export`.
        optimized: as for `export`.
        force: as for `export`.
        metadata: as for `export`.
        preprocessing: as for `export`.
        classes: as for `export`.
        output_names: as for `export`.
        announce: called with a line before each slow step.

    Returns:
        A `QuantizeReport`.

    Raises:
        InputError: a target without int8, a missing package (with the pip command), unusable calibration images,
            rewrites for a network that has its own, or limits that no choice of layers meets; else as `export`.
            Nothing is written then.
        RuntimeError: the float export differs from PyTorch.

    Example:
        >>> quantize(model, "onnx", "net-int8.onnx", images, input_size=(3, 32, 32))  # doctest: +SKIP
    """
    trained = model if isinstance(model, FakeQuantized) else None
    package, bits = None, 8
    if trained is not None:
        _check_trained(target, passes, optimized, weight_bits)
        model, passes = trained.reference, trained.passes
    else:
        package, bits = require_quantiser(target), checked_weight_bits(target, weight_bits)
    chosen_target = target_named(target)
    require_to_write(chosen_target)
    passes = narrow_passes(model, target, passes, precision="int8", optimized=optimized)
    sizes = tuple(input_size)
    images = calibration_array(calibration, sizes)
    known = labels_array(labels, len(images))
    files = places_for(chosen_target, Path(path), force=force)
    tell = announce or (lambda _line: None)
    with tempfile.TemporaryDirectory() as scratch, writable(files[0]) as folder:
        tell(f"exporting to {chosen_target.runtime} in float")
        plain = Path(scratch) / files[0].name
        report = export(
            model,
            target,
            plain,
            input_size=sizes,
            passes=passes,
            optimized=optimized,
            metadata=metadata,
            preprocessing=preprocessing,
            classes=classes,
            output_names=output_names,
        )
        out = folder / files[0].name
        quantiser: FakeQuantized | Callable[[], Quantiser] = trained or partial(
            _quantiser, model, plain, images, bits, report=report, rewrites=(passes, optimized)
        )
        found = _quantised(chosen_target, plain, out, (images, known), limits or Limits(), tell, quantiser)
        if bits != 8:
            found = dataclasses.replace(found, weight_bits=bits)
        _write_manifest(plain, out, files_of(chosen_target, out), found, (len(images), package))
        size = sum(file.stat().st_size for file in files_of(chosen_target, out))
    names = [os.fspath(file) for file in (*files, manifest_path(files[0]))]
    return _report(os.fspath(path), report, size, len(images), found, names)


def _judge(manifest: Manifest, labels: np.ndarray | None) -> Judge:
    """Return what compares outputs in int8 with those in float.

    Raises:
        InputError: labels for a network that is no classifier.
    """
    shape = manifest.output["shape"]
    if labels is not None and (manifest.outputs is not None or len(shape) != 2):
        raise InputError(
            "labels are classes of whole images, and the network does not answer with scores of classes "
            f"({', '.join(map(str, manifest.sizes().values()))}); leave them out"
        )
    if manifest.outputs is not None:
        return differing
    return lambda expected, found: scored(expected[0], found[0], labels)


def _quantised(
    target: Target,
    plain: Path,
    out: Path,
    data: tuple[np.ndarray, np.ndarray | None],
    limits: Limits,
    tell: Callable[[str], None],
    how: FakeQuantized | Callable[[], Quantiser],
) -> Chosen:
    """Write what was trained, or quantise."""
    images, labels = data
    manifest = read_manifest(manifest_path(plain))
    sizes, judge = list(manifest.sizes().values()), _judge(manifest, labels)

    def run(path: Path, some: np.ndarray) -> list[np.ndarray]:
        runner = open_files(target, path, threads=1, precision="fp32")
        return run_in_parts(runner, some, sizes, largest=_BATCH)

    expected = run(plain, images)
    if not all(np.isfinite(output).all() for output in expected):
        raise InputError(
            "the network's output on the calibration images is not finite; its weights are broken"
        )
    try:
        if isinstance(how, FakeQuantized):
            tell("writing what was trained for int8")
            _write_trained(target, how, plain, out, images[:2])
            return _judged(judge(expected, run(out, images)), limits, how)
        tell(f"quantising with {len(images)} calibration images")
        few, wanted = images[:_RANKING_IMAGES], [output[:_RANKING_IMAGES] for output in expected]
        return choose(
            how(),
            out,
            score_of=lambda path: judge(expected, run(path, images)),
            harm_of=lambda path: largest_error(wanted, run(path, few)),
            limits=limits,
            announce=tell,
        )
    except (InputError, OSError):
        raise
    except Exception as error:  # the quantisers' own classes share no public base class
        reason = first_line(error)
        raise InputError(
            f"the network cannot be quantised for {target.runtime}: {reason}; stay in float or try another target"
        ) from error


def _quantiser(
    model: nn.Module,
    plain: Path,
    images: np.ndarray,
    bits: int,
    *,
    report: ExportReport,
    rewrites: tuple[Sequence[str] | None, bool],
) -> Quantiser:
    """Return what quantises the float files, or for C, whose files are programs, the network that they compute."""
    if report.target != "c":
        return quantiser_for(report.target, plain, images, bits)
    from ghostnet.deploy.quantization.c import CQuantiser

    passes, optimized = rewrites
    network = eager_copy(model)
    if optimized:
        network = optimize(network, target="c", passes=passes, input_size=report.input_size)
    texts = open_files(TARGETS["c"], plain, threads=1, precision="fp32").metadata
    listed, names = _listed(network, plain)
    return CQuantiser(listed, torch.from_numpy(images[:1]), texts, names)


def _write_trained(
    target: Target, trained: FakeQuantized, plain: Path, out: Path, example: np.ndarray
) -> None:
    texts = open_files(target, plain, threads=1, precision="fp32").metadata
    listed, names = _listed(trained.deployed(target.name), plain)
    target.write(listed, out, torch.from_numpy(example), texts, names)


def _listed(network: nn.Module, plain: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a network in the form that targets write, and its outputs' names, as the float files have them."""
    manifest = read_manifest(manifest_path(plain))
    return (network if manifest.outputs is None else Listed(network)), tuple(manifest.sizes())


def _judged(score: Score, limits: Limits, trained: FakeQuantized) -> Chosen:
    if not score.within(limits):
        raise InputError(
            f"int8 costs too much even after fine-tuning ({told(score)}); fine-tune longer, allow more "
            f"({allowance(score)}) or stay in float"
        )
    return Chosen((), score, trained.layers, {}, trained.weight_bits)


def _check_trained(
    target: str, passes: Sequence[str] | None, optimized: bool, weight_bits: int | None
) -> None:
    if target not in TRAINED_TARGETS:
        raise InputError(
            f"a network that was fine-tuned for int8 cannot be written for {target}; "
            f"the targets are {', '.join(TRAINED_TARGETS)}"
        )
    if weight_bits is not None:
        raise InputError("weight_bits is chosen when `fake_quantized` makes the network; give it there")
    if passes is not None or not optimized:
        raise InputError("rewrites are chosen when `fake_quantized` makes the network; give them there")


def _write_manifest(
    plain: Path, out: Path, files: list[Path], found: Chosen, how: tuple[int, str | None]
) -> None:
    count, package = how
    used = {} if package is None else {package: importlib.metadata.version(package)}
    manifest = read_manifest(manifest_path(plain))
    dataclasses.replace(
        manifest,
        precision="int8",
        files=describe_files(files),
        quantisation={"images": count, **to_dict(found)},
        versions={**manifest.versions, **used},
    ).write(manifest_path(out))


def _report(
    path: str, plain: ExportReport, size: int, images: int, found: Chosen, files: list[str]
) -> QuantizeReport:
    score = found.score
    return QuantizeReport(
        path=path,
        target=plain.target,
        bytes=size,
        float_bytes=plain.bytes,
        images=images,
        layers=found.layers,
        float_layers=list(found.kept),
        agreement=score.agreement,
        relative_error=score.relative_error,
        top1_float=score.top1_float,
        top1=score.top1,
        input_size=plain.input_size,
        files=files,
    )
