"""The zoo's names: builders registered under their function names, and the one door that builds them.

What a builder is trained on (input size, classes) is stated where it is registered, so that counts, exports and
benchmarks need not guess. Weights are found in `weights.py`.
"""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ghostnet.checks import check_integer, is_number
from ghostnet.errors import InputError, unknown_name

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class ModelInfo:
    """What the registry knows of a name without building it.

    Attributes:
        name: registry key, which is also the builder's name.
        family: networks that share a builder file ("cifar_resnet").
        input_size: `(C, H, W)` that the counts of the paper are given for.
        num_classes: classes of the default head.
        summary: one sentence.
        weights: tags of packaged weights, accepted by `create_model(name, weights=tag)`.
        published: tags of published weights, which are fetched at their first use; see `models.weight_cards`.
    """

    name: str
    family: str
    input_size: tuple[int, int, int]
    num_classes: int
    summary: str
    weights: tuple[str, ...] = ()
    published: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dictionary."""
        return asdict(self)


_BUILDERS: dict[str, tuple[Builder, ModelInfo]] = {}


def register(
    *, family: str, input_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10
) -> Callable[[Builder], Builder]:
    """Return a decorator that enters a builder under its own name.

    Args:
        family: the family's name.
        input_size: `(C, H, W)`.
        num_classes: default number of classes.
    """

    def enter(builder: Builder) -> Builder:
        name = builder.__name__
        if name in _BUILDERS:
            raise InputError(f"model {name!r} is registered twice")
        summary = (inspect.getdoc(builder) or "").split("\n")[0]
        _BUILDERS[name] = (builder, ModelInfo(name, family, input_size, num_classes, summary))
        return builder

    return enter


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, sorted.

    Args:
        pattern: `fnmatch` pattern; "*" gives all.

    Example:
        >>> list_models("ghost_resnet5*")
        ['ghost_resnet50', 'ghost_resnet56']
    """
    return sorted(name for name in _BUILDERS if fnmatch.fnmatchcase(name, pattern))


def model_info(name: str) -> ModelInfo:
    """Return what is known of a model by name, its packaged weights included.

    Raises:
        InputError: the name is not registered; near matches are listed.
    """
    from ghostnet.models.cards import weight_cards
    from ghostnet.models.outside import outside_of
    from ghostnet.models.weights import packaged_tags

    if name not in _BUILDERS:
        if outside_of(name) is not None:
            raise InputError(
                f"{name!r} is no network of the zoo; create_outside of ghostnet.models builds it, and "
                "ghostnet.save writes it to a file that is taken wherever a saved network is"
            )
        raise unknown_name("model", name, _BUILDERS)
    info = _BUILDERS[name][1]
    published = tuple(card.tag for card in weight_cards(name))
    return ModelInfo(**{**asdict(info), "weights": packaged_tags(name), "published": published})


_MAPS = "models.feature_pyramid(model, strides=…) gives feature maps"
_OF_TIMM = {  # arguments of timm's create_model, and what does the same here
    "features_only": _MAPS,
    "out_indices": _MAPS,
    "output_stride": _MAPS,
    "global_pool": "model.forward_features(images) gives the maps in front of the pooling",
}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    new_head: bool = False,
    **model_args: Any,
) -> nn.Module:
    """Build a network of the zoo by name.

    Args:
        name: one of `list_models()`.
        num_classes: size of the classifier; the default is the model's own.
        weights: a tag of packaged or published weights (`model_info(name)`); a file of `ghostnet.save`, or of the
            authors', timm's or PaddleClas's layout (.pth, .safetensors, .npz, .pdparams); an http(s) URL of one,
            optionally with "#sha256=…"; "hf:owner/name" or "hf:owner/name:file" on the Hugging Face hub.
        new_head: take everything but the classifier from `weights`, whatever number of classes they are for.
        **model_args: what the builder accepts (`width_mult`, `ratio`, `cheap_kernel_size`, …).

    Returns:
        The network, in training mode without weights and in evaluation mode with them.

    Raises:
        InputError: unknown name or argument, or weights that do not fit.
        DownloadError: weights that cannot be fetched.

    Example:
        >>> create_model("ghost_resnet20", ratio=2)(torch.zeros(1, 3, 32, 32)).shape  # doctest: +SKIP
        torch.Size([1, 10])
    """
    info = model_info(name)
    builder = _BUILDERS[name][0]
    accepted = [key for key in inspect.signature(builder).parameters if key != "num_classes"]
    for key in model_args:
        if key not in accepted and key in _OF_TIMM:
            raise InputError(f"unknown argument of model {name!r} {key!r}, which is timm's; {_OF_TIMM[key]}")
        if key not in accepted:
            raise unknown_name(f"argument of model {name!r}", key, accepted)
    classes = info.num_classes if num_classes is None else num_classes
    check_integer("`num_classes`", classes)
    if weights is None and new_head:
        raise InputError("`new_head` needs `weights`: without them the whole network is fresh")
    opened = None
    if weights is not None:
        from ghostnet.models.weights import open_weights

        opened = open_weights(name, weights)
        if "rounding" in accepted and opened.rounding is not None:
            model_args = {"rounding": opened.rounding, **model_args}
    model = builder(num_classes=classes, **model_args)
    model.ghostnet_origin = {  # type: ignore[assignment]
        "library": "ghostnet",
        "name": name,
        "args": {"num_classes": classes, **model_args},
        "input_size": [model_args.get("in_chans", info.input_size[0]), *info.input_size[1:]],
    }
    if opened is not None:
        from ghostnet.models.weights import fill_

        fill_(model, opened, new_head=new_head)
        model.eval()
    return model


def check_in_chans(in_chans: int) -> int:
    """Return `in_chans` when a network can have so many input channels.

    Raises:
        InputError: it is no integer >= 1.
    """
    return check_integer("`in_chans`", in_chans, ending="; 3 for colour images.")


def check_width(width_mult: float) -> float:
    """Return `width_mult` when it is a usable factor.

    Raises:
        InputError: it is not a number in (0, 16].
    """
    if not is_number(width_mult) or not 0 < width_mult <= 16:
        raise InputError(f"`width_mult` (={width_mult!r}) must be a number above 0 and at most 16")
    return float(width_mult)
