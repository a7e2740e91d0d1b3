"""One training loop for every network: schedules, distillation, EMA, checkpoints, evaluation."""

from ghostnet.train.checkpoint import other_run
from ghostnet.train.evaluate import Evaluation, evaluate, scores_of
from ghostnet.train.loop import fit
from ghostnet.train.objective import Objective, classification_loss
from ghostnet.train.predict import Prediction, predict
from ghostnet.train.processes import (
    join_processes,
    leave_processes,
    share_of_processes,
    union_over_processes,
    wait_for_first,
)
from ghostnet.train.run import TrainResult
from ghostnet.train.schedule import make_schedule
from ghostnet.train.settings import TrainSettings
from ghostnet.train.stacked import (
    StackedBatches,
    StackedNetworks,
    why_not_stacked,
    why_not_together,
)
from ghostnet.train.teacher import AdaptedTeacher
from ghostnet.train.watch import Watch, tensorboard_log

__all__ = [
    "AdaptedTeacher",
    "Evaluation",
    "Objective",
    "Prediction",
    "StackedBatches",
    "StackedNetworks",
    "TrainResult",
    "TrainSettings",
    "Watch",
    "classification_loss",
    "evaluate",
    "fit",
    "join_processes",
    "leave_processes",
    "make_schedule",
    "other_run",
    "predict",
    "scores_of",
    "share_of_processes",
    "tensorboard_log",
    "union_over_processes",
    "wait_for_first",
    "why_not_stacked",
    "why_not_together",
]
