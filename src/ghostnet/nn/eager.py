"""What a network is taken as before anything is done to it: a module whose layers can be seen and replaced."""

from __future__ import annotations

import torch
from torch import nn

from ghostnet.errors import InputError
from ghostnet.modes import check_network


def eager_module(model: object, verb: str) -> nn.Module:
    """Return a network as it was written: what `torch.compile` wraps is taken out of it.

    Args:
        model: what the user gave.
        verb: name of the function that it was given to, for the message.

    Raises:
        InputError: it is no module, a wrapper whose `train` trains, TorchScript, whose layers cannot be replaced, or
            has layers without a shape (lazy) or without weights (on the meta device).

    Example:
        >>> eager_module(nn.ReLU(), "ghostify")
        ReLU()
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{verb} needs a torch.nn.Module, not {type(model).__name__}; build the model first")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{verb} needs the module as it was written, not TorchScript ({type(model).__name__}); give it before "
            "torch.jit.script or torch.jit.trace"
        )
    if type(model).__name__ == "OptimizedModule" and isinstance(model._modules.get("_orig_mod"), nn.Module):
        return eager_module(model._orig_mod, verb)
    check_network(model, verb)
    tensors = (*model.named_parameters(), *model.named_buffers())
    lazy = next((name for name, tensor in tensors if nn.parameter.is_lazy(tensor)), None)
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if lazy is not None:
        raise InputError(
            f"{verb} needs layers with a shape, and {lazy} is lazy; run the model once on real input"
        )
    if empty is not None:
        raise InputError(f"{verb} needs weights, and {empty} has none (device meta); load them first")
    return model
