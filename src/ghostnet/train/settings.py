"""How a network is trained, checked when it is made; recipes have the same keys."""

from __future__ import annotations

from dataclasses import dataclass

from ghostnet.errors import InputError, unknown_name
from ghostnet.train.schedule import make_schedule

OPTIMIZERS = ("sgd", "adamw", "muon")
_MOST_EPOCHS = 1_000_000_000  # the steps of more could not be counted
_HIGHEST_ADAPTIVE_RATE = (
    0.05  # steps of that share of a weight's usual size, or more: SGD's rates, given by mistake
)


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the data; a fraction ends in the middle of one.
        optimizer: "sgd"; "adamw"; or "muon" for the kernels of convolutions, with AdamW for the rest, see
            `train.optimizer`: fewer epochs where no shortcuts help.
        learning_rate: peak rate: about 0.1 for "sgd", 0.001 for "adamw", 0.005 for "muon".
        schedule: "linear", "cosine", "step" or "constant".
        warmup_fraction: share of the run with a rising rate.
        milestones: shares of the run at which "step" divides the rate by ten.
        momentum: of SGD and Muon; AdamW's first beta.
        nesterov: look ahead (Nesterov's form); the ResNet paper does not.
        weight_decay: on weights of two and more dimensions; of "adamw" and "muon" apart from the gradient, and in
            units of the rate: 0.05 to 0.2 is usual.
        decay_norms: decay batch norm's weights and all biases too, as the ResNet paper does.
        label_smoothing: share of the target spread over all classes.
        ema_decay: 0 for none; otherwise the averaged weights are the result.
        distillation_weight: share of the teacher's term when there is a teacher.
        temperature: of distillation.
        feature_layers: module paths whose outputs are drawn to the teacher's; see `train.feature_match`.
        feature_weight: weight of that term, the mean relative squared error of those outputs.
        bf16: bfloat16 autocast, on devices that have it; others would imitate it slowly, and train in float32.
        compile: compile the step with `torch.compile`, on a GPU with CUDA graphs, which small networks need there: they
            wait for kernels to be launched. It takes a minute or two to begin with.
        checkpoint_seconds: time between checkpoints.
        accumulation_steps: pieces that each process cuts its share of a batch into, one after the other in memory;
            the optimiser still steps once a batch. Batch norm then sees one piece at a time.
        freeze_batch_norm: leave the statistics of batch norm as they are.
        gradient_clip: largest norm of all gradients together; 0 for no limit.
    """

    epochs: float = 1.0
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    schedule: str = "linear"
    warmup_fraction: float = 0.1
    milestones: tuple[float, ...] = ()
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = False
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    distillation_weight: float = 0.9
    temperature: float = 4.0
    feature_layers: tuple[str, ...] = ()
    feature_weight: float = 1.0
    bf16: bool = True
    compile: bool = False
    checkpoint_seconds: float = 60.0
    accumulation_steps: int = 1
    freeze_batch_norm: bool = False
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "temperature", "checkpoint_seconds"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"`{name}` (={value}) must be a finite number above 0")
        if self.epochs > _MOST_EPOCHS:
            raise InputError(f"`epochs` (={self.epochs}) must be at most {_MOST_EPOCHS:,}")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be at least 0 and below 1")
        if not 0 <= self.distillation_weight <= 1:
            raise InputError(f"`distillation_weight` (={self.distillation_weight}) must be between 0 and 1")
        for name in ("weight_decay", "feature_weight", "gradient_clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"`{name}` (={getattr(self, name)}) must be a finite number >= 0")
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.optimizer != "sgd" and self.learning_rate > _HIGHEST_ADAPTIVE_RATE:
            raise InputError(
                f"`learning_rate` (={self.learning_rate}) is one for SGD; {self.optimizer} takes about "
                f"{'0.001' if self.optimizer == 'adamw' else '0.005'}, and {_HIGHEST_ADAPTIVE_RATE} at most"
            )
        make_schedule(self.schedule, 1, warmup_fraction=self.warmup_fraction, milestones=self.milestones)
        if self.accumulation_steps < 1:
            raise InputError(f"`accumulation_steps` (={self.accumulation_steps}) must be an integer >= 1")
