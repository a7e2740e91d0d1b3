"""One training loop for every network: schedules, distillation, EMA, checkpoints, evaluation."""

from ghostnet.train.evaluate import Evaluation, evaluate
from ghostnet.train.loop import TrainResult, fit
from ghostnet.train.objective import classification_loss
from ghostnet.train.processes import share_of_processes
from ghostnet.train.schedule import make_schedule
from ghostnet.train.settings import TrainSettings
from ghostnet.train.watch import Watch, tensorboard_log

__all__ = [
    "Evaluation",
    "TrainResult",
    "TrainSettings",
    "Watch",
    "classification_loss",
    "evaluate",
    "fit",
    "make_schedule",
    "share_of_processes",
    "tensorboard_log",
]
