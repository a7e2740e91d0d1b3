"""Batch norm of narrow maps: values, gradients and statistics of nn.BatchNorm2d, and who is left to it."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from ghostnet.data import TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, fit, narrow_norm
from ghostnet.train.narrow_norm import fast_narrow_norms, narrow_batch_norm

SHAPES = (
    (4, 8, 16, 16),
    (64, 8, 32, 32),
    (3, 8, 4, 12),
    (2, 2, 16, 16),
    (32, 3, 8, 8),
    (8, 4, 8, 8),
    (16, 6, 8, 4),
    (7, 12, 8, 8),
    (16, 15, 8, 4),
)
BFLOAT16_STEP = 2.0**-8


@pytest.fixture
def any_size(monkeypatch):
    """Let small maps take the fast way; the calls are counted."""
    calls = []

    def counted(x, norm):
        calls.append(tuple(x.shape))
        return narrow_batch_norm(x, norm)

    monkeypatch.setattr(narrow_norm, "_MIN_ELEMENTS", 0)
    monkeypatch.setattr(narrow_norm, "narrow_batch_norm", counted)
    return calls


def norm_of(channels, **more):
    norm = nn.BatchNorm2d(channels, **more)
    with torch.no_grad():
        for value in (norm.weight, norm.running_var):
            value.uniform_(0.5, 2.0)
        for value in (norm.bias, norm.running_mean):
            value.normal_()
    return norm


def maps(shape, dtype=torch.bfloat16):
    """Channels of different means and spreads."""
    channels = torch.arange(shape[1]).view(1, -1, 1, 1)
    x = torch.randn(shape) * (0.5 + channels / shape[1]) + channels - 2.0
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def everything(forward, norm, x, upstream):
    """Return output, gradients and statistics as float64."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = forward(x)
    found = torch.autograd.grad(output, [x, norm.weight, norm.bias], upstream)
    values = (output.detach(), *found, norm.running_mean, norm.running_var)
    return [value.double() for value in values]


