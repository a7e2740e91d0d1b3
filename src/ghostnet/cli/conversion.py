"""What `ghostnet convert` does: refuse what makes no sense, read images, ghost or prune, and write the file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.calibration import SYNTHETIC, calibration_batches, check_calibration, synthetic_batches
from ghostnet.cli.cifar10 import normalisation_of
from ghostnet.cli.idle import Use, refuse_idle
from ghostnet.cli.measured import check_measured, measured_ratios
from ghostnet.cli.network import input_size_of, open_network, outside_name, refuse_source, told
from ghostnet.cli.output import answer, note
from ghostnet.cli.planned import Planned, check_plan, convert_planned
from ghostnet.cli.pruned import Pruning, prune_planned, pruned, require_labels
from ghostnet.cli.redundant import redundant_layers, redundant_share
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_nameless, refuse_overwrite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.convert import ConversionReport
    from ghostnet.data import Preprocessing

_IMAGES = 2048  # that calibrate unless the user says how many
_MEASURED_RATIOS = (2, 3, 4)  # among which a budget chooses for each layer


@dataclass(frozen=True)
class Conversion:
    """The options of the command, under their names there."""

    network: str
    out: Path
    weights: str | None
    method: str
    macs: float | None
    ratio: int | None
    cheap_kernel_size: int
    layers: list[str] | None
    init: str
    form: str
    calibration: str | None
    keep_plain: bool
    images: int | None
    data_dir: str | None
    normalisation: str | None
    input_size: str | None
    plan: str | None
    budget: float
    plan_files: Path | None
    plan_result: Path | None
    costs: Path | None
    multiple: int | None
    streams: bool | None
    seed: int
    force: bool
    as_json: bool

    @property
    def budget_measures(self) -> bool:
        """Whether a plan measures what each layer costs, to reach its budget at the least cost."""
        by_budget = self.plan is not None and self.budget < 1 and self.calibration is not None
        return by_budget and self.method == "ghost" and self.init == "dense" and self.form == "linear"

    def check(self, context: typer.Context) -> None:
        """Refuse options that make no sense together, before anything slow is loaded.

        Args:
            context: the command's.

        Raises:
            InputError: an unknown name, an option without effect, or a file that is there already.
        """
        if self.init not in ("dense", "random"):
            raise unknown_name("init", self.init, ["dense", "random"])
        refuse_idle(context, *self._uses())
        check_integer("--seed", self.seed, least=0)
        if self.calibration is not None:
            check_calibration(self.calibration)
        plan = self.plan, self.method, self.budget, self.plan_files, self.plan_result
        check_plan(*plan, force=self.force, macs=self.macs)
        others = {
            "--ratio": self.ratio is not None,
            "--plan": self.plan is not None,
            f"--init {self.init}": self.init != "dense",
            f"--form {self.form}": self.form != "linear",
        }
        check_measured(
            self.macs, self.costs, self.calibration, self.method, others, by_budget=self.budget_measures
        )
        redundant_share(self.layers, self.calibration)
        refuse_nameless(self.out)
        if self.out.suffix != ".safetensors":
            raise InputError(
                f"{self.out} must end in .safetensors; use {self.out.with_suffix('.safetensors')}"
            )
        refuse_source(self.out, self.network, self.weights)
        refuse_overwrite(self.out, force=self.force)
        self._check_method()

    def run(self) -> None:
        """Convert the network, save it and answer.

        Raises:
            InputError: a network or images that cannot be used, or no layer was converted.
            typer.Exit: a plan finds that no layer gains.
        """
        model = open_network(self.network, self.weights, trained=self.init == "dense")
        size = input_size_of(model, self.input_size)
        batches = self._batches(model, size)
        example, info = _example(size), self._info(model)
        output = _Output(self.out, info, self.force, self.as_json)
        convert = self._ghost if self.method == "ghost" else self._prune
        convert(model, batches, example, output)

    def _uses(self) -> list[Use]:
        """Return which options this call reads."""
        ghost = self.method == "ghost"
        layers = ("ratio", "cheap_kernel_size", "init", "form", "layers", "keep_plain")
        by_chance = "--init random and pruning methods"
        return [
            (ghost, "--method ghost", layers),
            (self.calibration is not None, "--calibration", ("images", "normalisation", "keep_plain")),
            (self.init == "dense", "--init dense", ("keep_plain",)),
            (self.calibration == "cifar10", "--calibration cifar10", ("data_dir",)),
            (not ghost, "pruning methods", ("multiple",)),
            (self.init == "dense" or not ghost, "--init dense and pruning methods", ("streams",)),
            (self.init == "random" or not ghost, by_chance, ("seed",)),
        ]

    def _check_method(self) -> None:
        from ghostnet.convert.pruning import check_method, check_streams

        check_method(self.method)
        if self.streams and self.method != "ghost":
            check_streams(self.method)
        if self.method == "taylor" and self.calibration == SYNTHETIC:
            raise InputError(
                "method 'taylor' needs labels, which synthetic images have not; give a folder of classes"
            )
        if self.method == "sss" and self.calibration != "cifar10":
            raise InputError(
                "method 'sss' trains for two epochs before it chooses: give --calibration cifar10"
            )

    def _batches(self, model: nn.Module, size: tuple[int, int, int]) -> list[Any] | None:
        """Return calibration images, with labels where there are any, or None without `--calibration`."""
        if self.calibration is None:
            return None
        if self.calibration == SYNTHETIC:
            return synthetic_batches(model, size, self.images)
        count = _IMAGES if self.images is None else self.images
        wanted = self._preprocessing(model, self.calibration)
        batches = calibration_batches(model, self.calibration, count, wanted, data_dir=self.data_dir)
        if self.method == "taylor":
            require_labels(batches, self.calibration)
        return batches

    def _preprocessing(self, model: nn.Module, calibration: str) -> Preprocessing:
        """Return how a network wants calibration images; CIFAR-10's are normalised as such where it says nothing."""
        from ghostnet.cli.images import preprocessing_for
        from ghostnet.data import Preprocessing

        if calibration == "cifar10":
            mean, std = normalisation_of(model, self.normalisation)
            return Preprocessing(mean=mean, std=std)
        side = None
        if self.input_size is not None:
            _, side, width = input_size_of(model, self.input_size)
            if side != width:
                raise InputError(
                    f"--calibration {calibration} gives square images; --input-size (={self.input_size}) is not square"
                )
        return preprocessing_for(model, normalisation=self.normalisation, image_size=side)

    def _info(self, model: nn.Module) -> dict[str, Any]:
        """Return what the new file says of itself: where it comes from, its classes, and how it wants its images.

        What the user says of the images is kept as well, or the next verb would prepare them in another way.
        """
        from ghostnet.data import image_info
        from ghostnet.image_facts import IMAGE_FACTS

        known = image_info(model)
        kept = {key: known[key] for key in ("classes", *IMAGE_FACTS) if key in known}
        if self.normalisation is not None:
            mean, std = normalisation_of(model, self.normalisation)
            kept |= {"mean": list(mean), "std": list(std)}
        if self.input_size is not None:
            _, height, width = input_size_of(model, self.input_size)
            kept |= {"image_size": height} if height == width else {}
        outside = outside_name(self.network)
        if outside is not None and outside.library is None:
            kept["built_by"] = outside.builder
        return {"converted_from": told(self.network), **kept}

    def _prune(self, model: nn.Module, batches: list[Any] | None, example: Tensor, output: _Output) -> None:
        """Prune to a share of the time, with a plan, or of the MACs."""
        pruning = Pruning(model, self.method, batches, example, self.seed, self.multiple, bool(self.streams))
        if self.plan is not None:
            recipe = {**self._recipe(self.plan), "method": self.method}
            files = self.plan_files, self.plan_result
            output.write_planned(prune_planned(pruning, self.plan, self.budget, *files, recipe))
            return
        checkpoint = self.out.with_name(f"{self.out.name}.checkpoint")
        training = self.data_dir, normalisation_of(model, self.normalisation), checkpoint
        output.write(*pruned(pruning, 0.5 if self.macs is None else self.macs, training))
        if self.method == "sss":  # the only one that makes it; another's may be of an interrupted run
            checkpoint.unlink(missing_ok=True)

    def _ghost(self, model: nn.Module, batches: list[Any] | None, example: Tensor, output: _Output) -> None:
        """Ghost the layers that gain, with a plan, or those that the other options choose."""
        from ghostnet.convert import ghostify

        ghost = self._ghost_settings(model, batches)
        if self.plan is not None:
            recipe = {**self._recipe(self.plan), "ratio": ghost["ratio"], "init": self.init}
            files = self.plan_files, self.costs, self.plan_result
            output.write_planned(
                convert_planned(model, self.plan, self.budget, example, ghost, files, recipe)
            )
            return
        if self.macs is not None and batches is not None:
            ghost["ratio"] = measured_ratios(
                model,
                batches,
                self.macs,
                cheap_kernel_size=self.cheap_kernel_size,
                layers=ghost["layers"],
                costs=self.costs,
            )
            ghost["layers"] = None  # the ratios name them
        found, report = ghostify(model, example_input=example, progress=True, **ghost)
        output.write(found, report)
        if self.streams is False:
            _tell_of_orders(found)

    def _ghost_settings(self, model: nn.Module, batches: list[Any] | None) -> dict[str, Any]:
        """Return the arguments of `ghostify`, which a plan takes, too."""
        from ghostnet.convert import RandomInit

        usual = _MEASURED_RATIOS if self.budget_measures else 2
        layers, redundant = self.layers or None, redundant_share(self.layers, self.calibration)
        if redundant is not None and batches is not None:
            ghosting = 2 if self.ratio is None else self.ratio, self.cheap_kernel_size
            layers = redundant_layers(model, batches, redundant, ghosting)
        return {
            "ratio": usual if self.ratio is None else self.ratio,
            "cheap_kernel_size": self.cheap_kernel_size,
            "layers": layers,
            "init": RandomInit(self.seed) if self.init == "random" else self.init,
            "calibration": batches,
            "form": self.form,
            "refit_plain": not self.keep_plain,
            "streams": self.streams,
        }

    def _recipe(self, plan: str) -> dict[str, Any]:
        """Return what the record of a plan says of the conversion, whatever the method."""
        return {"network": self.network, "plan": plan, "budget": self.budget}


