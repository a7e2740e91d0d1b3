"""Recipes as TOML files, and the one place where networks, data, conversion, training and deployment meet."""

from ghostnet.recipes.demo import run_demo
from ghostnet.recipes.feature_maps import draw_feature_maps, layer_output
from ghostnet.recipes.fine_tune import fine_tune_recipe
from ghostnet.recipes.result import make_result, write_json
from ghostnet.recipes.schema import Recipe, list_recipes, load_recipe
from ghostnet.recipes.train import run_recipe

__all__ = [
    "Recipe",
    "draw_feature_maps",
    "fine_tune_recipe",
    "layer_output",
    "list_recipes",
    "load_recipe",
    "make_result",
    "run_demo",
    "run_recipe",
    "write_json",
]
