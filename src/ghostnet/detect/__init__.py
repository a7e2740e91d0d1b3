"""Object detection: RetinaNet and Faster R-CNN with FPN over any backbone of the zoo (Table 8)."""

from ghostnet.detect.coco_eval import STATS, CocoScores, score_file, score_results
from ghostnet.detect.detector import Detector, create_detector
from ghostnet.detect.evaluate import detect, evaluate_detector
from ghostnet.detect.objective import DetectionObjective
from ghostnet.detect.saved import load_detector, save_detector
from ghostnet.detect.settings import KINDS, DetectorSettings, light_settings

__all__ = [
    "KINDS",
    "STATS",
    "CocoScores",
    "DetectionObjective",
    "Detector",
    "DetectorSettings",
    "create_detector",
    "detect",
    "evaluate_detector",
    "light_settings",
    "load_detector",
    "save_detector",
    "score_file",
    "score_results",
]
