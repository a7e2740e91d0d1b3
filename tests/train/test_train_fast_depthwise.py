"""Depthwise convolutions in training: values and gradients of F.conv2d, and which ones are left to it."""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fast_layers import (
    assert_as_exact,
    assert_same_second_derivatives,
    assert_transforms_see_the_native_operator,
    everything,
)
from fast_layers import maps as drawn_maps
from torch import nn

from ghostnet.convert import ghostify
from ghostnet.data import TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, fast_depthwise, fit
from ghostnet.train.fast_depthwise import depthwise_conv2d

# channels, maps of each, kernel, stride, padding, rows and columns
SHAPES = (
    (8, 2, (3, 3), (1, 1), (1, 1), (9, 7)),
    (3, 3, (1, 1), (1, 1), (0, 0), (5, 6)),
    (5, 4, (3, 5), (2, 1), (1, 2), (8, 8)),
    (8, 1, (5, 5), (1, 1), (2, 2), (9, 7)),
    (8, 1, (5, 5), (2, 2), (2, 2), (9, 8)),
    (8, 1, (5, 5), (2, 2), (1, 0), (8, 9)),
    (4, 1, (7, 7), (1, 1), (3, 3), (4, 4)),
    (4, 1, (7, 7), (3, 3), (3, 3), (11, 12)),
    (4, 1, (3, 4), (1, 1), (2, 3), (6, 6)),
    (4, 1, (4, 6), (2, 3), (3, 5), (7, 9)),
    (16, 1, (3, 3), (2, 2), (1, 1), (8, 8)),
    (16, 1, (3, 3), (2, 2), (1, 1), (7, 7)),
    (16, 1, (1, 1), (2, 2), (0, 0), (7, 6)),
    (4, 1, (2, 3), (1, 2), (0, 1), (6, 8)),
    (6, 2, (5, 5), (2, 2), (2, 2), (9, 9)),
    # inputs smaller than the kernel
    (8, 1, (3, 3), (1, 1), (1, 1), (2, 2)),
    (8, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    (8, 1, (3, 3), (2, 2), (1, 1), (2, 2)),
    (8, 1, (3, 3), (2, 3), (1, 2), (2, 2)),
    (8, 1, (5, 5), (1, 1), (2, 2), (4, 4)),
    (8, 1, (5, 5), (2, 2), (2, 2), (4, 4)),
    (8, 1, (5, 5), (3, 2), (2, 2), (2, 3)),
    (8, 1, (5, 3), (1, 1), (2, 1), (3, 6)),
    (8, 1, (3, 7), (1, 2), (1, 3), (6, 2)),
    (4, 3, (3, 3), (1, 1), (1, 1), (2, 2)),
)
SMALL = (16, 1, (3, 3), (1, 1), (1, 1), (2, 2))
PAYS = (16, 2, (3, 3), (1, 1), (1, 1), (16, 16))


@pytest.fixture
def taken(monkeypatch):
    """Let small maps take the fast way on any processor; the calls are counted."""
    calls = []

    def counted(x, *more):
        calls.append(tuple(x.shape))
        return depthwise_conv2d(x, *more)

    monkeypatch.setattr(fast_depthwise, "_MIN_ELEMENTS", dict.fromkeys((torch.bfloat16, torch.float32), 0))
    monkeypatch.setattr(fast_depthwise, "depthwise_conv2d", counted)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    return calls


def fast(model):
    return fast_depthwise.fast_depthwise(model)


def conv_of(shape, **more):
    channels, each, kernel, stride, padding, _ = shape
    return nn.Conv2d(channels, channels * each, kernel, stride, padding, groups=channels, **more)


def maps(shape, batch=3, dtype=torch.float32):
    return drawn_maps(shape[0], shape[-1], batch=batch, dtype=dtype)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_as_exact_as_the_native_ones(taken, monkeypatch, shape, bias, autocast):
    torch.manual_seed(0)
    monkeypatch.setattr(fast_depthwise, "_pays", lambda *_: True)
    conv, x = conv_of(shape, bias=bias), maps(shape)
    upstream = torch.randn_like(conv(x))
    native = everything(conv, x, upstream, autocast=autocast)
    with fast(conv) as count:
        ours = everything(conv, x, upstream, autocast=autocast)
    exact = everything(copy.deepcopy(conv).double(), x.double(), upstream.double())
    assert count == len(taken) == 1
    assert_as_exact(ours, native, exact, 2.0**-8 if autocast else 1e-6)


@pytest.mark.parametrize("shape", [PAYS, SHAPES[3], SHAPES[4]])
def test_output_and_gradients_lie_in_channels_last_and_may_be_changed_in_place(taken, shape):
    conv, x = conv_of(shape).bfloat16(), maps(shape, dtype=torch.bfloat16).requires_grad_()
    with fast(conv):
        output = conv(x)
    assert len(taken) == 1
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert not output._is_view()
    F.relu_(output).float().sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [PAYS, SHAPES[4]])
