"""The loop: it learns, refuses what cannot work, and Ctrl-C leaves a checkpoint."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ghostnet import InputError
from ghostnet.data import Augmentation, ImageBatches, Preprocessing, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import (
    StackedBatches,
    TrainSettings,
    classification_loss,
    evaluate,
    fit,
    make_schedule,
    predict,
)


def separable(count=64):
    """Return images whose mean colour is their label."""
    labels = np.arange(count) % 4
    images = np.repeat((labels * 60).astype(np.uint8), 8 * 8 * 3).reshape(count, 8, 8, 3)
    return images, labels


def batches(size=16, **more):
    images, labels = separable()
    return TensorBatches(images, labels, size, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True, **more)


def small():
    torch.manual_seed(0)
    return create_model("ghost_resnet20", width_mult=0.5, num_classes=4)


def test_training_learns_and_the_curve_falls():
    model = small()
    result = fit(
        model,
        batches(augmentation=Augmentation(crop_padding=1)),
        TrainSettings(epochs=20, learning_rate=0.05),
        progress=False,
    )
    assert result.steps == 80
    assert result.curve[-1]["loss"] < 0.5 * result.curve[0]["loss"]
    assert evaluate(model, batches()).top1 > 60  # chance is 25


def test_distillation_follows_the_teacher_and_not_the_labels():
    settings = TrainSettings(epochs=20, learning_rate=0.05, distillation_weight=1.0)
    teacher, model = small(), small()
    fit(teacher, batches(augmentation=Augmentation(1)), settings, progress=False)
    assert evaluate(teacher, batches()).top1 > 60
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images, labels = separable()
    wrong = TensorBatches(
        images, (labels + 1) % 4, 16, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=Augmentation(1)
    )
    fit(model, wrong, settings, teacher=teacher, progress=False)
    assert evaluate(model, batches()).top1 > 60  # the labels would lead to 0, chance to 25
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_diverging_run_says_so():
    with pytest.raises(InputError, match=r"the loss is nan|the loss is inf"):
        fit(small(), batches(), TrainSettings(epochs=20, learning_rate=1e30), progress=False)


def test_labels_that_are_no_classes_of_the_network_are_told():
    images, labels = separable()
    wrong = TensorBatches(images, labels + 1, 16, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True)
    with pytest.raises(
        InputError, match="the label 4 does not fit a classifier of 4 classes, which are 0 to 3"
    ):
        fit(small(), wrong, TrainSettings(label_smoothing=0.1), progress=False)
    answers_alone = TrainSettings(epochs=0.25, distillation_weight=1.0)
    assert fit(small(), wrong, answers_alone, teacher=small(), progress=False).steps == 1


def test_interrupt_leaves_a_checkpoint_that_goes_on(tmp_path):
    path = tmp_path / "run.checkpoint"

    def interrupt(step):
        if step == 3:
            raise KeyboardInterrupt

    settings = TrainSettings(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit(small(), batches(), settings, checkpoint=path, after_step=interrupt, progress=False)
    steps = []
    result = fit(small(), batches(), settings, checkpoint=path, after_step=steps.append, progress=False)
    assert steps[0] == 4
    assert result.steps == 8


def test_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    settings = TrainSettings(epochs=1, checkpoint_seconds=1e-9)
    fit(small(), batches(), settings, checkpoint=path, progress=False)
    with pytest.raises(InputError, match="belongs to a run with epochs = 1"):
        fit(small(), batches(), TrainSettings(epochs=2), checkpoint=path, progress=False)


def test_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        fit(small(), batches(), TrainSettings(), checkpoint=path, progress=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "`epochs` \\(=0\\)"),
        ({"learning_rate": float("nan")}, "`learning_rate`"),
        ({"momentum": 1.0}, "`momentum` \\(=1.0\\)"),
        ({"distillation_weight": 1.5}, "`distillation_weight`"),
        ({"weight_decay": -1}, "`weight_decay`"),
    ],
)
def test_bad_settings(changed, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**changed)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_rise_then_fall_to_zero(name):
    factor = make_schedule(name, 100, warmup_fraction=0.2)
    values = [factor(step) for step in range(100)]
    assert values.index(max(values)) in (19, 20)
    assert values[-1] < 0.02
    assert all(0 < value <= 1 for value in values)


def test_step_schedule_divides_by_ten():
    factor = make_schedule("step", 10, milestones=(0.5, 0.8))
    assert [round(factor(step), 3) for step in (0, 4, 5, 7, 8, 9)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_unknown_schedule():
    with pytest.raises(InputError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        make_schedule("cosin", 10)


def test_loss_with_teacher_equals_the_formula():
    torch.manual_seed(0)
    logits, answers, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    target = (answers / 2).softmax(1)
    soft = 4 * (target * (target.log() - (logits / 2).log_softmax(1))).sum(1).mean()
    expected = 0.7 * soft + 0.3 * F.cross_entropy(logits, labels)
    loss = classification_loss(logits, labels, answers, distillation_weight=0.7, temperature=2.0)
    assert torch.allclose(loss, expected, atol=1e-6)


def test_evaluate_counts_top1_and_top5():
    logits = torch.eye(8)

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return logits[: len(images)] + 0.01 * torch.arange(8)

    labels = torch.tensor([0, 1, 2, 3, 0, 0, 0, 0])
    result = evaluate(Fixed(), [(torch.zeros(8, 3, 2, 2), labels)])
    assert (result.top1, result.count) == (50.0, 8)
    assert result.top5 == 50.0  # class 0 is the last of eight whenever another one leads


def test_evaluate_refuses_what_is_not_finite_or_does_not_fit():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 2), float("nan"))

    with pytest.raises(InputError, match="not finite"):
        evaluate(Broken(), [(torch.zeros(1, 3, 2, 2), torch.tensor([0]))])
    with pytest.raises(InputError, match="labels up to 7"):
        evaluate(Broken(), [(torch.zeros(1, 3, 2, 2), torch.tensor([7]))])
    with pytest.raises(InputError, match="nothing to evaluate on"):
        evaluate(Broken(), [])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_floating_type_are_evaluated_and_asked(kind, tmp_path):
    model = small().to(kind)
    assert evaluate(model, batches()).count == 64
    path = tmp_path / "image.png"
    Image.fromarray(separable()[0][0]).save(path)
    (answer,) = predict(model, [path], Preprocessing(8, 1.0))
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-3)


def test_a_border_wider_than_the_images_is_refused_before_training():
    with pytest.raises(
        InputError, match=r"`crop_padding` \(=8\) must be below the 8 pixels of an image's side"
    ):
        batches(augmentation=Augmentation(crop_padding=8))
    batches(augmentation=Augmentation(crop_padding=8, crop_border="zeros"))


def with_dropout():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Dropout(0.5)),
            *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 4)),
        )


def test_dropout_follows_the_seed_and_not_what_the_process_did_before():
    found = []
    for _ in range(2):
        model = with_dropout()
        fit(model, batches(augmentation=Augmentation(0)), TrainSettings(), progress=False)
        found.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
        torch.rand(5)
    assert torch.equal(*found)


def test_training_leaves_the_random_state_alone():
    model = with_dropout()
    before = torch.get_rng_state()
    fit(model, batches(augmentation=Augmentation(0)), TrainSettings(), progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_resumed_run_has_the_curve_of_one_left_alone(tmp_path):
    def run(path, stop=None):
        def after_step(step):
            if step == stop:
                raise KeyboardInterrupt

        model, settings = (
            with_dropout(),
            TrainSettings(epochs=75),
        )  # 300 steps, a point in the curve every three
        return fit(
            model,
            batches(augmentation=Augmentation(0)),
            settings,
            checkpoint=path,
            after_step=after_step,
            progress=False,
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=100)
    assert run(tmp_path / "stopped").curve == whole.curve


def test_batches_in_one_order_are_refused():
    images, labels = separable()
    plain = TensorBatches(images, labels, 16, mean=(0.5,) * 3, std=(0.25,) * 3)
    files = ImageBatches(_Nothing(), 4, preprocessing=Preprocessing(8))
    for fixed in (plain, StackedBatches(plain, [0, 1]), files):
        with pytest.raises(
            InputError, match=r"in the same order each epoch, which is for evaluation; train on shuf"
        ):
            fit(small(), fixed, TrainSettings(), progress=False)
    whole = TensorBatches(images, labels, 64, mean=(0.5,) * 3, std=(0.25,) * 3)  # its order is all the same
    assert fit(small(), whole, TrainSettings(), progress=False).steps == 1


class _Nothing:
    classes = ("a",)

    def __len__(self):
        return 8


def test_an_epoch_without_batches_is_no_endless_one():
    empty = batches()
    empty.epoch = lambda *_, **__: iter(())
    with pytest.raises(InputError, match="epoch 0 has no batches from 0 on, and 4 were promised"):
        fit(small(), empty, TrainSettings(), progress=False)
