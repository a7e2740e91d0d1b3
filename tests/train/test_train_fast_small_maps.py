"""Convolutions of small maps in training: values and gradients of F.conv2d, and which ones are left to it."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fast_layers import (
    assert_as_exact,
    assert_same_second_derivatives,
    assert_transforms_see_the_native_operator,
    everything,
    maps,
)
from torch import nn

from ghostnet.data import TensorBatches
from ghostnet.train import TrainSettings, fast_small_maps, fit
from ghostnet.train.fast_small_maps import small_maps_conv2d

# channels read and made, kernel, stride, padding, rows and columns
TINY = (6, 8, (3, 3), (1, 1), (1, 1), (2, 2))
SMALL = (6, 8, (3, 3), (1, 1), (1, 1), (4, 5))
SHAPES = (
    TINY,
    SMALL,
    (6, 8, (3, 3), (2, 2), (1, 1), (4, 3)),
    (6, 8, (3, 3), (2, 2), (1, 1), (8, 7)),
    (5, 4, (1, 1), (1, 1), (0, 0), (4, 4)),
    (5, 4, (1, 1), (1, 1), (0, 0), (1, 1)),
    (5, 4, (1, 1), (2, 2), (0, 0), (5, 4)),
    (5, 4, (1, 1), (2, 1), (1, 1), (3, 4)),
    (4, 6, (3, 5), (2, 1), (1, 2), (6, 6)),
    (4, 6, (3, 3), (1, 1), (0, 0), (3, 3)),
    (4, 6, (2, 3), (1, 3), (2, 4), (3, 2)),
    (4, 6, (5, 5), (3, 2), (2, 2), (3, 4)),
    (4, 6, (3, 5), (1, 1), (1, 2), (5, 6)),
    (4, 6, (2, 4), (1, 1), (0, 3), (6, 3)),
    (4, 6, (2, 2), (1, 1), (3, 2), (3, 4)),
)


@pytest.fixture
def taken(monkeypatch):
    """Let layers of few channels and batches of few images take the fast way on any processor; calls are counted."""
    calls = []

    def counted(x, *more):
        calls.append(tuple(x.shape))
        return small_maps_conv2d(x, *more)

    monkeypatch.setattr(fast_small_maps, "_MIN_CHANNELS", 2)
    monkeypatch.setattr(fast_small_maps, "_MIN_POINTWISE", 2)
    for limits in ("_MAX_PIXELS", "_MAX_PIXELS_FLOAT32"):
        monkeypatch.setattr(fast_small_maps, limits, ((1, 64),))
    monkeypatch.setattr(fast_small_maps, "_MIN_ROWS", 1)
    monkeypatch.setattr(fast_small_maps, "_has_amx", lambda: True)
    monkeypatch.setattr(fast_small_maps, "small_maps_conv2d", counted)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    return calls


def fast(model):
    return fast_small_maps.fast_small_maps(model)


def conv_of(shape, **more):
    return nn.Conv2d(*shape[:-1], **more)


def drawn(shape, **more):
    return maps(shape[0], shape[-1], **more)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_as_exact_as_the_native_ones(taken, shape, bias, autocast):
    torch.manual_seed(0)
    conv, x = conv_of(shape, bias=bias), drawn(shape)
    upstream = torch.randn_like(conv(x))
    native = everything(conv, x, upstream, autocast=autocast)
    with fast(conv) as count:
        ours = everything(conv, x, upstream, autocast=autocast)
    exact = everything(copy.deepcopy(conv).double(), x.double(), upstream.double())
    assert count == len(taken) == 1
    assert_as_exact(ours, native, exact, 2.0**-8 if autocast else 1e-6)


@pytest.mark.parametrize("rows", [20, 60, 8192])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[3] == (1, 1) and shape[2] != (1, 1)])
def test_gradients_by_taps_add_up_over_parts_of_a_batch(monkeypatch, shape, rows):
    torch.manual_seed(0)
    monkeypatch.setattr(fast_small_maps, "_ROWS", rows)
    conv, x = conv_of(shape, bias=False), drawn(shape, batch=5)
    conv(x).backward(upstream := torch.randn_like(conv(x)))
    found = fast_small_maps._gradient_by_taps(upstream, x, conv.weight, conv.padding)
    assert torch.allclose(found, conv.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [TINY, SMALL])
def test_output_and_gradients_lie_in_channels_last_and_may_be_changed_in_place(taken, shape):
    conv, x = conv_of(shape).bfloat16(), drawn(shape, dtype=torch.bfloat16).requires_grad_()
    with fast(conv):
        output = conv(x)
    assert len(taken) == 1
    assert output.is_contiguous(memory_format=torch.channels_last)
    F.relu_(output).float().sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [TINY, SMALL])
def test_upstream_gradients_in_another_format_or_expanded(taken, shape):
    torch.manual_seed(0)
    conv, x = conv_of(shape), drawn(shape)
    given = torch.randn_like(conv(x))
    with fast(conv):
        same = everything(conv, x, given)
        for upstream in (given.contiguous(), given[:1, :, :1, :1].expand_as(given)):
            expected = same if upstream.is_contiguous() else everything(conv, x, upstream.clone())
            for ours, right in zip(everything(conv, x, upstream), expected, strict=True):
                assert torch.allclose(ours, right, rtol=1e-5, atol=1e-6)
    assert len(taken) == 4


@pytest.mark.parametrize("shape", [TINY, SMALL])
def test_inputs_that_ask_for_no_gradient_get_none(taken, shape):
    conv, x = conv_of(shape), drawn(shape)
    with fast(conv):
        conv(x).sum().backward()
    assert len(taken) == 1
    assert x.grad is None
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [TINY, SMALL])
def test_second_derivatives_are_the_native_ones(taken, shape):
    torch.manual_seed(0)
    conv = conv_of(shape)
    native = copy.deepcopy(conv)
    with fast(conv):
        assert_same_second_derivatives(conv, native, drawn(shape))
    assert len(taken) == 1


class Other(nn.Conv2d):
    """A subclass may compute anything."""


LEFT_OUT = {
    "few pointwise": nn.Conv2d(7, 64, 1),
    "few read": nn.Conv2d(63, 64, 3),
    "few made": nn.Conv2d(64, 63, 3),
    "grouped": nn.Conv2d(64, 64, 3, groups=2),
    "dilated": nn.Conv2d(64, 64, 3, dilation=2),
    "circular": nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"),
    "named padding": nn.Conv2d(64, 64, 3, padding="same"),
    "a subclass": Other(64, 64, 3),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_convolutions_of_other_kinds_take_no_part(case):
    with fast(LEFT_OUT[case]) as count:
        assert count == 0
    with fast(nn.Conv2d(64, 64, 3)) as count:
        assert count == 1


INPUTS = {
    "float64": lambda: (conv_of(TINY).double(), drawn(TINY, dtype=torch.float64)),
    "channels first": lambda: (conv_of(TINY), drawn(TINY).contiguous()),
    "one image without a batch": lambda: (conv_of(TINY), drawn(TINY)[0]),
    "a subclass of Tensor": lambda: (conv_of(TINY), drawn(TINY).as_subclass(type("T", (torch.Tensor,), {}))),
    "meta": lambda: (conv_of(TINY).to("meta"), drawn(TINY).to("meta")),
    "no images": lambda: (nn.Conv2d(6, 8, 1), maps(6, (1, 1))[:0]),
    "many pixels": lambda: (conv_of(TINY), maps(6, (40, 40))),
    "frozen weights": lambda: (conv_of(TINY).requires_grad_(False), drawn(TINY).requires_grad_()),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_pay_run_the_native_operator(taken, case):
    conv, x = INPUTS[case]()
    with fast(conv):
        output = conv(x)
    assert taken == []
    assert output.shape == conv(x).shape
    assert case == "meta" or torch.equal(output, conv(x))


def test_without_gradients_the_native_operator_runs(taken):
    with fast(conv := conv_of(TINY)), torch.no_grad():
        conv(drawn(TINY))
    assert taken == []


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_processors_and_sizes_decide(taken, monkeypatch):
    tiny, small = conv_of(TINY), conv_of(SMALL)
    monkeypatch.setattr(fast_small_maps, "_has_amx", lambda: False)
    with fast(nn.ModuleList([tiny, small])):
        small(drawn(SMALL))
        assert taken == []
        tiny(drawn(TINY))
        assert len(taken) == 1
        monkeypatch.setattr(fast_small_maps, "_has_amx", lambda: True)
        small(drawn(SMALL))
        assert len(taken) == 2
        monkeypatch.setattr(fast_small_maps, "_MIN_ROWS", 13)  # three images of 2x2 pixels have twelve
        tiny(drawn(TINY))
        with torch.backends.mkldnn.flags(enabled=False):
            small(drawn(SMALL))
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        small(drawn(SMALL))
    assert len(taken) == 2


def test_single_pixels_are_products_up_to_a_size_of_the_maps(taken, monkeypatch):
    conv = nn.Conv2d(6, 8, 1)
    limits = {("bfloat16", True): 196, ("bfloat16", False): 49, ("float32", True): 49, ("float32", False): 49}
    for (dtype, amx), most in limits.items():
        monkeypatch.setattr(fast_small_maps, "_has_amx", lambda amx=amx: amx)
        conv, x = conv.to(getattr(torch, dtype)), maps(6, (1, most + 1), dtype=getattr(torch, dtype))
        taken.clear()
        with fast(conv):
            conv(x)
            assert taken == []
            conv(x[..., 1:].contiguous(memory_format=torch.channels_last))
        assert len(taken) == 1


@pytest.mark.parametrize(
    ("channels", "stride", "side", "batch", "dtype", "pays"),
    [
        ((512, 256), 1, 8, 500, torch.bfloat16, True),
        ((512, 256), 1, 9, 32, torch.bfloat16, False),
        ((256, 128), 1, 7, 128, torch.bfloat16, True),
        ((256, 128), 1, 8, 128, torch.bfloat16, False),
        ((128, 128), 1, 5, 128, torch.bfloat16, True),
        ((128, 128), 1, 6, 128, torch.bfloat16, False),
        ((64, 64), 1, 3, 128, torch.bfloat16, True),
        ((64, 64), 1, 4, 128, torch.bfloat16, False),
        ((64, 64), 2, 8, 128, torch.bfloat16, True),
        ((64, 64), 2, 8, 256, torch.bfloat16, False),
        ((512, 256), 1, 4, 128, torch.float32, True),
        ((512, 256), 1, 4, 256, torch.float32, False),
        ((256, 256), 1, 4, 128, torch.float32, False),
    ],
)
def test_many_weights_pay_on_larger_maps(monkeypatch, channels, stride, side, batch, dtype, pays):
    monkeypatch.setattr(fast_small_maps, "_has_amx", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    conv = nn.Conv2d(*channels, 3, stride, 1)
    x = torch.empty(batch, channels[0], side, side, dtype=dtype, memory_format=torch.channels_last)
    assert fast_small_maps._pays(conv, x, dtype) is pays


def test_a_wrong_number_of_channels_is_refused_as_ever(taken):
    with fast(conv := conv_of(TINY)), pytest.raises(RuntimeError, match="6"):
        conv(maps(4, (2, 2)))
    assert taken == []


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_function_transforms_compilers_and_exports_see_the_native_operator(taken):
    assert_transforms_see_the_native_operator(fast, conv_of(TINY), drawn(TINY), taken)


def test_modules_are_as_before_afterwards():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    with fast(model) as count:
        assert count == 1
    assert all("forward" not in vars(module) for module in model.modules())
    assert pickle.loads(pickle.dumps(model))[1].forward.__func__ is nn.Conv2d.forward


def test_fit_trains_a_network_so(taken):
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
    batches = TensorBatches(images, np.arange(32) % 10, 16, mean=(0.5,) * 3, std=(0.25,) * 3, shuffle=True)
    layers = [
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
    ]
    start = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))

    def trained():
        model = copy.deepcopy(start)
        fit(model, batches, TrainSettings(epochs=2, learning_rate=0.05, bf16=False), progress=False)
        return torch.cat([value.detach().flatten().double() for value in model.parameters()])

    ours = trained()
    assert len(taken) == 3 * 4  # layers and steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_small_maps, "_pays", lambda *_: False)
        theirs = trained()
    before = torch.cat([value.detach().flatten().double() for value in start.parameters()])
    assert 0 < (ours - theirs).norm() <= 1e-3 * (theirs - before).norm()