def test_upstream_gradients_in_another_format_or_expanded(taken, shape):
    torch.manual_seed(0)
    conv, x = conv_of(shape).bfloat16(), maps(shape, dtype=torch.bfloat16)
    given = torch.randn_like(conv(x))
    with fast(conv):
        same = everything(conv, x, given)
        for upstream in (given.contiguous(), given[:1, :, :1, :1].expand_as(given)):
            expected = same if upstream.is_contiguous() else everything(conv, x, upstream.clone())
            for ours, right in zip(everything(conv, x, upstream), expected, strict=True):
                assert torch.allclose(ours, right, rtol=1e-6, atol=1e-9)
    assert len(taken) == 4


def test_frozen_kernels_and_inputs_get_no_gradient(taken):
    conv, x = conv_of(PAYS), maps(PAYS)
    conv.weight.requires_grad_(False)
    with fast(conv):
        conv(x).sum().backward()
        assert conv.weight.grad is None
        assert torch.allclose(conv.bias.grad, torch.full((32,), 3.0 * 16 * 16))
        conv.requires_grad_(False)
        conv(x.requires_grad_()).sum().backward()
    assert x.grad.abs().sum() > 0
    assert len(taken) == 2


@pytest.mark.parametrize("shape", [PAYS, SHAPES[3]])
def test_second_derivatives_are_the_native_ones(taken, shape):
    torch.manual_seed(0)
    conv = conv_of(shape)
    native = copy.deepcopy(conv)
    with fast(conv):
        assert_same_second_derivatives(conv, native, maps(shape))
    assert len(taken) == 1


def test_without_gradients_the_native_operator_runs(taken):
    conv, x = conv_of(PAYS), maps(PAYS)
    with fast(conv), torch.no_grad():
        conv(x)
    assert taken == []


class Other(nn.Conv2d):
    """A subclass may compute anything."""


