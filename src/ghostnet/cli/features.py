"""`ghostnet features`: a layer's maps as pictures, its most alike pairs, and which layers have maps to spare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.cifar10 import NORMALISATION_HELP
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.images import image_files, preprocessing_for
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import NETWORK_HELP, WEIGHTS_HELP, open_network
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ghostnet.data import Preprocessing

_TOP = 10


def features(
    context: typer.Context,
    network: Annotated[
        str, typer.Argument(help=f"{NETWORK_HELP.rstrip('.')}, or a ResNet-50 v2's arrays (.npz).")
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="What the network looks at.")
    ],
    layer: Annotated[
        str | None,
        typer.Option(help="Dotted name. Default: the maps of the second convolution, as in Fig. 4."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Score every convolution: which would ghosting hurt least?")
    ] = False,
    ratio: Annotated[int, integer_option(help="For --scores: s of the Ghost convolutions.")] = 2,
    cheap_kernel_size: Annotated[
        int, integer_option(help="Side d of the filters that pairs are ranked by.")
    ] = 3,
    top: Annotated[int, integer_option(help="How many pairs to list.")] = _TOP,
    limit: Annotated[int, integer_option(help="Images to use, the first ones.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pictures.")] = None,
    beside: Annotated[
        str | None, typer.Option(help="Another network, drawn beside: Fig. 5's dense one, say.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    credit: Annotated[
        str, typer.Option(help="Author and licence of the first image, kept with pictures in the record.")
    ] = "",
    result: Annotated[Path | None, typer.Option(help="Also write a result record (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite pictures and the record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a layer's feature maps, fit all pairs of them by d x d filters, and score layers by redundancy.

    Each pair is fitted in closed form; the error is a share of the target map's variance. Table 2's experiment
    (d = 1, 3, 5, 7) is done on the three most alike pairs. Pictures: maps.png (all maps), pairs.png (Fig. 1),
    and for a Ghost convolution ghosts.png (Fig. 4).

    \b
    Example:
      ghostnet features resnet9_050 photo.jpg --layer features.5 -o pictures
      ghostnet features resnet9_050 photos/ --scores
    """
    import time

    started = time.monotonic()
    refuse_idle(
        context,
        (scores, "--scores", ("ratio",)),
        (not scores, "one layer's pairs, without --scores", ("top",)),
        (not scores or out is not None, "one layer, without --scores or with --out", ("layer",)),
        (out is not None, "pictures, with --out FOLDER", ("beside",)),
        (None not in (out, result), "pictures of a record, with --out and --result", ("credit",)),
    )
    check_integer("--top", top)
    check_integer("--limit", limit)
    files = image_files(images)[:limit]
    for path in (result, *_pictures(out)):
        if path is not None:
            refuse_overwrite(path, force=force)
    model = open_any(network, weights)
    wanted = preprocessing_for(model, normalisation=normalisation)
    pixels, batch = read_images(files, wanted)
    if scores:
        found = _scores(model, batch, ratio, cheap_kernel_size)
    else:
        found = _layer(model, batch, layer, cheap_kernel_size, top)
    value: dict[str, Any] = {"network": network, "images": len(batch), **found}
    if out is not None:
        chosen = value.get("layer") or chosen_layer(model, batch, layer)
        value["pictures"] = draw_pictures(
            model, pixels, batch, chosen, out, cheap_kernel_size=cheap_kernel_size
        )
        if beside is not None:
            value["pictures"] += _draw_beside(beside, pixels, batch, chosen, out)
    if result is not None:
        _write(result, value, time.monotonic() - started, credit)
    answer(value, as_json=as_json, text=lambda: _text(value))


def open_any(network: str, weights: str | None = None) -> nn.Module:
    """Return a network of the zoo, a saved one, or the trunk of a ResNet-50 v2 from its arrays.

    Raises:
        InputError: none of these, or no weights.
    """
    if network.endswith(".npz"):
        from ghostnet.models import load_resnet50_v2_trunk

        if weights is not None:
            raise InputError(f"{network} holds its weights already; leave out --weights")
        return load_resnet50_v2_trunk(network)
    return open_network(network, weights, trained=True)


def read_images(files: list[Path], wanted: Preprocessing) -> tuple[list[np.ndarray], Tensor]:
    """Return images as RGB arrays `(H, W, 3)` and as the network's batch; one line for each that cannot be read.

    Raises:
        InputError: none of them can be read.
    """
    import torch

    from ghostnet.data import UnreadableImageError, evaluation_transform, read_image

    transform = evaluation_transform(wanted)
    pixels = []
    for path in files:
        try:
            pixels.append(transform(read_image(path.read_bytes, str(path))))
        except UnreadableImageError as error:
            if len(files) == 1:
                raise
            note(f"skipped {path}: {error.reason}")
    if not pixels:
        raise InputError(f"none of the {len(files)} images can be read")
    stacked = torch.stack(pixels)
    return [image.permute(1, 2, 0).numpy() for image in stacked], wanted.normalise(stacked)


def chosen_layer(model: nn.Module, batch: Tensor, layer: str | None) -> str:
    """Return the layer that is meant: the given one, or where the second convolution's maps are finished."""
    if layer is not None:
        return layer
    from ghostnet.measure import features as measured

    units = list(measured.unit_outputs(model, batch[:1]).values())
    if not units:
        raise InputError("the network has no convolution; name a layer with --layer")
    return units[min(1, len(units) - 1)]


