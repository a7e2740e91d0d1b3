"""What `ghostnet reproduce` runs for the exhibits that need no training: counts, Table 2's fits, feature pictures.

An exhibit that is not in `RUNS` has nothing to run here: Tables 3 to 5 are planned in `reproduce`. Fig. 7 reads what
`ghostnet bench` writes. A new exhibit is one more entry.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class RunOptions:
    """What the user gave beside the exhibit.

    Attributes:
        results: folder of the records.
        network: for Table 2 and Fig. 1, 4, 5: name or file.
        layer: dotted name, or None for the usual one.
        images: image files or folders.
        limit: how many of the images are used.
        credit: author and licence of the first image.
        force: run although there is a record.
    """

    results: Path
    network: str | None = None
    layer: str | None = None
    images: tuple[Path, ...] = ()
    limit: int = 8
    credit: str = ""
    force: bool = False


def run_exhibit(key: str, options: RunOptions) -> None:
    """Run an exhibit of `RUNS` unless its record is there.

    Raises:
        InputError: what it needs was not given.
    """
    RUNS[key](key, options)


def _recorded(path: Path, options: RunOptions) -> bool:
    return path.is_file() and not options.force


def _record(path: Path, exhibit: str, name: str, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    from ghostnet.recipes import make_result

    path.parent.mkdir(parents=True, exist_ok=True)
    return make_result(exhibit, metrics=metrics, seconds=seconds, seed=0, recipe={"name": name})


def _count(rows: Callable[[], list[dict[str, Any]]]) -> Callable[[str, RunOptions], None]:
    def count(key: str, options: RunOptions) -> None:
        from ghostnet.recipes import write_json

        path = options.results / key / "counts.json"
        if not _recorded(path, options):
            started = time.monotonic()
            metrics = {"rows": rows()}
            write_json(path, _record(path, key, "counts", metrics, time.monotonic() - started))

    return count


def table1_rows() -> list[dict[str, Any]]:
    """Return GhostNet's layers as they run at 224x224, in the order and words of Table 1; each says if it `agrees`."""
    import torch

    from ghostnet import models, paper

    network: Any = models.create_model("ghostnet_100", rounding="paper").eval()
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def seen(name: str) -> Any:
        return lambda _module, inputs, output: shapes.update({name: (inputs[0].shape, output.shape)})

    names = ["stem", *(f"blocks.{number}" for number in range(len(network.blocks))), "last", "pool", "head"]
    for name in [*names, "classifier"]:
        network.get_submodule(name).register_forward_hook(seen(name))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    rows = []
    for printed, name in zip(paper.table(1), [*names, "classifier"], strict=True):
        found = _table1_row(network.get_submodule(name), printed, *shapes[name])
        compared = [
            key for key in ("input", "expansion", "out_channels", "se", "stride") if printed[key] is not None
        ]
        rows.append({**found, "agrees": all(found[key] == printed[key] for key in compared)})
    return rows


def _table1_row(module: Any, printed: Any, given: Any, made: Any) -> dict[str, Any]:
    block = hasattr(module, "expand")
    side = list(given[2:]) if len(given) == 4 else [1, 1]
    stride = side[0] // made[2] if len(made) == 4 and printed["stride"] is not None else printed["stride"]
    return {
        "input": "x".join(map(str, [*side, given[1]])),
        "operator": printed["operator"],
        "expansion": module.expand.out_channels if block else None,
        "out_channels": None if printed["out_channels"] is None else made[1],
        "se": int(block and module.squeeze_excite is not None),
        "stride": stride,
    }


_GHOST_PARAMS = (
    "all convolutions but the stem ghosted, d = 3: the MACs agree, the printed parameters follow from no definition "
    "that gives these MACs (with the classifier ghosted too they are 12.93 and 6.62 M)"
)
_TABLE6 = {
    "ResNet-50": ("resnet50", {}, ""),
    "Ghost-ResNet-50 (s=2)": ("ghost_resnet50", {"ratio": 2}, _GHOST_PARAMS),
    "Ghost-ResNet-50 (s=4)": ("ghost_resnet50", {"ratio": 4}, _GHOST_PARAMS),
}


def table6_rows() -> list[dict[str, Any]]:
    """Return Table 6's networks that are built here, counted, in its order."""
    from ghostnet import measure, models, paper

    rows = []
    for printed in paper.table(6):
        label = str(printed["model"])
        if label not in _TABLE6:
            continue
        name, args, reason = _TABLE6[label]
        arguments: dict[str, Any] = dict(args)
        counted = measure.profile(models.create_model(name, **arguments), (3, 224, 224))
        agreed = round(counted.params / 1e6, 1) == printed["params_m"]
        agreed = agreed and round(counted.macs / 1e9, 1) == printed["macs_b"]
        rows.append(
            {
                "row": label,
                "name": name,
                "args": arguments,
                "status": "agrees" if agreed else "differs",
                "params": counted.params,
                "macs": counted.macs,
                "reason": "" if agreed else reason,
            }
        )
    return rows


