"""Convolutions that pad by the size of their input, made plain for one input size: `with_fixed_padding`.

Networks that come from TensorFlow pad so that an output's side is input / stride, rounded up, with the odd pixel on the
right and at the bottom, in code that no graph follows (timm's `Conv2dSame`). For one size the padding is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.hooks import input_of
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import replace_module_


@torch.no_grad()
def with_fixed_padding(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy in which convolutions of a class of their own are plain ones, where that gives the same maps.

    A network without such convolutions is given back itself.

    Args:
        model: in evaluation mode; it is not changed.
        example: one input of the size that the copy is for.
    """
    own = [name for name, module in model.named_modules() if name and _is_of_a_class_of_its_own(module)]
    if not own:
        return model
    fixed = copy_model(model)
    watched = copy_model(model)  # another one, since code may keep what it computes
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in own:

        def note(_: nn.Module, args: Any, kwargs: Any, output: Tensor, name: str = name) -> None:
            seen.setdefault(name, []).append((input_of(args, kwargs).clone(), output.clone()))

        watched.get_submodule(name).register_forward_hook(note, with_kwargs=True)
    watched(example)
    for name, runs in seen.items():
        for plain in _candidates(fixed.get_submodule(name), runs[0][0]):
            if all(_same(plain, inputs, output) for inputs, output in runs):
                _replace_everywhere_(fixed, fixed.get_submodule(name), plain)
                break
    return fixed


def _replace_everywhere_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place under each of its names."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            replace_module_(model, name, new)


def _is_of_a_class_of_its_own(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d and not hooked


def _same(plain: nn.Module, inputs: Tensor, output: Tensor) -> bool:
    try:
        found = plain(inputs)
    except RuntimeError:  # a kernel larger than what that padding leaves
        return False
    return found.shape == output.shape and torch.allclose(
        found, output, rtol=1e-5, atol=1e-6 * float(output.abs().max())
    )


def _candidates(module: nn.Module, inputs: Tensor) -> Iterator[nn.Module]:
    """Give what a convolution may be: plain as its settings say, or as TensorFlow's "SAME" is at this input's size."""
    assert isinstance(module, nn.Conv2d)
    yield _plain(module, module.padding, module.padding_mode)
    before, after = [], []
    sizes = zip(inputs.shape[-2:], module.kernel_size, module.stride, module.dilation, strict=True)
    for side, kernel, stride, dilation in sizes:
        missing = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        before.append(missing // 2)
        after.append(missing - missing // 2)
    if before == after:
        yield _plain(module, (before[0], before[1]))
    else:
        yield nn.Sequential(nn.ZeroPad2d((before[1], after[1], before[0], after[0])), _plain(module, (0, 0)))


def _plain(module: nn.Conv2d, padding: Any, padding_mode: str = "zeros") -> nn.Conv2d:
    """Return a plain convolution of the same weights."""
    plain = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        padding,
        module.dilation,  # type: ignore[arg-type]
        module.groups,
        module.bias is not None,
        padding_mode,  # type: ignore[arg-type]
        device="meta",
    ).train(module.training)
    plain.weight = _parameter(module.weight)
    plain.bias = None if module.bias is None else _parameter(module.bias)
    return plain


def _parameter(value: Tensor) -> nn.Parameter:
    """Return the parameter itself, or a new one of what another computes (weight and spectral norm)."""
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach())
