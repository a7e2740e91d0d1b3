"""`ghostnet convert`: model in, cheaper model out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.calibration import SYNTHETIC, calibration_batches, check_calibration, synthetic_batches
from ghostnet.cli.cifar10 import NORMALISATION_HELP, normalisation_of
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.integer import integer, share
from ghostnet.cli.measured import check_measured, measured_ratios
from ghostnet.cli.network import NETWORK_HELP, SIZE_HELP, WEIGHTS_HELP, input_size_of, open_network
from ghostnet.cli.output import answer, note
from ghostnet.cli.planned import Planned, check_plan, convert_planned
from ghostnet.cli.pruned import Pruning, prune_planned, pruned, require_labels
from ghostnet.cli.redundant import redundant_layers, redundant_share
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.convert import ConversionReport
    from ghostnet.data import Preprocessing


def convert(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The converted network (.safetensors).")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    method: Annotated[
        str, typer.Option(help="ghost, or a pruning method: l1, channel, thinet, sss, taylor.")
    ] = "ghost",
    macs: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="NUMBER",
            help="Share of the MACs that stays. For ghost: measures on --calibration images what each layer costs, "
            "and gives it a ratio of its own; for pruning: 0.5 unless given.",
        ),
    ] = None,
    ratio: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            metavar="INTEGER",
            help="s of the paper, for all layers; 1 keeps plain convolutions.  [default: 2; with --budget and "
            "--calibration a ratio of 2, 3 or 4 for each layer]",
        ),
    ] = None,
    cheap_kernel_size: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="d of the paper; odd.")
    ] = 3,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer name or pattern; may be repeated. Default: all but the first. redundant[:SHARE] takes the "
            "layers with most maps to spare, by --calibration images, until they hold that share of the MACs."
        ),
    ] = None,
    init: Annotated[str, typer.Option(help="dense: fitted to the network's own weights; random.")] = "dense",
    form: Annotated[str, typer.Option(help="linear, or ghostnet (norm and activation inside).")] = "linear",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Unlabelled images that make the fit better: a folder of your own, or cifar10; synthetic makes some "
            "that have the statistics of the network's batch norms."
        ),
    ] = None,
    keep_plain: Annotated[
        bool,
        typer.Option(
            "--keep-plain",
            help="Leave convolutions that stay plain as they are; with --calibration they are refitted to what the "
            "Ghost convolutions before them give.",
        ),
    ] = False,
    images: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            metavar="INTEGER",
            help="How many calibration images at most.  [default: 2048; synthetic: 256, of large ones fewer]",
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIME[:PRECISION]",
            help="Ghost only layers that gain there, measured on this machine: onnx, openvino:int8. For pruning: "
            "prune to the share of the time that --budget says.",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            help="For --plan: time ratio to reach, above 0, at the least cost in accuracy, which for ghost is measured "
            "on --calibration images; 1 takes every layer that gains."
        ),
    ] = 1.0,
    plan_files: Annotated[
        Path | None,
        typer.Option(
            "--plan-files",
            help="For --plan: keep exported candidates here, for the next plan or an interrupted one.",
        ),
    ] = None,
    plan_result: Annotated[
        Path | None, typer.Option("--plan-result", help="For --plan: also write what it measured (.json).")
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            "--costs",
            help="For --macs and --budget: keep what layers cost here (.json); an interrupted run goes on.",
        ),
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            metavar="INTEGER",
            help="For pruning: each layer keeps a multiple of so many channels, or all; 8 is often quicker at the same "
            "MACs.  [default: 1; with --plan 8]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="Of the random initialisation.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replace a network's convolutions by Ghost convolutions, or prune its channels, and save the result.

    A folder of --calibration needs no subfolders; with a subfolder for each class of the network it gives labels too.
    Without any images, --calibration synthetic does nearly as well for a network with batch norms.
    Pruning by channel or thinet looks at --calibration images, by taylor at images with labels; sss trains for two
    epochs on all of cifar10, and an interrupted one goes on from OUT.checkpoint.
    Where a plan finds that no layer gains, nothing is written and the exit code is 1.

    \b
    Example:
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/
      ghostnet convert model.safetensors -o ghost.safetensors --calibration synthetic
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/ --macs 0.5
      ghostnet convert model.safetensors -o ghost.safetensors --calibration cifar10 --layers redundant:0.5
      ghostnet convert model.safetensors -o ghost.safetensors --plan onnx
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/ --plan onnx --budget 0.7
      ghostnet convert model.safetensors -o pruned.safetensors --method l1 --macs 0.5
      ghostnet convert model.safetensors -o pruned.safetensors --method l1 --plan onnx --budget 0.7
    """
    if init not in ("dense", "random"):
        raise unknown_name("init", init, ["dense", "random"])
    refuse_idle(
        context,
        (
            method == "ghost",
            "--method ghost",
            ("ratio", "cheap_kernel_size", "init", "form", "layers", "keep_plain"),
        ),
        (method != "l1", "Ghost conversion and the methods that look at images", ("calibration",)),
        (calibration is not None, "--calibration", ("images", "normalisation", "keep_plain")),
        (init == "dense", "--init dense", ("keep_plain",)),
        (calibration == "cifar10", "--calibration cifar10", ("data_dir",)),
        (method != "ghost", "pruning methods", ("multiple",)),
        (init == "random" or method != "ghost", "--init random and pruning methods", ("seed",)),
    )
    check_integer("--seed", seed, least=0)
    if calibration is not None:
        check_calibration(calibration)
    check_plan(plan, method, budget, plan_files, plan_result, force=force, macs=macs)
    others = {
        "--ratio": ratio is not None,
        "--plan": plan is not None,
        f"--init {init}": init != "dense",
        f"--form {form}": form != "linear",
    }
    by_budget = plan is not None and budget < 1 and calibration is not None
    measured = by_budget and method == "ghost" and init == "dense" and form == "linear"
    check_measured(macs, costs, calibration, method, others, by_budget=measured)
    redundant = redundant_share(layers, calibration)
    if out.suffix != ".safetensors":
        raise InputError(f"{out} must end in .safetensors; use {out.with_suffix('.safetensors')}")
    refuse_overwrite(out, force=force)
    from ghostnet.convert import RandomInit, check_method, ghostify

    check_method(method)
    if method == "taylor" and calibration == SYNTHETIC:
        raise InputError(
            "method 'taylor' needs labels, which synthetic images have not; give a folder of classes"
        )
    if method == "sss" and calibration != "cifar10":
        raise InputError("method 'sss' trains for two epochs before it chooses: give --calibration cifar10")
    model = open_network(network, weights, trained=init == "dense")
    size = input_size_of(model, input_size)
    batches: list[Any] | None = None
    if calibration == SYNTHETIC:
        batches = synthetic_batches(model, size, images)
    elif calibration is not None:
        wanted = _calibration_preprocessing(model, calibration, normalisation, input_size)
        batches = calibration_batches(
            model, calibration, 2048 if images is None else images, wanted, data_dir=data_dir
        )
        if method == "taylor":
            require_labels(batches, calibration)
    example = _example(size)
    output = _Output(out, _info(network, model, normalisation, input_size), force, as_json)
    if method != "ghost":
        pruning = Pruning(model, method, batches, example, seed, multiple)
        if plan is not None:
            recipe = {"network": network, "plan": plan, "budget": budget, "method": method}
            output.write_planned(prune_planned(pruning, plan, budget, plan_files, plan_result, recipe))
            return
        checkpoint = out.with_name(f"{out.name}.checkpoint")
        training = data_dir, normalisation_of(model, normalisation), checkpoint
        output.write(*pruned(pruning, 0.5 if macs is None else macs, training))
        if method == "sss":  # the only one that makes it; another's may be of an interrupted run
            checkpoint.unlink(missing_ok=True)
        return
    ghost: dict[str, Any] = {
        "ratio": ratio if ratio is not None else (2, 3, 4) if measured else 2,
        "cheap_kernel_size": cheap_kernel_size,
        "layers": layers or None,
        "init": RandomInit(seed) if init == "random" else init,
        "calibration": batches,
        "form": form,
        "refit_plain": not keep_plain,
    }
    if redundant is not None and batches is not None:
        ghost["layers"] = redundant_layers(
            model, batches, redundant, (2 if ratio is None else ratio, cheap_kernel_size)
        )
    if plan is not None:
        recipe = {"network": network, "plan": plan, "budget": budget, "ratio": ghost["ratio"], "init": init}
        files = plan_files, costs, plan_result
        output.write_planned(convert_planned(model, plan, budget, example, ghost, files, recipe))
        return
    if macs is not None and batches is not None:
        ghost["ratio"] = measured_ratios(
            model, batches, macs, cheap_kernel_size=cheap_kernel_size, layers=ghost["layers"], costs=costs
        )
        ghost["layers"] = None  # the ratios name them
    output.write(*ghostify(model, example_input=example, progress=True, **ghost))


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


