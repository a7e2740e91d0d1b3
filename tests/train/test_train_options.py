"""Options of the loop: pieces of a batch, frozen batch norm, held-out evaluation, the best network, logs."""

import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet import InputError
from ghostnet.data import Augmentation, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, Watch, evaluate, fit, tensorboard_log
from ghostnet.train.run import recorded_settings

NORMAL = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def batches(count=24, size=8, **more):
    random = np.random.default_rng(1)
    labels = np.arange(count) % 4
    images = random.integers(0, 60, (count, 8, 8, 3)) + (60 * labels)[:, None, None, None]
    return TensorBatches(images.astype(np.uint8), labels, size, **NORMAL, **more)


def small():
    torch.manual_seed(0)
    return create_model("resnet20", width_mult=0.25, num_classes=4)


@pytest.mark.parametrize("pieces", [2, 3, 50])
def test_a_batch_in_pieces_gives_the_same_step(pieces):
    weights = []
    for accumulation_steps in (1, pieces):
        model = small()
        settings = TrainSettings(
            epochs=1, bf16=False, freeze_batch_norm=True, accumulation_steps=accumulation_steps
        )
        result = fit(model, batches(augmentation=Augmentation()), settings, progress=False)
        assert result.steps == 3
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5)


def test_frozen_batch_norm_keeps_its_statistics_through_an_evaluation():
    model = small()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.manual_seed(1)
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    before = [norm.running_mean.clone() for norm in norms]
    weight = norms[0].weight.detach().clone()
    fit(
        model,
        batches(augmentation=Augmentation()),
        TrainSettings(epochs=2, freeze_batch_norm=True),
        watch=Watch(batches(), every_epochs=1),
        progress=False,
    )
    assert all(torch.equal(old, norm.running_mean) for old, norm in zip(before, norms, strict=True))
    assert not torch.equal(weight, norms[0].weight)  # scale and shift are still learnt


def test_held_out_images_are_looked_at_and_the_best_is_handed_on():
    kept, logged = [], []
    result = fit(
        small(),
        batches(augmentation=Augmentation(1)),
        TrainSettings(epochs=4.34, ema_decay=0.5, learning_rate=0.05),
        watch=Watch(
            batches(20, 7),
            every_epochs=2,
            on_best=lambda model, found: kept.append((model.training, found.top1)),
            log=lambda step, values: logged.append((step, sorted(values))),
        ),
        progress=False,
    )
    assert [entry["step"] for entry in result.evaluations] == [6, 12, 13]  # every two epochs and at the end
    assert all(entry["count"] == 20 for entry in result.evaluations)
    assert [top1 for _, top1 in kept] == sorted({top1 for _, top1 in kept})
    assert kept[-1][1] == result.best("top1") == max(entry["top1"] for entry in result.evaluations)
    assert (13, ["held_out/loss", "held_out/top1", "held_out/top5"]) in logged
    assert (1, ["train/learning_rate", "train/loss"]) in logged


