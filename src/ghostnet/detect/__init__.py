"""Object detection: RetinaNet and Faster R-CNN with FPN over any backbone of the zoo (Table 8)."""

from ghostnet.detect.agreement import Agreement, agreement, boxes_that_stay
from ghostnet.detect.coco_eval import STATS, CocoScores, score_file, score_results
from ghostnet.detect.detector import Detector, create_detector
from ghostnet.detect.evaluate import detect, evaluate_detector
from ghostnet.detect.export import DetectorExport, export_detector
from ghostnet.detect.exported import ExportedDetector
from ghostnet.detect.layouts import load_torchvision_
from ghostnet.detect.objective import DetectionObjective
from ghostnet.detect.predict import DetectedImage, FoundBox, as_coco, detect_files, draw_boxes, drawn_path
from ghostnet.detect.saved import load_detector, save_detector
from ghostnet.detect.session import RUNTIMES, DetectorSession, load_detector_file
from ghostnet.detect.settings import KINDS, DetectorSettings, light_settings
from ghostnet.detect.speed import fresh_detector

__all__ = [
    "KINDS",
    "RUNTIMES",
    "STATS",
    "Agreement",
    "CocoScores",
    "DetectedImage",
    "DetectionObjective",
    "Detector",
    "DetectorExport",
    "DetectorSession",
    "DetectorSettings",
    "ExportedDetector",
    "FoundBox",
    "agreement",
    "as_coco",
    "boxes_that_stay",
    "create_detector",
    "detect",
    "detect_files",
    "draw_boxes",
    "drawn_path",
    "evaluate_detector",
    "export_detector",
    "fresh_detector",
    "light_settings",
    "load_detector",
    "load_detector_file",
    "load_torchvision_",
    "save_detector",
    "score_file",
    "score_results",
]
