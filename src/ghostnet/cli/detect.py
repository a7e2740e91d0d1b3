"""`ghostnet detect`: train, measure, use, export and time detectors; each is a verb of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.detect_bench import bench
from ghostnet.cli.detect_data import BAD_BOXES_HELP, DATA_HELP, SPLIT_HELP, opened_boxes
from ghostnet.cli.detect_export import export, open_detector
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.images import image_files
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import refuse_source
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from ghostnet.detect import DetectedImage

detect = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@detect.callback()
def _root() -> None:
    """Detect objects: RetinaNet and Faster R-CNN with FPN over any backbone of the zoo.

    \b
    Example:
      ghostnet detect train bccd_light --data BCCD start=trained.safetensors
      ghostnet detect predict runs/bccd_light-seed0.safetensors photos/ --out drawn
    """


@detect.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Packaged recipe of a detector, or a TOML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the detector, its result and its checkpoint.")] = Path(
        "runs"
    ),
    list_them: Annotated[bool, typer.Option("--list", help="List the packaged recipes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a detector as a recipe says; an interrupted run goes on from its checkpoint.

    \b
    Example:
      ghostnet detect train bccd_light --data BCCD start=trained.safetensors
      torchrun --nproc-per-node 8 -m ghostnet detect train retinanet_ghostnet_110 --data COCO weights=ghostnet_110.pth
    """
    from ghostnet.recipes import detection

    if list_them:
        names = detection.list_detection_recipes()
        answer(names, as_json=as_json, text=lambda: "\n".join(names))
        return
    if recipe is None:
        raise InputError("no recipe given; `ghostnet detect train --list` shows them")
    changes = list(overrides or ())
    if data is not None:
        # quoted: a folder named 2024 is no number
        changes.append(f"data={json.dumps(data, ensure_ascii=False)}")
    chosen = detection.load_detection_recipe(recipe, changes)
    from ghostnet.train import join_processes, leave_processes

    rank, _ = join_processes()
    result = detection.run_detection(chosen, out, force=force)
    leave_processes()
    if rank:
        return  # one answer is enough
    note(f"wrote {out / chosen.name}-seed{chosen.seed}.safetensors and .json")
    answer(result, as_json=as_json, text=lambda: _scores_text(result["metrics"]))


def _scores_text(found: dict[str, Any]) -> str:
    """Return COCO's twelve numbers in two lines and the classes as a table."""
    from ghostnet.detect import STATS
    from ghostnet.report import text_table

    lines = [", ".join(f"{name} {found[name]:.3f}" for name in names) for names in (STATS[:6], STATS[6:])]
    rows = [
        (name, f"{row['boxes']:,}", f"{row['AP']:.3f}", f"{row['AP50']:.3f}")
        for name, row in found["classes"].items()
    ]
    return "\n".join([*lines, "", text_table(("class", "boxes", "AP", "AP50"), rows)])


@detect.command(name="eval")
def evaluate(
    context: typer.Context,
    detector: Annotated[
        str | None, typer.Argument(help="Saved or exported (.onnx) detector; none with --results.")
    ] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "",
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = "",
    results: Annotated[
        Path | None,
        typer.Option(help="Measure this file of detections in COCO's format instead of a detector."),
    ] = None,
    bad_boxes: Annotated[str, typer.Option(help=BAD_BOXES_HELP)] = "error",
    out: Annotated[Path | None, typer.Option(help="Also write the detections, in COCO's format.")] = None,
    batch_size: Annotated[int, integer_option(help="Images a batch.")] = 8,
    workers: Annotated[int, integer_option(help="Processes that decode; 0 for none.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of detections.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure COCO's average precision of a detector, or of a results file.

    \b
    Example:
      ghostnet detect eval runs/bccd_light-seed0.safetensors --data BCCD --split test
      ghostnet detect eval --results found.json --data instances_val2017.json
    """
    if (detector is None) == (results is None):
        raise InputError("give either a saved detector or --results FILE")
    if not data:
        raise InputError("there is nothing to measure on; give --data, a folder or a JSON of annotations")
    listed = results is not None and data.endswith(".json")  # all its boxes count, and no image need be there
    refuse_idle(
        context,
        (results is None, "measuring a detector", ("out", "batch_size", "workers")),
        (out is not None, "--out", ("force",)),
        (not listed, "sets whose images are read", ("split", "bad_boxes")),
    )
    if out is not None:
        refuse_source(out, detector, data)
        refuse_overwrite(out, force=force)
    from ghostnet import detect as room
    from ghostnet.data import DetectionBatches

    if results is not None:
        found = room.score_file(data if listed else opened_boxes(data, split, bad_boxes).to_coco(), results)
    else:
        source = opened_boxes(data, split, bad_boxes)
        model = open_detector(str(detector))
        batches = DetectionBatches(source.with_classes(model.classes), batch_size, workers=workers)
        boxes, seconds = room.detect(model, batches, progress=True)
        found = room.score_results(batches.source.to_coco(), boxes, seconds=round(seconds, 3))
        if out is not None:
            from ghostnet.recipes import write_json

            write_json(out, boxes)
            note(f"wrote {out}")
    answer(found.to_dict(), as_json=as_json, text=lambda: _scores_text(found.to_dict()))


@detect.command()
def predict(
    detector: Annotated[str, typer.Argument(help="Saved or exported (.onnx) detector.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Where to detect.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures with boxes drawn on them, STEM_boxes.jpg.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="Also write the boxes as a JSON in COCO's format.")
    ] = None,
    least_score: Annotated[float, typer.Option(help="Leave out boxes with a lower score.")] = 0.5,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at an image that cannot be read.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite pictures and the JSON.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find objects in images: a table, the pictures with boxes on them, and COCO's JSON.

    \b
    Example:
      ghostnet detect predict runs/bccd_light-seed0.safetensors photos/ --out drawn --coco found.json
    """
    files = image_files(images)
    from ghostnet import detect as room

    drawn = [room.drawn_path(file, out) for file in files] if out else []
    for path in [*([coco] if coco else []), *drawn]:
        refuse_source(path, detector)
        refuse_overwrite(path, force=force)

    model = open_detector(detector)
    found = room.detect_files(
        model, files, least_score=least_score, out_dir=out, strict=strict, progress=len(files) > 1
    )
    value = room.as_coco(found, model.classes, folders=[path for path in images if path.is_dir()])
    if coco is not None:
        from ghostnet.recipes import write_json

        write_json(coco, value)
        note(f"wrote {coco}")
    answer(value, as_json=as_json, text=lambda: _boxes_text(found))


detect.command()(export)
detect.command()(bench)


def _boxes_text(found: list[DetectedImage]) -> str:
    from ghostnet.report import text_table

    rows = []
    for image in found:
        place = str(image.path)
        for entry in image.boxes:
            rows.append((place, entry.label, f"{entry.score:.2f}", " ".join(f"{v:.0f}" for v in entry.box)))
            place = ""
        if not image.boxes:
            rows.append((place, image.error or "nothing", "–", "–"))
    return text_table(("image", "class", "score", "x1 y1 x2 y2"), rows)