def test_evaluations_do_not_change_the_training():
    weights = []
    for watch in (None, Watch(batches(), every_epochs=1)):
        model = small()
        fit(
            model,
            batches(augmentation=Augmentation()),
            TrainSettings(ema_decay=0.9),
            watch=watch,
            progress=False,
        )
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_remembers_the_best(tmp_path):
    path = tmp_path / "run.checkpoint"
    settings = TrainSettings(epochs=3, checkpoint_seconds=1e-9)

    def stop(step):
        if step == 7:
            raise KeyboardInterrupt

    def run(after_step=None):
        return fit(
            small(),
            batches(augmentation=Augmentation(1)),
            settings,
            watch=Watch(batches(), every_epochs=1),
            checkpoint=path,
            after_step=after_step,
            progress=False,
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    assert [entry["step"] for entry in run().evaluations] == [3, 6, 9]


def test_a_set_that_changed_is_noticed_by_the_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"
    settings = TrainSettings(epochs=1, checkpoint_seconds=1e-9)
    fit(small(), batches(augmentation=Augmentation()), settings, checkpoint=path, progress=False)
    with pytest.raises(InputError, match=r"belongs to a run with batches = 3, not 4"):
        fit(small(), batches(32, augmentation=Augmentation()), settings, checkpoint=path, progress=False)


def test_bad_options():
    with pytest.raises(InputError, match=r"`accumulation_steps` \(=0\)"):
        TrainSettings(accumulation_steps=0)
    with pytest.raises(InputError, match=r"`evaluate_every` \(=-1\)"):
        Watch(every_epochs=-1)
    for name in ("gradient_clip", "weight_decay", "feature_weight"):
        with pytest.raises(InputError, match=rf"`{name}` \(=inf\) must be a finite number >= 0"):
            TrainSettings(**{name: float("inf")})


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_a_step_is_the_formula_of_sgd(nesterov, decay_norms):
    decay, momentum, rate = 0.1, 0.5, 0.25
    start, model = small().eval(), small()
    settings = TrainSettings(
        epochs=1,
        learning_rate=rate,
        schedule="constant",
        warmup_fraction=0.0,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=decay,
        decay_norms=decay_norms,
        bf16=False,
        freeze_batch_norm=True,
    )
    one_batch = batches(16, shuffle=True)
    images, labels = next(iter(one_batch.epoch(0)))
    nn.functional.cross_entropy(start(images), labels).backward()

    def stop(_step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, one_batch, settings, after_step=stop, progress=False)
    after = dict(model.named_parameters())
    for name, parameter in start.named_parameters():
        decayed = decay if decay_norms or parameter.ndim > 1 else 0.0
        gradient = parameter.grad + decayed * parameter  # the first step's momentum buffer
        change = gradient + momentum * gradient if nesterov else gradient
        torch.testing.assert_close(after[name], parameter - rate * change, rtol=1e-4, atol=1e-5, msg=name)


def test_tensorboard_reads_back_what_a_training_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = Watch(batches(20, 7), every_epochs=1, log=tensorboard_log(tmp_path))
    result = fit(
        small(), batches(augmentation=Augmentation(1)), TrainSettings(epochs=2), watch=watch, progress=False
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "held_out/loss",
        "held_out/top1",
        "held_out/top5",
        "train/learning_rate",
        "train/loss",
    ]
    logged = [(event.step, event.value) for event in events.Scalars("held_out/top1")]
    assert logged == [(entry["step"], pytest.approx(entry["top1"])) for entry in result.evaluations]
    assert events.Scalars("train/loss")[0].step == 1


def test_tensorboard_that_is_missing_is_named_with_its_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'ghostnet\[tensorboard\]'"):
        tensorboard_log(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(
    "more",
    [{}, {"accumulation_steps": 2, "ema_decay": 0.5}, {"feature_layers": ("layer2",), "feature_weight": 0.5}],
    ids=["plain", "pieces and average", "features"],
)
def test_a_compiled_step_learns_what_an_eager_one_learns(more):
    teacher = small() if "feature_layers" in more else None
    weights = {}
    for compiled in (False, True):
        model = small()
        settings = TrainSettings(epochs=1, bf16=False, compile=compiled, **more)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        fit(model, batches(augmentation=Augmentation()), settings, teacher=teacher, progress=False)
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > before) is compiled
        weights[compiled] = model.state_dict()
    assert weights[True].keys() == weights[False].keys()
    for name, value in weights[False].items():
        assert torch.allclose(weights[True][name], value, rtol=1e-3, atol=1e-5), name


def test_a_run_goes_on_compiled_or_not():
    plain, compiled = TrainSettings(), TrainSettings(compile=True)
    assert recorded_settings(plain, batches()) == recorded_settings(compiled, batches())


def test_less_than_a_step_between_two_looks_is_a_step():
    watch = Watch(batches(), every_epochs=0.1)  # of three batches
    assert [watch.is_due(step, 4, 3) for step in (1, 2, 3, 4)] == [True] * 4
    assert [Watch(batches()).is_due(step, 4, 3) for step in (1, 2, 3, 4)] == [False] * 3 + [True]


def test_the_average_that_is_measured_and_kept_has_the_first_processs_statistics(monkeypatch):
    """Each process averages the batch-norm statistics of its own images."""

    def first_ones(model):
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(7.0)  # as if they came from another process

    for place in ("session", "loop"):
        monkeypatch.setattr(f"ghostnet.train.{place}.share_buffers_", first_ones)
    model, seen = small(), []

    def measure(network, held_out, *, progress=False):
        seen.append(network.bn1.running_mean.clone())
        return evaluate(network, held_out, progress=progress)

    kept = []
    watch = Watch(
        batches(), 1, lambda network, _: kept.append(network.bn1.running_mean.clone()), measure=measure
    )
    settings = TrainSettings(epochs=2, ema_decay=0.9, bf16=False)
    fit(model, batches(augmentation=Augmentation()), settings, watch=watch, progress=False)
    assert len(seen) == 2
    assert all((mean == 7).all() for mean in (*seen, *kept, model.bn1.running_mean))
