"""Recipes of detectors: their TOML files and keys, and the run that joins backbone, boxes, loop and evaluation."""

from ghostnet.recipes.detection.schema import DetectionRecipe, list_detection_recipes, load_detection_recipe
from ghostnet.recipes.detection.table8 import BACKBONES, DETECTORS, Backbone, answered_rows
from ghostnet.recipes.detection.train import build_detector, run_detection

__all__ = [
    "BACKBONES",
    "DETECTORS",
    "Backbone",
    "DetectionRecipe",
    "answered_rows",
    "build_detector",
    "list_detection_recipes",
    "load_detection_recipe",
    "run_detection",
]
