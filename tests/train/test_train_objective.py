"""The loop with an objective of one's own: lists as batches, another measure, limited gradients."""

import pytest
import torch
from torch import nn

from ghostnet import InputError
from ghostnet.train import TrainSettings, Watch, fit


class Pairs:
    """Batches of lists: vectors of several lengths, whose sums a network is to learn."""

    batch_size = 6
    seed = 0

    def __len__(self):
        return 4

    def epoch(self, epoch, *, start=0, share=(0, 1), device=None):  # noqa: ARG002
        for index in range(start, len(self)):
            generator = torch.Generator().manual_seed(100 * epoch + index)
            vectors = [torch.rand(2 + number, generator=generator) for number in range(self.batch_size)]
            yield vectors, [{"sum": vector.sum()} for vector in vectors]

    def __iter__(self):
        return self.epoch(0)


class Scale(nn.Module):
    """One weight: the sum of a vector times it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, vectors):
        return torch.stack([vector.sum() for vector in vectors]) * self.weight[0]


def squares(model, vectors, answers):
    assert isinstance(vectors, list)
    return (model(vectors) - torch.stack([answer["sum"] for answer in answers])).square().mean()


def test_lists_are_learnt_from_and_pieces_give_the_same_step():
    weights = []
    for pieces in (1, 4):
        model = Scale()
        settings = TrainSettings(
            epochs=10, learning_rate=0.03, momentum=0, weight_decay=0, bf16=False, accumulation_steps=pieces
        )
        result = fit(model, Pairs(), settings, objective=squares, progress=False)
        assert result.steps == 40
        assert model.weight.item() == pytest.approx(1, abs=0.05)
        weights.append(model.weight.item())
    assert weights[0] == pytest.approx(weights[1], abs=1e-5)


class Found:
    """What was measured: the weight."""

    def __init__(self, value):
        self.value = value

    def to_dict(self):
        return {"AP": self.value, "loss": 1.0, "seconds": 2.0, "classes": {"a": 1}}


def test_another_measure_decides_which_network_is_best():
    kept, logged = [], []
    watch = Watch(
        Pairs(),
        1,
        on_best=lambda model, found: kept.append((model.weight.item(), found.value)),
        log=lambda step, values: logged.append((step, dict(values))),
        measure=lambda model, batches, *, progress=False: Found(-abs(model.weight.item() - 0.5)),  # noqa: ARG005
        score="AP",
    )
    settings = TrainSettings(epochs=6, learning_rate=0.02, momentum=0, weight_decay=0, bf16=False)
    result = fit(Scale(), Pairs(), settings, objective=squares, watch=watch, progress=False)
    scores = [entry["AP"] for entry in result.evaluations]
    assert len(scores) == 6
    assert result.best("AP") == max(scores) == kept[-1][1] > scores[-1]
    held_out = [values for _, values in logged if "held_out/AP" in values]
    assert {key for values in held_out for key in values} == {"held_out/AP", "held_out/loss"}


def test_gradients_are_limited():
    moved = []
    for clip in (0.0, 0.5):
        model = Scale()
        settings = TrainSettings(
            epochs=0.25,
            learning_rate=0.1,
            schedule="constant",
            warmup_fraction=0,
            momentum=0,
            weight_decay=0,
            gradient_clip=clip,
        )
        fit(model, Pairs(), settings, objective=squares, progress=False)
        moved.append(abs(model.weight.item()))
    assert moved[0] > 0.1
    assert moved[1] == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(InputError, match=r"`gradient_clip` \(=-1\) must be a finite number >= 0"):
        TrainSettings(gradient_clip=-1)


def test_plain_momentum_is_another_path():
    ends = []
    for nesterov in (True, False):
        model = Scale()
        settings = TrainSettings(epochs=1, learning_rate=0.005, nesterov=nesterov, weight_decay=0)
        fit(model, Pairs(), settings, objective=squares, progress=False)
        ends.append(model.weight.item())
    assert ends[0] != ends[1]
