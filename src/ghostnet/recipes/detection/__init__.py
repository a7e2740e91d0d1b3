"""Recipes of detectors: their TOML files and keys, and the run that joins backbone, boxes, loop and evaluation."""

from ghostnet.recipes.detection.export import DetectorInt8, export_rewritten, quantize_detector
from ghostnet.recipes.detection.schema import DetectionRecipe, list_detection_recipes, load_detection_recipe
from ghostnet.recipes.detection.table8 import BACKBONES, DETECTORS, Backbone, answered_rows
from ghostnet.recipes.detection.train import build_detector, run_detection

__all__ = [
    "BACKBONES",
    "DETECTORS",
    "Backbone",
    "DetectionRecipe",
    "DetectorInt8",
    "answered_rows",
    "build_detector",
    "export_rewritten",
    "list_detection_recipes",
    "load_detection_recipe",
    "quantize_detector",
    "run_detection",
]
