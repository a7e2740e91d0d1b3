"""Whether a rewritten network computes what the original does, on random input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ghostnet.errors import InputError, first_line
from ghostnet.nn.copies import copy_model

RELATIVE_TOLERANCE = 1e-5
_NO_NEGATIVES = "ghostnet_no_negative_input"


def random_input(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    """Return reproducible random input of `shape` on the model's device and in its dtype.

    Args:
        model: answers normal values, or was marked by `takes_no_negative_values_`.
        shape: of the input, with the batch.
    """
    tensors = (tensor for tensor in model.parameters() if tensor.is_floating_point())
    reference = next(tensors, torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    if getattr(model, _NO_NEGATIVES, False):
        return (1 - torch.rand(*shape, generator=generator)).to(reference)  # no zero: it has no logarithm
    return torch.randn(*shape, generator=generator).to(reference)


def takes_no_negative_values_(model: nn.Module) -> None:
    """Let `random_input` for the network, and for copies of it, be uniform in (0, 1].

    A network may begin with a square root or a logarithm, for pixels as a file holds them.

    Args:
        model: a copy of one's own, which gets the mark.

    Example:
        >>> network = nn.Identity()
        >>> takes_no_negative_values_(network)
        >>> bool((random_input(network, (2, 3, 4, 4)) > 0).all())
        True
    """
    setattr(model, _NO_NEGATIVES, True)


def relative_error(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference divided by the largest reference value (NaN counts as infinite)."""
    difference = (reference.double() - other.double()).abs().max().item()
    error = difference / max(reference.abs().max().item(), 1e-12)
    return error if error == error else float("inf")


@torch.no_grad()
def outputs(model: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    """Return the floating tensors of what a network answers, whatever holds them.

    Args:
        model: in eval mode.
        example: `(N, C, H, W)`.
    """
    leaves = pytree.tree_leaves(model(example.clone()))  # a network may write into its input
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]


def difference(expected: Sequence[torch.Tensor], result: nn.Module, example: torch.Tensor) -> float:
    """Return the largest relative error among the tensors of a network's outputs.

    Args:
        expected: the original's `outputs` for `example`.
        result: the other network.
        example: `(N, C, H, W)`.
    """
    found = outputs(result, example)
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    return max(map(relative_error, expected, found), default=0.0)


def same_in_double(model: nn.Module, result: nn.Module, example: torch.Tensor) -> bool:
    """Tell whether two networks agree in double precision: then only float32's rounding tells them apart."""
    try:
        exact = outputs(copy_model(model).double(), example.double())
        return difference(exact, copy_model(result).double(), example.double()) <= RELATIVE_TOLERANCE
    except Exception:  # the code may insist on float32
        return False


def does_not_run(input_size: Sequence[int], error: Exception) -> InputError:
    """Return the one line for whatever a user's forward raised."""
    return InputError(f"the model does not run with input_size {tuple(input_size)}: {first_line(error)}")