def width_rows() -> list[dict[str, Any]]:
    """Return GhostNet counted at the paper's four widths, in the forms "torch" and "paper" (see `rounding`)."""
    from torch import nn

    from ghostnet import measure, models

    rows = []
    for width in (0.5, 1.0, 1.1, 1.3):
        row: dict[str, Any] = {"width_mult": width}
        for form in ("torch", "paper"):
            network = models.create_model("ghostnet_100", width_mult=width, rounding=form)
            counted = measure.profile(network, (3, 224, 224))
            norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
            norm_params = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
            row[form] = {"params": counted.params, "macs": counted.macs, "norm_params": norm_params}
        rows.append(row)
    return rows


def _table7(key: str, options: RunOptions) -> None:
    """Count Table 7 as `ghostnet models --table 7` does, and GhostNet's four widths in both forms."""
    from ghostnet.cli.table7 import table7_rows
    from ghostnet.recipes import write_json

    _count(table7_rows)(key, options)
    path = options.results / "ghostnet_widths" / "counts.json"
    if not _recorded(path, options):
        started = time.monotonic()
        metrics = {"rows": width_rows()}
        write_json(path, _record(path, "ghostnet_widths", "counts", metrics, time.monotonic() - started))


def _table8_rows() -> list[dict[str, Any]]:
    """Return Table 8's backbones, counted; records of `ghostnet detect train` add their mAP."""
    from ghostnet.cli.table8 import table8_rows

    return table8_rows()


def _features(key: str, options: RunOptions) -> None:
    """Run Table 2 or draw Fig. 1, 4 or 5 on a network and images."""
    from ghostnet import report

    if options.network is None:
        if report.records_of(key, _known(options.results)) and not options.force:
            return
        raise InputError(f"{key} needs a trained network and images: --network FILE --images PATH")
    name = f"{key}_{Path(options.network).name.split('.')[0].replace('-', '_')}"
    path = options.results / "features" / f"{name}.json"
    if _recorded(path, options):
        return
    if not options.images:
        raise InputError(f"{key} needs images to look at: --images PATH")
    _write_features(key, name, path, options)


def _write_features(key: str, name: str, path: Path, options: RunOptions) -> None:
    from ghostnet.cli.features import chosen_layer, open_any, read_images
    from ghostnet.cli.images import image_files, preprocessing_for
    from ghostnet.measure import features as measured
    from ghostnet.recipes import write_json

    started = time.monotonic()
    model = open_any(str(options.network))
    files = image_files(options.images)[: options.limit]
    pixels, batch = read_images(files, preprocessing_for(model))
    layer = chosen_layer(model, batch, options.layer)
    maps = measured.feature_maps(model, layer, batch)
    metrics: dict[str, Any] = {
        "network": Path(str(options.network)).name,
        "layer": layer,
        "images": len(batch),
    }
    picture = None
    if key == "table2":
        metrics["table2"] = measured.study_pairs(maps).to_dict()
    else:
        picture = path.with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        metrics |= _drawn(key, model, layer, batch, (pixels[0], maps, picture))
    record = _record(path, "features", name, metrics, time.monotonic() - started)
    if picture is not None:
        record |= {"pictures": [os.path.relpath(picture, path.parent)], "credit": options.credit}
    write_json(path, record)


def _drawn(
    key: str, model: nn.Module, layer: str, batch: Any, drawing: tuple[Any, Any, Path]
) -> dict[str, Any]:
    """Draw one figure and return what it shows in numbers."""
    from ghostnet import recipes
    from ghostnet.measure import features as measured

    pixels, maps, picture = drawing
    if key == "figure1":
        pairs = measured.fit_pairs(maps, 3).most_alike(3)
        numbers = [(pair.source, pair.target) for pair in pairs]
        recipes.draw_pairs(pixels, maps[0], numbers, picture, title=layer)
        return {"pairs": [pair.to_dict() for pair in pairs]}
    if key == "figure5":
        recipes.draw_maps(pixels, maps[0], picture, title=layer)
        return {"maps": maps.shape[1]}
    units = measured.unit_outputs(model, batch[:1])
    convolution = next((name for name, end in units.items() if layer in (name, end)), "")
    intrinsic = measured.intrinsic_maps(model.get_submodule(convolution)) if convolution else None
    if intrinsic is None:
        raise InputError(f"layer {layer!r} is no Ghost convolution's: Fig. 4 shows intrinsic and ghost maps")
    recipes.draw_ghosts(pixels, maps[0], intrinsic, picture, title=layer)
    return {"intrinsic": int(intrinsic.sum()), "ghosts": int((~intrinsic).sum())}


def _known(results: Path) -> list[Any]:
    from ghostnet import report

    return report.read_results(results, on_error=lambda _error: None)


def _plot(_key: str, options: RunOptions) -> None:
    """Fig. 6 draws Table 7's counts; Fig. 7 needs its names, and takes latencies from `ghostnet bench`'s records."""
    _table7("table7", options)


RUNS: dict[str, Callable[[str, RunOptions], None]] = {
    "table1": _count(table1_rows),
    "table2": _features,
    "table6": _count(table6_rows),
    "table7": _table7,
    "table8": _count(_table8_rows),
    "figure1": _features,
    "figure4": _features,
    "figure5": _features,
    "figure6": _plot,
    "figure7": _plot,
}
