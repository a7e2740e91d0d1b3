import copy

import pytest
import torch
from torch import Tensor, nn

from ghostnet.convert import ghostify
from ghostnet.convert.graph import find_units
from ghostnet.convert.sequential import initialise_from_dense_
from ghostnet.convert.surgery import replace_convolutions
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d


def _network(channels: int = 8, *, norm: bool = True, bias: bool = False, groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for incoming, stride in ((3, 1), (channels, 2), (channels, 1)):
        layers.append(
            nn.Conv2d(incoming, channels, 3, stride, 1, groups=1 if incoming == 3 else groups, bias=bias)
        )
        if norm:
            layers.append(nn.BatchNorm2d(channels))
            nn.init.uniform_(layers[-1].weight, 0.5, 1.5)
            nn.init.normal_(layers[-1].bias)
            nn.init.uniform_(layers[-1].running_var, 0.5, 1.5)
            nn.init.normal_(layers[-1].running_mean)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers).eval()


def _convert(
    model: nn.Module, batches: list[Tensor] | None, *, ratio: int = 2
) -> tuple[nn.Module, dict[str, float]]:
    units = find_units(model, torch.zeros(1, 3, 12, 12))
    ghost = copy.deepcopy(model)
    for unit in units:
        c = model.get_submodule(unit.name)
        path, _, leaf = unit.name.rpartition(".")
        with_bias = c.bias is not None
        new = GhostConv2d(
            c.in_channels,
            c.out_channels,
            3,
            c.stride,
            c.padding,
            c.dilation,
            c.groups,
            with_bias,
            ratio=ratio,
        )
        setattr(ghost.get_submodule(path), leaf, new)
    return ghost, initialise_from_dense_(model, ghost, units, batches)


BATCHES = [torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(n)) for n in range(3)]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("data", [True, False])
def test_a_ghost_network_in_disguise_is_reproduced(norm: bool, bias: bool, data: bool) -> None:
    model = _network(norm=norm, bias=bias)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                scale = torch.tensor([0.5, -2.0, 1.5, 0.7])
                module.weight[4:] = module.weight[:4].flip(0) * scale[:, None, None, None]
                if module.bias is not None and not norm:
                    module.bias[4:] = module.bias[:4].flip(0) * scale
    ghost, errors = _convert(model, BATCHES if data else None)
    x = torch.randn(4, 3, 12, 12)
    if norm or data or not bias:
        torch.testing.assert_close(ghost(x), model(x), atol=1e-4, rtol=1e-4)
    assert max(errors.values()) < 1e-2


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [8, 7])
def test_uneven_channels_and_ratios_stay_finite(ratio: int, channels: int) -> None:
    model = _network(channels, bias=True)
    ghost, errors = _convert(model, BATCHES, ratio=ratio)
    x = torch.randn(4, 3, 12, 12)
    assert bool(torch.isfinite(ghost(x)).all())
    assert all(0 <= error < 1.1 for error in errors.values())
    if ratio == 1:
        torch.testing.assert_close(ghost(x), model(x))


def test_groups_and_dead_maps_stay_finite() -> None:
    model = _network(groups=2)
    with torch.no_grad():
        model[0].weight[:3] = 0
    ghost, _ = _convert(model, [torch.ones(2, 3, 12, 12)])
    assert bool(torch.isfinite(ghost(torch.randn(2, 3, 12, 12))).all())


def test_data_help_and_large_layers_fall_back() -> None:
    model = _network()
    x = torch.randn(16, 3, 12, 12)
    fitted, blind = _convert(model, BATCHES)[0], _convert(model, None)[0]
    wanted = model(x)
    assert (fitted(x) - wanted).square().mean() < (blind(x) - wanted).square().mean()
    units = find_units(model, x[:1])
    errors = initialise_from_dense_(model, fitted, units, BATCHES, max_gram=10)
    assert max(errors.values()) < 1
    assert bool(torch.isfinite(fitted(x)).all())


def test_modes_return_and_bad_arguments_are_errors() -> None:
    model = _network().train()
    ghost, _ = _convert(model, BATCHES)
    assert model.training
    assert ghost.training
    with pytest.raises(InputError, match="must not be negative"):
        initialise_from_dense_(model, ghost, [], BATCHES, rounds=-1)
    with pytest.raises(InputError, match="is empty"):
        initialise_from_dense_(model, ghost, [], [])
    with pytest.raises(InputError, match="no converted convolution"):
        initialise_from_dense_(model, model, find_units(model, torch.zeros(1, 3, 12, 12)), BATCHES)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("data", [True, False])