def _layer(model: nn.Module, batch: Tensor, layer: str | None, size: int, top: int) -> dict[str, Any]:
    from ghostnet.measure import features as measured

    name = chosen_layer(model, batch, layer)
    maps = measured.feature_maps(model, name, batch)
    fits = measured.fit_pairs(maps, size)
    study = measured.study_pairs(maps).to_dict()
    ranked = [pair.to_dict() for pair in fits.ranked(top)]
    return {"layer": name, "cheap_kernel_size": size, "ranked": ranked, "table2": study}


def _scores(model: nn.Module, batch: Tensor, ratio: int, size: int) -> dict[str, Any]:
    from ghostnet.measure import features as measured

    found = measured.redundancy(model, batch, ratio=ratio, cheap_kernel_size=size)
    return {"scores": found.to_dict(), "least_hurt_first": [layer.name for layer in found.ranked()]}


def _pictures(out: Path | None) -> list[Path]:
    return (
        [] if out is None else [out / name for name in ("maps.png", "pairs.png", "ghosts.png", "beside.png")]
    )


def draw_pictures(
    model: nn.Module,
    pixels: list[np.ndarray],
    batch: Tensor,
    layer: str,
    out: Path,
    *,
    cheap_kernel_size: int = 3,
) -> list[str]:
    """Draw the first image's maps, the most alike pairs over all images, and a Ghost convolution's two kinds.

    Args:
        model: the network.
        pixels: RGB images `(H, W, 3)`.
        batch: the same as the network takes them, `(N, C, H, W)`.
        layer: dotted name.
        out: folder, made where it is missing.
        cheap_kernel_size: side d of the filters that say how alike a pair is.

    Returns:
        The files.
    """
    from ghostnet import recipes
    from ghostnet.measure import features as measured

    out.mkdir(parents=True, exist_ok=True)
    maps = measured.feature_maps(model, layer, batch)
    pairs = [(pair.source, pair.target) for pair in measured.fit_pairs(maps, cheap_kernel_size).most_alike(3)]
    all_maps, framed, ghosts, _ = _pictures(out)
    recipes.draw_maps(pixels[0], maps[0], all_maps, title=layer)
    recipes.draw_pairs(pixels[0], maps[0], pairs, framed, title=layer)
    written = [all_maps, framed]
    units = measured.unit_outputs(model, batch[:1])
    convolution = next((name for name, end in units.items() if layer in (name, end)), None)
    intrinsic = None if convolution is None else measured.intrinsic_maps(model.get_submodule(convolution))
    if intrinsic is not None:
        recipes.draw_ghosts(pixels[0], maps[0], intrinsic, ghosts, title=layer)
        written.append(ghosts)
    return [str(path) for path in written]


def _draw_beside(network: str, pixels: list[np.ndarray], batch: Tensor, layer: str, out: Path) -> list[str]:
    """Draw the same layer of another network, or its second convolution's maps where the name is unknown there."""
    from ghostnet import recipes
    from ghostnet.measure import features as measured

    other = open_any(network)
    name = layer if layer in dict(other.named_modules()) else chosen_layer(other, batch, None)
    path = _pictures(out)[-1]
    recipes.draw_maps(pixels[0], measured.feature_maps(other, name, batch[:1])[0], path, title=name)
    return [str(path)]


def _write(path: Path, value: dict[str, Any], seconds: float, credit: str) -> None:
    """Write the record; it names its pictures relative to itself."""
    from ghostnet.recipes import write_record

    recipe = {"name": Path(value["network"]).stem}
    metrics = {key: entry for key, entry in value.items() if key != "pictures"}
    metrics["network"] = Path(value["network"]).name
    more: dict[str, Any] = {}
    if value.get("pictures"):
        more["pictures"] = [os.path.relpath(picture, path.parent) for picture in value["pictures"]]
        more["credit"] = credit
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, metrics, seconds=seconds, recipe=recipe, more=more)


def _text(value: dict[str, Any]) -> str:
    parts = [scores_text(value["scores"])] if "scores" in value else [_pairs_text(value)]
    parts += [f"wrote {picture}" for picture in value.get("pictures", ())]
    return "\n".join(parts)


def scores_text(scores: dict[str, Any]) -> str:
    """Return a network's scores as a table, the layer that ghosting would hurt least first."""
    from ghostnet.report import scores_cells, text_table

    skipped = [f"skipped {name}: {reason}" for name, reason in scores["skipped"].items()]
    return "\n".join([text_table(*scores_cells(scores)), *skipped])


def _pairs_text(value: dict[str, Any]) -> str:
    from ghostnet.report import text_table

    study = value["table2"]
    lines = [
        f"{value['layer']}: {study['channels']} maps of {study['map_size'][0]}x{study['map_size'][1]}, "
        f"{study['images']} image(s)",
        "",
        text_table(
            ("source", "target", "MSE", "MSE / variance"),
            [
                (
                    str(pair["source"]),
                    str(pair["target"]),
                    f"{pair['mse']:.3e}",
                    f"{pair['relative_error']:.4f}",
                )
                for pair in value["ranked"]
            ],
        ),
        "",
        table2_text(study),
    ]
    return "\n".join(lines)


def table2_text(study: dict[str, Any]) -> str:
    """Return Table 2's experiment as text."""
    from ghostnet.report import text_table

    sizes = list(study["best_partner"])
    rows = [
        (f"{colour} ({pair['source']} -> {pair['target']})", *(f"{pair['mse'][size]:.3e}" for size in sizes))
        for colour, pair in zip(("red", "green", "blue"), study["pairs"], strict=False)
    ]
    rows.append(("best partner, MSE / variance", *(f"{study['best_partner'][size]:.4f}" for size in sizes)))
    return text_table(("MSE of the most alike pairs", *(f"d={size}" for size in sizes)), rows)
