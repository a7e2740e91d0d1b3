"""One training loop for every network: schedules, distillation, EMA, checkpoints, evaluation."""

from ghostnet.train.evaluate import Evaluation, evaluate
from ghostnet.train.loop import TrainResult, TrainSettings, fit
from ghostnet.train.objective import classification_loss
from ghostnet.train.schedule import make_schedule

__all__ = [
    "Evaluation",
    "TrainResult",
    "TrainSettings",
    "classification_loss",
    "evaluate",
    "fit",
    "make_schedule",
]