@dataclass(frozen=True)
class _Output:
    """Where the new network goes, what its file says of itself, and how the answer is printed."""

    path: Path
    info: dict[str, Any]
    force: bool
    as_json: bool

    def write(self, network: nn.Module, report: ConversionReport) -> None:
        """Save the network and say what became of it.

        Raises:
            InputError: no layer was converted.
        """
        if not report.converted:
            raise InputError(f"no layer was converted, so nothing is written: {_reasons(report)}")
        self._save(network)
        said = {"out": str(self.path), **report.to_dict()}
        answer(said, as_json=self.as_json, text=lambda: str(report))

    def write_planned(self, planned: Planned) -> None:
        """Save the network that a plan led to, if any, and show the plan."""
        if planned.network is not None:
            self._save(planned.network)
        said = {"out": planned.out(self.path), **planned.to_dict()}
        answer(said, as_json=self.as_json, text=planned.text)
        if planned.network is None:  # a command behind this one would look for the file
            raise typer.Exit(1)

    def _save(self, network: nn.Module) -> None:
        from ghostnet import models

        models.save(network, self.path, force=self.force, info=self.info)
        note(f"wrote {self.path}")


def _tell_of_orders(network: nn.Module) -> None:
    """Say so where Ghost convolutions put their channels in order in front of a sum."""
    from ghostnet.nn import GhostConv2d

    ghosts = [module for module in network.modules() if isinstance(module, GhostConv2d)]
    count = sum(module.channel_order is not None for module in ghosts)
    if count:
        note(
            f"{count} of {len(ghosts)} layers put their channels in order behind them, which takes time where maps are "
            "added; without --no-streams that is saved where it can be"
        )


def _reasons(report: ConversionReport) -> str:
    """Say why layers were kept, the commonest reason first."""
    counts = Counter(layer.reason for layer in report.layers if layer.reason).most_common(3)
    return "; ".join(f"{reason} ({count} x)" for reason, count in counts) or "it has no convolution"


def _example(size: tuple[int, int, int]) -> Tensor:
    import torch

    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
