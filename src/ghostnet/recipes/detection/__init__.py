"""Recipes of detectors: their TOML files and keys, and the run that joins backbone, boxes, loop and evaluation."""

from ghostnet.recipes.detection.schema import DetectionRecipe, list_detection_recipes, load_detection_recipe
from ghostnet.recipes.detection.train import build_detector, run_detection

__all__ = [
    "DetectionRecipe",
    "build_detector",
    "list_detection_recipes",
    "load_detection_recipe",
    "run_detection",
]
