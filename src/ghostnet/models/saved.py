"""Saved networks: one safetensors file whose header holds, as JSON, all that is needed to rebuild the network.

The record names where the network comes from (this zoo, torchvision or timm, with arguments) and which of its modules
were replaced since. Nothing is unpickled, imported by a name found in the file, or read or fetched because the file
says so: a builder takes only arguments that `save` writes (`origin.py`).
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostnet.errors import InputError
from ghostnet.files import atomic_write, refuse_overwrite
from ghostnet.models.origin import check_origin, damaged, origin_of, rebuild
from ghostnet.models.registry import create_model, list_models
from ghostnet.nn.eager import eager_module
from ghostnet.nn.edits import apply_edits_, record_edits_, recorded_edits

_SCHEMA = 1


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    force: bool = True,
    info: dict[str, Any] | None = None,
) -> None:
    """Write a network so that `load` rebuilds it, converted ones included.

    Args:
        model: built by `create_model`, by torchvision's or timm's builders, or what `ghostify` made of one; another
            network, or one of these changed by hand, is saved too, but `load` then needs it as `model=`. What
            `torch.compile` wraps is saved as it was written.
        path: the file, by custom ending in .safetensors; an older one survives a failure.
        half: store floating-point weights in half precision, but for tensors that it cannot hold (above 65,504).
        force: overwrite an existing file.
        info: more to keep in the header (accuracy, recipe, class names); JSON-able.

    Raises:
        InputError: the file exists and `force` is false, weights are not finite, or the model is TorchScript or lazy.
    """
    from safetensors.torch import save_file

    refuse_overwrite(path, force=force)
    model = eager_module(model, "save")
    origin, changed = origin_of(model)
    if origin is None and isinstance(model, fx.GraphModule):
        changed = "rewritten as a graph, as deploy.optimize does, which the fresh one needs, too"
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}, not a tensor (get_extra_state); it cannot be saved"
            )
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise InputError(f"{name} holds NaN or infinity; a broken network is not saved")
            if half and torch.isfinite(value.half()).all():  # else it cannot hold it, a large variance say
                value = value.half()
        tensors[name] = value.detach().cpu().contiguous().clone()
    record = {
        "schema": _SCHEMA,
        "origin": origin,
        "edits": recorded_edits(model),
        "info": info or getattr(model, "ghostnet_info", {}),
    }
    if changed is not None:
        record["changed"] = changed
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"ghostnet": json.dumps(record)})


def load(path_or_name: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """Rebuild a saved network, or build one of the zoo with its packaged weights.

    Args:
        path_or_name: a file written by `save`, a name of `list_models()`, or "MODEL.TAG" for packaged weights of
            that tag, which may be a converted network: "resnet9_050.ghost".
        model: for a network of your own: a fresh one, as it was before conversion. It is changed and returned.

    Returns:
        The network in evaluation mode; what was saved as `info` is in its attribute `ghostnet_info`.

    Raises:
        InputError: no such file or name, a file that is damaged, a pickle, or of another network.
    """
    name = os.fspath(path_or_name)
    if not Path(name).is_file():
        from ghostnet.models.weights import default_tag, packaged_network

        if name in list_models():
            return create_model(name, weights=default_tag(name)).eval()
        name = str(packaged_network(name) or name)
    record, tensors = read_saved(name)
    network = (
        eager_module(model, "load")
        if model is not None
        else rebuild(record["origin"], name, record.get("changed"), record["info"].get("built_by"))
    )
    apply_edits_(network, record["edits"])
    load_state_(network, tensors, name)
    network.ghostnet_origin = record["origin"]
    record_edits_(network, record["edits"])
    network.ghostnet_info = record["info"]
    return network.eval()


def read_saved(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of `save`: its record and its tensors.

    Raises:
        InputError: missing, truncated, a pickle, or not written by ghostnet.
    """
    place = Path(path)
    metadata, tensors = _read_file(place)
    if "ghostnet" not in metadata:
        raise InputError(
            f"{place} was not written by ghostnet.save: its header does not say how to build the network"
        )
    return _checked_record(metadata["ghostnet"], place), tensors


def _checked_record(text: str, place: Path) -> dict[str, Any]:
    """Return a file's record, in which every part is of its type.

    Raises:
        InputError: it is no JSON, of another schema, or a part is missing or of another type.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise damaged(place, "record", text)
    if record.get("schema") != _SCHEMA:
        raise InputError(f"{place} has schema {record.get('schema')}; this ghostnet reads schema {_SCHEMA}")
    check_origin(record.get("origin"), str(place))
    for name, kind in (("edits", list), ("info", dict)):
        if not isinstance(record.get(name), kind):
            raise damaged(place, name, record.get(name))
    return record


def read_plain_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor] | None:
    """Return the tensors of a safetensors file that another program wrote, or None where `save` wrote it.

    Raises:
        InputError: missing, truncated, or a pickle.
    """
    metadata, tensors = _read_file(Path(path))
    return None if "ghostnet" in metadata else tensors


def _read_file(place: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of any safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not place.is_file():
        if place.parts[:1] in (("http:",), ("https:",)):
            raise InputError(
                "an address is no name of a network; give the name, and the address as its weights (--weights), or "
                "fetch the file first"
            )
        near = [name for name in list_models() if str(place) in name]
        hint = f"; a model of the zoo? {', '.join(near[:3])}" if near else ""
        raise InputError(f"no file {place} and no model of that name{hint}")
    _refuse_pickle(place)
    try:
        with safe_open(place, framework="pt") as stream:
            metadata = stream.metadata() or {}
            return metadata, {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, struct.error) as error:
        raise InputError(
            f"{place} is not a whole safetensors file ({error}); fetch or save it again"
        ) from error


def load_state_(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a network with saved tensors; half precision is widened to the network's own type.

    Raises:
        InputError: names or shapes do not fit; the first difference is named.
    """
    expected = model.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}  # networks trained before PyTorch 0.4.1 have none, and need none
    for name in sorted({*expected, *tensors}):
        if name not in tensors:
            raise InputError(f"{source} lacks {name}, which the network has; it holds another network")
        if name not in expected:
            raise InputError(f"{source} holds {name}, which the network lacks; it holds another network")
        if expected[name].shape != tensors[name].shape:
            raise InputError(
                f"{name} is {tuple(tensors[name].shape)} in {source} and {tuple(expected[name].shape)} in the network"
            )
    state = type(expected)((name, tensors[name].to(expected[name].dtype)) for name in expected)
    state._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]  # some modules check their version
    model.load_state_dict(state)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(9)
    # a safetensors file starts with the length of its header, which may look like a pickle's first byte
    if start[8:9] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise InputError(f"{path} is a pickle, which could run code; ghostnet reads safetensors files only")
