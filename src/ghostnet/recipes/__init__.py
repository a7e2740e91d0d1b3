"""Recipes as TOML files, and the one place where networks, data, conversion, training and deployment meet."""

from ghostnet.recipes.conversion import sparsity_training
from ghostnet.recipes.demo import run_demo
from ghostnet.recipes.feature_pictures import draw_ghosts, draw_maps, draw_pairs
from ghostnet.recipes.fine_tune import fine_tune_recipe
from ghostnet.recipes.fine_tune_int8 import fine_tune_int8
from ghostnet.recipes.plan import make_plan, run_plan
from ghostnet.recipes.result import make_result, write_json, write_record
from ghostnet.recipes.schema import Recipe, list_recipes, load_recipe
from ghostnet.recipes.together import run_together
from ghostnet.recipes.train import run_recipe
from ghostnet.recipes.variants import VARIANTS, load_variant

__all__ = [
    "VARIANTS",
    "Recipe",
    "draw_ghosts",
    "draw_maps",
    "draw_pairs",
    "fine_tune_int8",
    "fine_tune_recipe",
    "list_recipes",
    "load_recipe",
    "load_variant",
    "make_plan",
    "make_result",
    "run_demo",
    "run_plan",
    "run_recipe",
    "run_together",
    "sparsity_training",
    "write_json",
    "write_record",
]
