"""Variants of recipes: overrides with a name, which the recipe's own name gets as its ending.

"long" is the schedule that the authors gave users (400 epochs, rate divided at 200, 300 and 375); "distilled" learns
from the dense network as well as from labels. The resolved recipe is in each result.
"""

from __future__ import annotations

from ghostnet.errors import unknown_name
from ghostnet.recipes.schema import Recipe, load_recipe

VARIANTS = ("", "long", "distilled")
_LONG = ["epochs=400", "milestones=[0.5, 0.75, 0.9375]"]


def load_variant(recipe: str, variant: str = "", *, dense: str | None = None, seed: int = 0) -> Recipe:
    """Load a packaged recipe in a variant.

    Args:
        recipe: its name.
        variant: "", "long" or "distilled".
        dense: weights of a trained dense network to start or learn from, instead of those that the recipe names.
        seed: of the run.

    Raises:
        InputError: an unknown recipe or variant.

    Example:
        >>> load_variant("vgg16", "long").name
        'vgg16_long'
    """
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    plain = load_recipe(recipe)
    changes = [f"seed={seed}"]
    if dense is not None and plain.weights and not plain.weights.startswith("@"):
        changes.append(f"weights='{dense}'")
    if variant:
        changes.append(f"name={recipe}_{variant}")
    if variant == "long":
        changes += _LONG
    if variant == "distilled":
        changes += ["distillation_weight=0.9", "temperature=4.0", "teacher=dense"]
        if not plain.converts:
            changes += ["teacher=resnet20", f"teacher_weights='{dense or 'akamaster'}'"]
    return load_recipe(recipe, changes)
