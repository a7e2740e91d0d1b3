"""Put a finished training run into the package: half-precision weights and the model card that its result dictates.

For maintainers, from the repository's root:

    python scripts/package_weights.py runs/dense/resnet9_050-seed0 cifar10
    python scripts/package_weights.py runs/ghost_resnet56_published-seed0 ghost LICENSE-of-what-it-started-from

The card's numbers come from the run's JSON and from an evaluation of the very file that is shipped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ghostnet
from ghostnet import data, models
from ghostnet.files import atomic_write
from ghostnet.recipes import load_recipe
from ghostnet.recipes.sets import batches_of
from ghostnet.train import evaluate

_FOLDER = Path(models.__file__).parent / "weights"
_CARD = """# {model}, weights `{tag}`

- **Task**: CIFAR-10, 10 classes, 32x32 RGB; pixels in [0, 1] normalised with mean {mean}, std {std}.
- **Accuracy**: {top1:.2f} % top-1, {top5:.2f} % top-5 on all {count:,} test images, of this file (half precision) as
  evaluated in float32; {trained:.2f} % before rounding to half precision.
- **Size**: {params:,} parameters, {macs:,} MACs, {megabytes:.2f} MB.
- **Training**: recipe `{recipe}` (`{command}`), {epochs:g} epochs, {steps:,} steps, {seconds:,.0f} s on {cpu}
  ({threads} thread(s)), seed {seed}, commit {commit}; record `{record}`.
  The 50,000 training images only; no test image was looked at.
- **Source and licence**: {source}
- **Use**: `{use}`. A small network to learn with.
"""


def source_of(recipe: dict[str, Any]) -> str:
    """Return where the weights come from, and their licence."""
    own = "trained by this repository's own code; Apache-2.0."
    cards = [card for card in models.weight_cards(recipe["model"]) if card.tag == recipe["weights"]]
    if not cards:
        return own
    (start,) = cards
    return (
        f"started from weights of {start.publisher} ({start.measured_top1} % top-1; {start.source}), "
        f"{start.licence}, whose notice is below;\n  {own}"
    )


def main(stem: str, tag: str, notice: str = "") -> None:
    """Write `<model>.<tag>.safetensors` and its card, which ends with the notice in a file, if one is named."""
    result = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
    recipe, metrics, place = result["recipe"], result["metrics"], result["environment"]
    network = ghostnet.load(f"{stem}.safetensors")
    path = _FOLDER / f"{recipe['model']}.{tag}.safetensors"
    info = {key: recipe[key] for key in ("mean", "std")}
    info |= {"classes": list(data.CIFAR10_CLASSES), "recipe": recipe["name"]}
    ghostnet.save(network, path, half=True, info=info)
    shipped = ghostnet.load(path)
    test = batches_of(data.load_cifar10(), load_recipe(recipe["name"]), training=False)
    measured = evaluate(shipped, test)
    converted = bool(network.ghostnet_edits)
    card = _CARD.format(
        use=f'ghostnet.load("{recipe["model"]}.{tag}")'
        if converted
        else f'ghostnet.create_model("{recipe["model"]}", weights="{tag}")',
        model=recipe["model"],
        tag=tag,
        mean=recipe["mean"],
        std=recipe["std"],
        top1=measured.top1,
        top5=measured.top5,
        count=measured.count,
        trained=metrics["top1"],
        params=metrics["params"],
        macs=metrics["macs"],
        megabytes=path.stat().st_size / 1e6,
        recipe=recipe["name"],
        record=Path(stem).name,
        command=result["command"],
        epochs=recipe["epochs"],
        steps=metrics["steps"],
        seconds=metrics["train_seconds"],
        cpu=place["cpu"],
        threads=place["threads"],
        seed=result["seed"],
        commit=str(result["commit"])[:12],
        source=source_of(recipe),
    )
    if notice:
        card += (
            f"\n## Notice of the weights that this started from\n\n{Path(notice).read_text(encoding='utf-8')}"
        )
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main(*sys.argv[1:])
