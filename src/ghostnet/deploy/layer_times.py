"""What each convolution of a network takes in a runtime, as it is and as a Ghost convolution, at its real input.

Each distinct layer is exported alone in both forms and both are timed in turn. Alone means with its own input and
output: a runtime that fuses or avoids reordering between layers is a little better than this says, which is why
`plan` measures the whole network too.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghostnet.deploy.compare import does_not_run, random_input
from ghostnet.deploy.export import export
from ghostnet.deploy.manifest import manifest_path
from ghostnet.deploy.quantization.calibration import MIN_IMAGES
from ghostnet.deploy.quantization.quantize import quantize
from ghostnet.deploy.quantization.search import ANY_COST
from ghostnet.deploy.repeated import prediction
from ghostnet.deploy.session import Session, load
from ghostnet.deploy.targets import target_named
from ghostnet.errors import InputError
from ghostnet.hooks import input_of
from ghostnet.measure import Timing, time_interleaved
from ghostnet.measure.ghost_convolutions import ghost_macs
from ghostnet.nn import GhostConv2d
from ghostnet.nn.copies import copy_model
from ghostnet.nn.ghost_conv import ghost_like


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how layers are timed.

    Attributes:
        target: key of `TARGETS`.
        precision: "fp32", "bf16" or "int8".
        threads: inside one operator.
        seconds: least time for each form of a layer; four times that for a whole network.
        folder: exported files lie here, named by what they hold, and are taken again when they are there.
        calibration: images for int8 of the whole network, None for random ones.
        announce: called with a line before each slow step.
    """

    target: str
    precision: str
    threads: int
    seconds: float
    folder: Path
    calibration: Any
    announce: Callable[[str], None]

    def session(self, name: str, key: str, model: nn.Module, input_size: tuple[int, ...]) -> Session:
        """Return a network in the runtime, from the folder where it lies there already."""
        target = target_named(self.target)
        kind = "int8" if self.precision == "int8" else "float"
        path = self.folder / f"{self.target}-{kind}-{_hash(key)}{target.suffixes[0]}"
        how: dict[str, Any] = {
            "threads": self.threads,
            "precision": "fp32" if kind == "int8" else self.precision,
        }
        if manifest_path(path).is_file():
            try:
                return load(path, **how)
            except InputError as error:
                self.announce(f"what lies in {self.folder} of {name} is of no use ({error})")
        self.announce(f"exporting {name} to {target.runtime}")
        if kind == "int8":
            images = self._images(input_size)
            quantize(model, self.target, path, images, limits=ANY_COST, input_size=input_size, force=True)
        else:
            export(model, self.target, path, input_size=input_size, tolerance=1e-3, force=True)
        return load(path, **how)

    def times(
        self, sessions: dict[str, Session], input_size: tuple[int, ...], seconds: float
    ) -> dict[str, Timing]:
        """Time sessions in turn on one random image."""
        image = np.random.default_rng(0).standard_normal((1, *input_size), dtype=np.float32)
        calls = {name: prediction(session, image) for name, session in sessions.items()}
        return time_interleaved(calls, min_seconds=seconds, min_rounds=10, warmup=3)

    def _images(self, input_size: tuple[int, ...]) -> Any:
        given = self.calibration
        if given is not None and tuple(given.shape[1:]) == input_size:
            return given
        return np.random.default_rng(0).standard_normal((MIN_IMAGES, *input_size), dtype=np.float32)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Site:
    """A convolution that could be ghosted.

    Attributes:
        name: its path.
        convolution: the module.
        input_size: `(C, H, W)` that reaches it.
        output_pixels: H' W'.
        usually_kept: why it is a candidate only where it is named, or None.
    """

    name: str
    convolution: nn.Conv2d
    input_size: tuple[int, int, int]
    output_pixels: int
    usually_kept: str | None = None

    def key(self) -> str:
        """Return a text that is the same for layers of equal shape."""
        layer = self.convolution
        facts = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        return json.dumps([*facts, layer.dilation, layer.groups, layer.padding_mode, self.input_size])

    def shape(self) -> str:
        """Return "64x56x56, 3x3/2, 128" for people."""
        layer = self.convolution
        kernel = "x".join(map(str, layer.kernel_size))
        stride = "" if layer.stride in (1, (1, 1)) else f"/{layer.stride[0]}"
        return f"{'x'.join(map(str, self.input_size))}, {kernel}{stride}, {layer.out_channels}"

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        return int(self.convolution.weight.numel()) * self.output_pixels

    def ghost(self, ratio: int, cheap_kernel_size: int) -> GhostConv2d:
        """Return a Ghost convolution in its place, with random weights."""
        return ghost_like(self.convolution, {"ratio": ratio, "cheap_kernel_size": cheap_kernel_size})

    def ghost_macs(self, ratio: int, cheap_kernel_size: int) -> int:
        """Return those of the Ghost convolution."""
        return ghost_macs(self.ghost(ratio, cheap_kernel_size), self.convolution, self.macs())