def three_ways(shape, dtype, norm):
    """Return what the fast way, the native kernel and float64 make of the same input."""
    x, upstream = maps(shape, dtype), maps(shape, dtype)
    fast, native, exact = norm, copy.deepcopy(norm), copy.deepcopy(norm).double()
    return (
        everything(lambda value: narrow_batch_norm(value, fast), fast, x, upstream),
        everything(native, native, x, upstream),
        everything(exact, exact, x.double(), upstream.double()),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics_are_as_exact_as_the_native_ones(shape, dtype):
    torch.manual_seed(0)
    fast, native, exact = three_ways(shape, dtype, norm_of(shape[1]))
    names = ("output", "dx", "dweight", "dbias", "running_mean", "running_var")
    for name, ours, theirs, right in zip(names, fast, native, exact, strict=True):
        scale = right.abs().max()
        rounding = 1e-6 * scale  # of sums in float32, where the native kernel happens to hit the value
        assert ours.shape == right.shape
        assert (ours - right).abs().max() <= 2 * (theirs - right).abs().max() + rounding, name
        assert (ours - right).norm() <= 2 * (theirs - right).norm() + 1e-6 * right.norm(), name


@pytest.mark.parametrize("momentum", [0.01, 0.1, 1.0])
def test_running_statistics_follow_the_momentum_and_batches_are_counted(any_size, momentum):
    torch.manual_seed(0)
    fast = norm_of(8, momentum=momentum, eps=1e-3)
    native = copy.deepcopy(fast)
    with fast_narrow_norms(fast):
        for _ in range(3):
            x = maps((2, 8, 4, 4))
            assert torch.allclose(fast(x).float(), native(x).float(), rtol=2 * BFLOAT16_STEP, atol=1e-3)
    assert len(any_size) == 3
    assert fast.num_batches_tracked == native.num_batches_tracked == 3
    assert torch.allclose(fast.running_mean, native.running_mean, rtol=1e-5, atol=1e-6)
    assert torch.allclose(fast.running_var, native.running_var, rtol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_output_is_channels_last_no_view_and_may_be_changed_in_place():
    norm, x = norm_of(8), maps((2, 8, 4, 4)).requires_grad_()
    with fast_narrow_norms(norm):
        output = norm(x)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert not output._is_view()
    F.relu_(output).float().sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    reference = copy.deepcopy(norm)
    expected = torch.autograd.grad(F.relu(reference(x)).float().sum(), x)[0]
    assert torch.allclose(x.grad.float(), expected.float(), atol=0.05)


def test_upstream_gradients_in_another_format_or_expanded():
    torch.manual_seed(0)
    norm, x = norm_of(8), maps((2, 8, 4, 8)).requires_grad_()
    upstream = maps((2, 8, 4, 8))
    dense = torch.autograd.grad(narrow_batch_norm(x, norm), x, upstream)[0]
    other = torch.autograd.grad(narrow_batch_norm(x, norm), x, upstream.contiguous())[0]
    assert torch.equal(dense, other)
    expanded = torch.autograd.grad(
        narrow_batch_norm(x, norm), norm.bias, upstream[:1, :, :1, :1].expand_as(x)
    )
    assert torch.allclose(expanded[0], upstream[0, :, 0, 0].float() * 64)


def test_frozen_weights_and_frozen_input_get_no_gradient(any_size):
    norm = norm_of(8)
    norm.weight.requires_grad_(False)
    with fast_narrow_norms(norm):
        norm(maps((2, 8, 4, 4))).float().sum().backward()
    assert norm.weight.grad is None
    assert torch.allclose(norm.bias.grad, torch.full((8,), 32.0))
    assert len(any_size) == 1


def test_second_derivatives_are_the_native_ones():
    torch.manual_seed(0)
    norm, x = norm_of(4), maps((2, 4, 4, 4), torch.float32).requires_grad_()
    weight = torch.randn_like(x)

    def second(forward):
        loss = (forward(x) ** 2 * weight).sum()
        slope = torch.autograd.grad(loss, [x, norm.weight], create_graph=True)
        return torch.autograd.grad(sum((value**2).sum() for value in slope), [x, norm.weight, norm.bias])

    for ours, theirs in zip(second(lambda value: narrow_batch_norm(value, norm)), second(norm), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def plain():
    return norm_of(8), maps((2, 8, 4, 4))


def changed(**attributes):
    norm, x = plain()
    for name, value in attributes.items():
        setattr(norm, name, value)
    return norm, x


LEFT_OUT = {
    "eval mode": lambda: (plain()[0].eval(), plain()[1]),
    "float64": lambda: (plain()[0].double(), plain()[1].double()),
    "bfloat16 weights": lambda: (plain()[0].bfloat16(), plain()[1]),
    "float32 with 8 channels": lambda: (plain()[0], plain()[1].float()),
    "channels first": lambda: (plain()[0], plain()[1].contiguous()),
    "1x1 maps": lambda: (plain()[0], maps((64, 8, 1, 1))),
    "every other column": lambda: (plain()[0], maps((2, 8, 4, 8))[..., ::2]),
    "16 channels": lambda: (norm_of(16), maps((2, 16, 4, 4))),
    "pixels that fill no row": lambda: (norm_of(3), maps((1, 3, 5, 5))),
    "a subclass": lambda: (type("Other", (nn.BatchNorm2d,), {})(8), plain()[1]),
    "no weights": lambda: (nn.BatchNorm2d(8, affine=False), plain()[1]),
    "no statistics": lambda: (nn.BatchNorm2d(8, track_running_stats=False), plain()[1]),
    "cumulative average": lambda: (nn.BatchNorm2d(8, momentum=None), plain()[1]),
    "momentum taken away": lambda: changed(momentum=None),
    "a subclass of Tensor": lambda: (plain()[0], plain()[1].as_subclass(type("T", (torch.Tensor,), {}))),
    "meta": lambda: (plain()[0].to("meta"), plain()[1].to("meta")),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_does_not_pay_or_does_not_fit_runs_the_native_kernel(any_size, case):
    torch.manual_seed(0)
    norm, x = LEFT_OUT[case]()
    native = copy.deepcopy(norm)
    with fast_narrow_norms(norm):
        output = norm(x)
    expected = native(x)
    assert any_size == []
    assert output.shape == expected.shape
    if case != "meta":
        assert torch.equal(output, expected)
        assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), native.buffers(), strict=True))


def test_the_plain_case_runs_the_fast_way_from_half_a_million_elements_on(monkeypatch, any_size):
    norm, x = plain()
    with fast_narrow_norms(norm):
        norm(x)
        assert len(any_size) == 1
        monkeypatch.setattr(narrow_norm, "_MIN_ELEMENTS", x.numel() + 1)
        norm(x)
    assert len(any_size) == 1


def test_wrong_number_of_channels_is_refused_as_ever(any_size):
    with fast_narrow_norms(norm := norm_of(12)), pytest.raises(RuntimeError, match="12"):
        norm(maps((2, 8, 4, 4)))
    assert any_size == []


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_function_transforms_compilers_and_exports_see_the_native_operator(any_size):
    norm, x = norm_of(4), maps((2, 4, 4, 4), torch.float32)

    def call(value):
        return F.relu(norm(value))

    def with_state(value, state):
        return torch.func.functional_call(norm, state, (value,)).sum()

    with fast_narrow_norms(norm):
        with forward_ad.dual_level():
            call(forward_ad.make_dual(x, torch.randn_like(x)))
        torch.func.grad(with_state)(x, copy.deepcopy(norm.state_dict()))
        exported = torch.export.export(nn.Sequential(norm), (x,))
        torch.compile(call, backend="eager", fullgraph=True)(x)
        torch.jit.trace(nn.Sequential(norm), (x,), check_trace=False)
        assert any_size == []
        call(x)
    assert len(any_size) == 1
    assert any("batch_norm" in str(node.target) for node in exported.graph.nodes)


def test_modules_are_as_before_afterwards_even_after_an_exception():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm_of(8), nn.ReLU(), nn.BatchNorm1d(8))
    before = [dict(vars(module)) for module in model.modules()]
    names = list(model.state_dict())

    def fail():
        with fast_narrow_norms(model) as norms:
            assert norms == 1
            assert "forward" in vars(model[1])
            with fast_narrow_norms(model) as inner:  # belongs to the outer block
                assert inner == 0
            assert "forward" in vars(model[1])
            assert list(model.state_dict()) == names
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [vars(module).keys() for module in model.modules()] == [entry.keys() for entry in before]
    assert type(model[1]) is nn.BatchNorm2d
    assert pickle.loads(pickle.dumps(model))[1].forward.__func__ is nn.BatchNorm2d.forward