PLAIN = {"kernel_size": 5, "padding": 2, "groups": 16}
LEFT_OUT = {
    "dense": nn.Conv2d(16, 16, 5, padding=2),
    "grouped": nn.Conv2d(16, 16, 5, padding=2, groups=8),
    "one channel": nn.Conv2d(1, 4, 5, padding=2),
    "dilated": nn.Conv2d(16, 16, **{**PLAIN, "dilation": 2}),
    "circular": nn.Conv2d(16, 16, **PLAIN, padding_mode="circular"),
    "named padding": nn.Conv2d(16, 16, **{**PLAIN, "padding": "same"}),
    "padding as wide as the kernel": nn.Conv2d(16, 16, **{**PLAIN, "padding": 5}),
    "a subclass": Other(16, 16, **PLAIN),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_convolutions_with_depthwise_kernels_or_of_other_kinds_take_no_part(case):
    with fast(LEFT_OUT[case]) as count:
        assert count == 0


def wide(**more):
    return nn.Conv2d(16, 16, **PLAIN, **more)


def wide_maps(dtype=torch.float32):
    return maps((16, (8, 6)), dtype=dtype)


INPUTS = {
    "float64": lambda: (wide().double(), wide_maps(torch.float64)),
    "channels first": lambda: (wide(), wide_maps().contiguous()),
    "one image without a batch": lambda: (wide(), wide_maps()[0]),
    "one map a channel, 3x3, no stride": lambda: (nn.Conv2d(16, 16, 3, 1, 1, groups=16), wide_maps()),
    "little of a kind smaller than its kernel": lambda: (conv_of(SMALL), maps(SMALL)),
    "smaller than a frozen kernel": lambda: (
        conv_of(SMALL).requires_grad_(False),
        maps(SMALL, batch=16).requires_grad_(),
    ),
    "strided, float32": lambda: (nn.Conv2d(16, 16, 3, 2, 1, groups=16), wide_maps()),
    "wide and strided, float32": lambda: (nn.Conv2d(16, 16, 5, 2, 2, groups=16), wide_maps()),
    "several maps of few channels": lambda: (nn.Conv2d(4, 8, 3, groups=4), maps((4, (8, 8)))),
    "a subclass of Tensor": lambda: (wide(), wide_maps().as_subclass(type("T", (torch.Tensor,), {}))),
    "meta": lambda: (wide().to("meta"), wide_maps().to("meta")),
}


@pytest.mark.parametrize("size", [(2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_smaller_than_the_kernel_take_the_fast_way(taken, size, dtype):
    conv = conv_of(SMALL).to(dtype)
    x = drawn_maps(16, size, batch=32, dtype=dtype)
    with fast(conv):
        conv(x)
    assert len(taken) == 1


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_pay_run_the_native_operator(taken, case):
    conv, x = INPUTS[case]()
    with fast(conv):
        output = conv(x)
    assert taken == []
    assert output.shape == conv(x).shape
    assert case == "meta" or torch.equal(output, conv(x))


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_processors_and_sizes_decide(taken, monkeypatch):
    conv, x = conv_of(PAYS), maps(PAYS)
    with fast(conv):
        conv(x)
        assert len(taken) == 1
        monkeypatch.setattr(fast_depthwise, "_MIN_ELEMENTS", {torch.float32: x.numel() + 1})
        conv(x)
        monkeypatch.setattr(fast_depthwise, "_MIN_ELEMENTS", {torch.float32: x.numel()})
        with torch.backends.mkldnn.flags(enabled=False):
            conv(x)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        conv(x)
    assert len(taken) == 1


def test_a_wrong_number_of_channels_is_refused_as_ever(taken):
    with fast(conv := conv_of(PAYS)), pytest.raises(RuntimeError, match="16"):
        conv(maps((8, (8, 8))))
    assert taken == []


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_function_transforms_compilers_and_exports_see_the_native_operator(taken):
    assert_transforms_see_the_native_operator(fast, conv_of(PAYS), maps(PAYS), taken)


def test_modules_are_as_before_afterwards_even_after_an_exception():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), conv_of(PAYS), nn.ReLU())
    before = [vars(module).keys() for module in model.modules()]

    def fail():
        with fast(model) as count:
            assert count == 1
            assert "forward" in vars(model[1])
            with fast(model) as inner:  # belongs to the outer block
                assert inner == 0
            assert "forward" in vars(model[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [vars(module).keys() for module in model.modules()] == before
    assert pickle.loads(pickle.dumps(model))[1].forward.__func__ is nn.Conv2d.forward


@pytest.mark.parametrize("settings", [{"ratio": 3}, {"cheap_kernel_size": 5}])
def test_fit_trains_a_network_so(taken, settings):
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)
    batches = TensorBatches(images, np.arange(32) % 10, 16, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True)
    start = ghostify(create_model("resnet20"), init="random", **settings)[0]

    def trained():
        model = copy.deepcopy(start)
        fit(model, batches, TrainSettings(epochs=1, learning_rate=0.01, bf16=False), progress=False)
        return torch.cat([value.detach().flatten().double() for value in model.parameters()])

    ours = trained()
    assert len(taken) >= 2 * 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_depthwise, "_pays", lambda *_: False)
        theirs = trained()
    before = torch.cat([value.detach().flatten().double() for value in start.parameters()])
    assert 0 < (ours - theirs).norm() <= 1e-3 * (theirs - before).norm()


@pytest.mark.slow
def test_the_script_times_steps_in_both_types():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "depthwise_step.py"))
    found = script["measure"](("resnet20", {"ratio": 3}, 2, 8), seconds=0.0)
    assert {"bfloat16_ratio", "float32_ratio", "bfloat16, ours", "float32, PyTorch's"} <= set(found)
    assert 0 < found["float32, ours"]["median_ms"] < 5000