def _reasons(report: ConversionReport) -> str:
    """Say why layers were kept, the commonest reason first."""
    counts = Counter(layer.reason for layer in report.layers if layer.reason).most_common(3)
    return "; ".join(f"{reason} ({count} x)" for reason, count in counts) or "it has no convolution"


def _calibration_preprocessing(
    model: nn.Module, calibration: str, normalisation: str | None, input_size: str | None
) -> Preprocessing:
    """Return how a network wants calibration images; CIFAR-10's are normalised as such where it says nothing."""
    from ghostnet.cli.images import preprocessing_for
    from ghostnet.data import Preprocessing

    if calibration == "cifar10":
        mean, std = normalisation_of(model, normalisation)
        return Preprocessing(mean=mean, std=std)
    side = None
    if input_size is not None:
        _, side, width = input_size_of(model, input_size)
        if side != width:
            raise InputError(
                f"--calibration {calibration} gives square images; --input-size (={input_size}) is not square"
            )
    return preprocessing_for(model, normalisation=normalisation, image_size=side)


def _info(
    network: str, model: nn.Module, normalisation: str | None, input_size: str | None
) -> dict[str, Any]:
    """Return what the new file says of itself: where it comes from, its classes, and how it wants its images.

    What the user says of the images is kept as well, or the next verb would prepare them in another way.
    """
    from ghostnet.deploy.export import IMAGE_FACTS

    known = getattr(model, "ghostnet_info", None) or {}
    kept = {key: known[key] for key in ("classes", *IMAGE_FACTS) if key in known}
    if normalisation is not None:
        mean, std = normalisation_of(model, normalisation)
        kept |= {"mean": list(mean), "std": list(std)}
    if input_size is not None:
        _, height, width = input_size_of(model, input_size)
        kept |= {"image_size": height} if height == width else {}
    return {"converted_from": Path(network).name, **kept}


def _example(size: tuple[int, int, int]) -> Tensor:
    import torch

    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