def test_a_grouped_ghost_network_in_disguise_is_reproduced(norm: bool, data: bool) -> None:
    model = _network(16, norm=norm, groups=4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight.unflatten(0, (module.groups, -1))
                half = weight.shape[1] // 2
                weight[:, half:] = (
                    weight[:, :half].flip(1) * torch.linspace(-2, 1.5, half)[:, None, None, None]
                )
    ghost, errors = _convert(model, BATCHES if data else None)
    x = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(ghost(x), model(x), atol=1e-4, rtol=1e-4)
    assert max(errors.values()) < 1e-2


@pytest.mark.parametrize("data", [True, False])
def test_groups_that_the_ratio_does_not_divide_are_served_by_other_groups(data: bool) -> None:
    model = _network(12, groups=4)  # three maps a group: two stay, so half of the groups have no ghost slot
    with torch.no_grad():
        for index in (3, 6):
            model[index].weight[2::3] = 0  # nobody misses the last one of each group
    ghost, errors = _convert(model, BATCHES if data else None)
    assert [m.intrinsic_channels for m in ghost.modules() if isinstance(m, GhostConv2d)] == [6, 8, 8]
    most = 0.35 if data else 1e-3  # images bring in the first layer's error
    assert max(list(errors.values())[1:]) < most


@torch.no_grad()
def test_images_help_grouped_layers() -> None:
    model = nn.Sequential(*list(_network(16, groups=2))[3:])  # the grouped layers alone
    torch.manual_seed(0)
    images = [nn.functional.avg_pool2d(torch.randn(16, 16, 14, 14), 3, 1).relu() for _ in range(3)]
    units = find_units(model, images[0][:1])
    wanted, lost = model(images[2]), {}
    for name, batches in (("images", images[:2]), ("weights", None)):
        ghost = replace_convolutions(model, units, ratio=2, cheap_kernel_size=3)[0]
        initialise_from_dense_(model, ghost, units, batches)
        lost[name] = float((ghost(images[2]) - wanted).square().mean())
    assert lost["images"] < 0.2 * lost["weights"]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_large_layers_in_half_precision_are_fitted_as_in_float32(kind: torch.dtype) -> None:
    model = _network(24)
    for layer in (model[3], model[6]):
        layer.weight.data *= 20  # a trained network's maps are of no particular size
    images = [torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(0))]
    errors = []
    for each in (torch.float32, kind):
        dense, batches = copy.deepcopy(model).to(each), [batch.to(each) for batch in images]
        units = find_units(dense, batches[0])
        ghost, _ = replace_convolutions(dense, units, ratio=2, cheap_kernel_size=3)
        errors.append(initialise_from_dense_(dense, ghost, units, batches, max_gram=100))
        assert all(value.isfinite().all() for value in ghost.state_dict().values())
    assert list(errors[1].values()) == pytest.approx(list(errors[0].values()), rel=0.05)


def test_the_fit_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model = _network()
    ghostify(model, calibration=BATCHES[0], progress=True)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fit: 2/2 layers")
    assert said.endswith("6")
    ghostify(model, calibration=BATCHES[0])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("max_gram", [4096, 1])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_borders_are_those_that_the_convolution_pads(mode: str, max_gram: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, padding=2, groups=groups, padding_mode=mode, bias=False)
    dense = nn.Sequential(layer, nn.BatchNorm2d(8)).eval()
    images = torch.randn(32, 4, 6, 6).cumsum(2).cumsum(3) + 1  # borders unlike the middle
    with torch.no_grad():
        maps = layer(images)
        dense[1].running_mean.copy_(maps.mean((0, 2, 3)))
        dense[1].running_var.copy_(maps.var((0, 2, 3), correction=0))
    units = find_units(dense, images[:1])
    ghost, _ = replace_convolutions(dense, units, ratio=2, cheap_kernel_size=3)
    told = initialise_from_dense_(dense, ghost, units, [images], max_gram=max_gram)["0"]
    with torch.no_grad():
        made, wanted = ghost[0](images), dense(images)
        torch.testing.assert_close(ghost[1].running_mean, made.mean((0, 2, 3)), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(
            ghost[1].running_var, made.var((0, 2, 3), correction=0), atol=2e-3, rtol=1e-3
        )
        lost = (ghost(images) - wanted).square().mean() / wanted.square().mean()
    assert told == pytest.approx(float(lost.sqrt()), rel=0.02)