def find_sites(model: nn.Module, input_size: tuple[int, ...]) -> tuple[list[Site], dict[str, str]]:
    """Run the network once and return its plain convolutions in order, and why others are no candidates.

    Raises:
        InputError: it does not run, or has no convolution.
    """
    running = copy_model(model).eval().cpu()
    names = {module: name for name, module in running.named_modules()}
    ghosts = tuple(f"{name}." for name, module in running.named_modules() if isinstance(module, GhostConv2d))
    seen: dict[str, list[tuple[Any, Any]]] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.setdefault(names[module], []).append((input_of(args, kwargs).shape, output.shape))

    handles = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in names
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            running(random_input(running, (1, *input_size)))
    except Exception as error:  # the user's code may raise anything
        raise does_not_run(input_size, error) from error
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise InputError(
            f"found no convolution in this {type(model).__name__}; a plan is about nn.Conv2d layers"
        )
    sites, left_out = [], {}
    for number, (name, shapes) in enumerate(seen.items()):
        layer = running.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        why_not = _reason(layer, len(shapes), name.startswith(ghosts))
        if why_not:
            left_out[name] = why_not
            continue
        given, output = shapes[0]
        kept = "the first convolution" if number == 0 else None
        if layer.groups == layer.in_channels and layer.groups > 1:
            kept = "a depthwise convolution"
        sites.append(Site(name, layer, tuple(given[1:]), int(output[2] * output[3]), kept))
    return sites, left_out


def _reason(layer: nn.Conv2d, calls: int, in_ghost: bool) -> str | None:
    if in_ghost:
        return "part of a Ghost convolution"
    if type(layer) is not nn.Conv2d:
        return f"a {type(layer).__name__}, not a plain nn.Conv2d"
    return "runs more than once" if calls > 1 else None


@dataclasses.dataclass(frozen=True)
class LayerTimes:
    """What one layer takes.

    Attributes:
        dense_ms: median of the plain convolution.
        ghosts: by ratio, of its Ghost forms; empty where it cannot be ghosted or exported.
        failed: why a form is missing, None where none is.
    """

    dense_ms: float
    ghosts: dict[int, float]
    failed: str | None = None

    def gain_ms(self, ratio: int) -> float:
        """Return what a form saves; below 0 where it is slower."""
        return self.dense_ms - self.ghosts[ratio]


def time_sites(
    sites: Sequence[Site], setting: Setting, *, ratios: Sequence[int], cheap_kernel_size: int
) -> dict[str, LayerTimes]:
    """Return for each site the times of its forms. Layers of equal shape are exported and timed once."""
    distinct: dict[str, Site] = {}
    for site in sites:
        distinct.setdefault(site.key(), site)
    opened: dict[str, _Forms] = {}
    for number, (key, site) in enumerate(distinct.items(), start=1):
        title = f"layer {number} of {len(distinct)} ({site.name}"
        opened[key] = _open_forms(site, setting, title, ratios, cheap_kernel_size)
    count = sum(len(forms.sessions) for forms in opened.values())
    against = "ghosted" if len(ratios) == 1 else f"ghosted in {len(ratios)} ratios"
    setting.announce(
        f"timing {len(opened)} distinct layers, dense against {against}: {count * setting.seconds:.0f} s at least"
    )
    timed: dict[str, LayerTimes] = {}
    for key, forms in opened.items():
        if len(forms.sessions) < 2:
            timed[key] = LayerTimes(0.0, {}, forms.failed)
            continue
        found = setting.times(forms.sessions, distinct[key].input_size, setting.seconds)
        ghosts = {ratio: found[_form(ratio)].median_ms for ratio in ratios if _form(ratio) in found}
        timed[key] = LayerTimes(found["dense"].median_ms, ghosts, forms.failed)
    return {site.name: timed[site.key()] for site in sites}


@dataclasses.dataclass(frozen=True)
class _Forms:
    sessions: dict[str, Session]
    failed: str | None


def _form(ratio: int) -> str:
    return f"ghost {ratio}"


def _open_forms(
    site: Site, setting: Setting, title: str, ratios: Sequence[int], cheap_kernel_size: int
) -> _Forms:
    """Export a layer and its Ghost forms, those that there can be."""
    failed: str | None = None
    layers: dict[str, nn.Module] = {}
    for ratio in ratios:
        try:
            layers[_form(ratio)] = site.ghost(ratio, cheap_kernel_size)
        except InputError as error:
            failed = f"cannot be ghosted: {error}"
    if not layers:
        return _Forms({}, failed)
    sessions: dict[str, Session] = {}
    for form, layer in {"dense": copy.deepcopy(site.convolution), **layers}.items():
        network = nn.Sequential(layer, nn.ReLU()).eval()  # as in a network, where the activation is fused
        said = form if len(ratios) > 1 else form.split()[0]
        key = f"{form} {site.key()}{f' {cheap_kernel_size}' if form != 'dense' else ''}"
        try:
            sessions[form] = setting.session(f"{title}, {said})", key, network, site.input_size)
        except (InputError, RuntimeError) as error:
            failed = f"{said} form cannot be exported: {error}"
            if form == "dense":
                break
    return _Forms(sessions, failed)
