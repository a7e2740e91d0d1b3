"""Feature distillation: layers are found in both networks, their distance falls, and what cannot be matched says so."""

import numpy as np
import pytest
import torch

from ghostnet import InputError
from ghostnet.data import Augmentation, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, fit
from ghostnet.train.feature_match import FeatureMatch

LAYERS = ("layer1", "layer3")


def networks():
    torch.manual_seed(0)
    return create_model("ghost_resnet20", width_mult=0.5), create_model("resnet20", width_mult=0.5).eval()


def batches():
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    return TensorBatches(
        images, np.arange(32) % 10, 16, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=Augmentation(0)
    )


def distance(student, teacher):
    images = next(iter(batches()))[0]
    match = FeatureMatch(student.train(), teacher, LAYERS)
    with torch.no_grad():
        teacher(images)
        student(images)
        found = float(match.loss())
    match.close()
    return found


def test_loss_is_the_mean_relative_squared_error():
    _, teacher = networks()
    match = FeatureMatch(teacher, teacher, LAYERS)
    teacher(torch.randn(2, 3, 16, 16))
    assert float(match.loss().detach()) == 0.0
    match._seen = {("teacher", name): torch.full((1, 2), 2.0) for name in LAYERS}
    match._seen |= {("student", "layer1"): torch.full((1, 2), 3.0), ("student", "layer3"): torch.zeros(1, 2)}
    assert float(match.loss()) == pytest.approx((0.25 + 1.0) / 2)
    match.close()


def test_training_draws_the_features_to_the_teacher():
    student, teacher = networks()
    before = distance(student, teacher)
    settings = TrainSettings(epochs=20, learning_rate=0.05, feature_layers=LAYERS, feature_weight=10.0)
    fit(student, batches(), settings, teacher=teacher, progress=False)
    with_features = distance(student, teacher)
    assert with_features < 0.85 * before
    plain = networks()[0]
    fit(plain, batches(), TrainSettings(epochs=20, learning_rate=0.05), teacher=teacher, progress=False)
    assert with_features < 0.8 * distance(plain, teacher)
    assert not teacher.layer1._forward_hooks


def test_layers_that_cannot_be_matched():
    student, teacher = networks()
    with pytest.raises(InputError, match=r"unknown layer of the student 'layer9'; did you mean 'layer"):
        FeatureMatch(student, teacher, ["layer9"])
    match = FeatureMatch(student, create_model("resnet20"), ["layer1"])
    with pytest.raises(InputError, match=r"'layer1' of `feature_layers` does not run"):
        match.loss()
    images = torch.zeros(1, 3, 8, 8)
    student(images)
    create = FeatureMatch(student, wide := create_model("resnet20"), ["layer1"])
    student(images)
    wide(images)
    with pytest.raises(InputError, match=r"gives \(1, 8, 8, 8\) in the student and \(1, 16, 8, 8\)"):
        create.loss()


def test_layers_without_a_teacher_are_refused():
    settings = TrainSettings(feature_layers=LAYERS)
    with pytest.raises(InputError, match=r"`feature_layers` .*layer1.* need a teacher"):
        fit(networks()[0], batches(), settings, progress=False)


@pytest.mark.parametrize("inplace", [True, False])
def test_what_overwrites_a_layer_does_not_change_what_is_compared(inplace):
    torch.manual_seed(0)
    student, teacher = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=inplace)) for _ in range(2)
    )
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        target = teacher[0](images)
        wanted = float((student[0](images) - target).square().mean() / target.square().mean())
        match = FeatureMatch(student, teacher, ["0"])
        teacher(images)
        student(images)
        assert float(match.loss()) == pytest.approx(wanted, rel=1e-4)
