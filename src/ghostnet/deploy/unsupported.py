"""Which layer of a network a runtime cannot express: the name behind an exporter's message.

Exporters name operators ("aten::special_bessel_j0"), people know layers ("features.3.gate"). The exported program
of the same network says which layer each operator comes from.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn

from ghostnet.errors import InputError
from ghostnet.quiet import quiet_python

_OPERATOR = re.compile(r"\b(?:aten|prims|torch)(?:\.|::)([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)")
_MOST_NAMED = 3  # layers in a message


def explained(error: Exception, model: nn.Module, example: torch.Tensor, runtime: str) -> InputError:
    """Return the one line for a failed conversion: operator and layer where they can be told, else its message.

    Args:
        error: what the exporter raised.
        model: the network as the user gave it, since its layer names are those that the user knows.
        example: an input.
        runtime: the runtime's name for people.
    """
    program, why = _program_or_why_not(model, example)
    if program is None:
        return InputError(f"the model cannot be exported to {runtime}: {why}")
    for operator in _OPERATOR.findall(str(error)):
        without_overload = operator.partition(".")[0]
        found = _layers_with(program, operator) or _layers_with(program, without_overload)
        if found:
            where = " or ".join(f"layer {name}" if name else "in the network's own forward" for name in found)
            return InputError(
                f"{runtime} cannot express {operator.removesuffix('.default')} ({where}); "
                "use another operation there or another target"
            )
    return InputError(f"the model cannot be exported to {runtime}: {_reason(error)}; try another target")


def refuse_data_dependent(model: nn.Module, example: torch.Tensor, runtime: str) -> None:
    """Raise where the network's path depends on its input: a trace would keep one path without a word.

    Raises:
        InputError: it does, with the layer's name.
    """
    if isinstance(model, fx.GraphModule):  # symbolic tracing has refused such code already
        return
    program, why = _program_or_why_not(model, example)
    if program is None:
        raise InputError(f"the model cannot be exported to {runtime}: {why}")


def _program_or_why_not(model: nn.Module, example: torch.Tensor) -> tuple[Any | None, str]:
    """Return the exported program, or None and where and why the export stopped."""
    import torch._dynamo  # here, so that Ctrl-C while it is imported is not taken for a fault of the network

    entered: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _a, name=name: entered.append(name)))
        handles.append(module.register_forward_hook(lambda _m, _a, _o: _drop_last(entered)))
    try:
        with quiet_python():
            return torch.export.export(model, (example,), strict=False), ""
    except Exception as error:  # whatever the network's own code raises on tensors without values
        where = next((f"layer {name}" for name in entered[-1:] if name), "the network")
        return None, f"{where} does not export ({_reason(error)}); remove data-dependent code"
    finally:
        for handle in handles:
            handle.remove()


def _drop_last(entered: list[str]) -> None:
    entered.pop()


def _layers_with(program: Any, operator: str) -> list[str]:
    """Return the first layers that run `operator`, "" for the network itself."""
    wanted = _plain(operator.removesuffix(".default"))
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not _plain(_operator_of(node)).endswith(wanted):
            continue
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        found.setdefault(str(stack[-1][0]) if stack else "")
    return list(found)[:_MOST_NAMED]


def _operator_of(node: Any) -> str:
    """Return "special_bessel_j0" for aten.special_bessel_j0.default."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _plain(name: str) -> str:
    return name.replace("_", "").replace(".", "").lower()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