def test_a_copy_taken_meanwhile_keeps_its_own_statistics(any_size):
    norm, x = plain()
    with fast_narrow_norms(norm):
        for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
            before = norm.running_mean.clone()
            other(x)
            assert torch.equal(norm.running_mean, before)
            assert not torch.equal(other.running_mean, before)
    assert len(any_size) == 2


def flat(model):
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def trained(*, fast=False, bfloat16=True):
    """Return the changes of all weights and statistics in a few steps, as one vector, and the losses."""
    torch.manual_seed(0)
    model = create_model("ghost_resnet20", width_mult=0.5).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    images = torch.randn(16, 3, 16, 16).to(memory_format=torch.channels_last)
    labels = torch.arange(16) % 10
    before = flat(model)
    losses = []
    with fast_narrow_norms(model if fast else nn.Identity()):
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return flat(model) - before, losses


def test_a_network_trains_as_with_the_native_kernels(any_size):
    native, expected = trained()
    assert any_size == []
    fast, losses = trained(fast=True)
    assert len(any_size) > 4 * 12
    exact, _ = trained(bfloat16=False)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses[-1] < losses[0]
    # how far both stray from float32 depends on the processor: 1.0 of each other with AVX-512, 1.2 with AVX2
    assert (fast - exact).norm() < 1.5 * (native - exact).norm() < 0.75 * exact.norm()


@pytest.mark.parametrize("compiled", [False, True])
def test_fit_trains_so_and_leaves_the_network_as_it_was(any_size, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    batches = TensorBatches(images, np.arange(16) % 10, 8, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True)
    model = create_model("ghost_resnet20", width_mult=0.5)
    replaced = lambda *_: any("forward" in vars(module) for module in model.modules())  # noqa: E731
    inside, between = [], []
    model.register_forward_pre_hook(lambda *_: inside.append(replaced()))
    settings = TrainSettings(epochs=1, compile=compiled)
    fit(model, batches, settings, progress=False, after_step=lambda _step: between.append(replaced()))
    assert inside == [not compiled] * 2
    assert between == [False] * 2  # a network that is saved in the middle of a run is not a changed one
    assert bool(any_size) is not compiled
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(any_size, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    batches = TensorBatches(images, np.arange(32) % 10, 8, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True)

    def run(**more):
        torch.manual_seed(0)
        model = create_model("ghost_resnet20", width_mult=0.5)
        fit(model, batches, TrainSettings(epochs=1), progress=False, **more)
        return model.state_dict()

    def stop(step):
        if step == 2:
            raise KeyboardInterrupt

    whole = run()
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, after_step=stop)
    resumed = run(checkpoint=path)
    assert len(any_size) > 0
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
