"""A network's program: the kernels, tables of what they are told, and a function that calls them in order."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.deploy.c_source.fusion import fuse_
from ghostnet.deploy.c_source.layers import Activation, Network, Size
from ghostnet.deploy.c_source.places import At, arena, lay_out
from ghostnet.deploy.c_source.steps import Lowering, Step

_KERNELS = Path(__file__).parent / "kernels"  # a file for each kind of step, and what they share
_SHARED = ("base", "values", "moving")


@dataclasses.dataclass(frozen=True)
class Program:
    """A network as C.

    Attributes:
        text: the source.
        weights: float32 `(floats,)`, which the function `network_run` is handed; of half precision, two in a float.
        kernels: how often each kernel is called.
        bytes: results of the convolutions that can be computed in bytes, where the program is in int8.
    """

    text: str
    weights: np.ndarray
    kernels: dict[str, int]
    bytes: list[str]


def program_of(
    network: Network, metadata: Mapping[str, str], *, precision: str = "fp32", keep: Collection[str] = ()
) -> Program:
    """Return a network as a program; the network is changed on the way.

    Args:
        network: what is to be computed.
        metadata: texts that the program keeps in `network_about`, beside the sizes of input and output.
        precision: "fp16" keeps the weights of products in float16, and what is computed is float32; "int8" computes
            the convolutions of much work in bytes.
        keep: names out of `Program.bytes`, whose convolutions stay in float.

    Raises:
        InputError: a weight is too large for float16.
    """
    size, outputs = network.sizes[network.images], network.outputs
    about = {"input": size, "outputs": outputs, "metadata": dict(metadata)}
    fuse_(network)
    places = lay_out(network)
    lowering = Lowering(network, places, precision=precision, keep=keep)
    lowering.run()
    begins, floats = arena([step.maps for step in lowering.steps], places, network.sizes)

    def first_float(at: At) -> int:
        place = places[at.name]
        return begins[place.buffer] + place.offset + at.channel

    tables = [_table(place, step, first_float) for place, step in enumerate(lowering.steps)]
    calls = "\n".join(
        f"    {{{step.kernel}, &layer_{place}, {step.count}}}," for place, step in enumerate(lowering.steps)
    )
    counts: dict[str, int] = {}
    for step in lowering.steps:
        counts[step.kernel] = counts.get(step.kernel, 0) + 1
    text = "\n".join(
        [
            _head(size, outputs, floats, lowering.weights.floats),
            f"#define HALF_WEIGHTS {int(precision == 'fp16')}\n",
            _kernels({step.kind for step in lowering.steps}),
            "\n".join(tables),
            f"static const struct call calls[] = {{\n{calls}\n}};\n",
            _foot(size, outputs, floats, lowering.weights.floats, json.dumps(about)),
        ]
    )
    return Program(text, lowering.weights.array(), dict(sorted(counts.items())), lowering.bytes)


def _kernels(kinds: set[str]) -> str:
    """Return the kernels for steps of these kinds; those that all share are always there."""
    if any(kind.startswith("byte") for kind in kinds):
        kinds = kinds | {"product", "products_of_bytes"}
    elif "winograd" in kinds:
        kinds = kinds | {"product"}
    own = sorted(kind for kind in kinds if (_KERNELS / f"{kind}.c").is_file())
    return "\n".join((_KERNELS / f"{name}.c").read_text(encoding="utf-8") for name in (*_SHARED, *own))


def _table(place: int, step: Step, first_float: Any) -> str:
    lines, fields = [], []
    for name, value in step.fields.items():
        if isinstance(value, np.ndarray):
            numbers = ", ".join(map(str, value.tolist()))
            lines.append(f"static const int {name}_{place}[] = {{{numbers}}};")
            fields.append(f".{name} = {name}_{place}")
        elif isinstance(value, At):
            fields.append(f".{name} = {first_float(value)}")
        elif isinstance(value, Activation):
            if value != Activation():
                fields.append(f".{name} = {{{value.kind}, {_number(value.low)}, {_number(value.high)}}}")
        elif value != 0 or isinstance(value, str):
            fields.append(f".{name} = {_number(value) if isinstance(value, float) else value}")
    lines.append(f"static const struct {step.kind} layer_{place} = {{{', '.join(fields)}}};")
    return "\n".join(lines)


def _number(value: float) -> str:
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{float(np.float32(value))!r}f"


def _head(size: Size, outputs: Mapping[str, tuple[int, ...]], floats: int, weights: int) -> str:
    several = (
        "".join(f"\n *               {name} {_times(shape)}" for name, shape in outputs.items())
        if len(outputs) > 1
        else ""
    )
    return f"""\
/* A network for images of {size[0]}x{size[1]}x{size[2]}, written by ghostnet; its weights are the file beside it.
 *
 *     cc -O3 -march=native -c THIS.c          (-mcpu=native on ARM; link with -lm)
 *
 *     void network_run(const float *weights, float *work, const float *images, float *outputs);
 *
 * computes one image. All memory is the caller's:
 *     weights   the {4 * weights} bytes of the .bin file
 *     work      {floats} floats of any content, for one call at a time
 *     images    {math.prod(size)} floats, (channels, height, width)
 *     outputs   {_floats(outputs)} floats{several and ", one output behind the other:" + several}
 * It is quickest where weights and work begin at a multiple of 64 bytes. With -fopenmp, network_run_on(threads, ...)
 * does the same on several threads. To link several networks, rename what is global (-Dnetwork_run=other_run).
 */
"""


def _floats(outputs: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in outputs.values())


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _foot(size: Size, outputs: Mapping[str, tuple[int, ...]], floats: int, weights: int, texts: str) -> str:
    quoted = "".join(
        f"\\{byte:03o}" if byte < 32 or byte > 126 or chr(byte) in '"\\?' else chr(byte)
        for byte in texts.encode()
    )
    return f"""\
const char network_about[] = "{quoted}";
/* floats of what network_run is handed */
const size_t network_weights = {weights}, network_work = {floats};
const size_t network_images = {math.prod(size)}, network_outputs = {_floats(outputs)};

void network_run_on(int threads, const float *weights, float *work, const float *images, float *outputs)
{{
    const struct memory memory = {{weights, work, images, outputs}};
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
    {{
        int64_t thread = 0, all_threads = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num(), all_threads = omp_get_num_threads();
#endif
        for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {{
            const int64_t count = calls[c].count;
            calls[c].run(calls[c].layer, &memory, count * thread / all_threads, count * (thread + 1) / all_threads);
#ifdef _OPENMP
#pragma omp barrier
#endif
        }}
    }}
}}

void network_run(const float *weights, float *work, const float *images, float *outputs)
{{
    network_run_on(1, weights, work, images, outputs);
}}
"""
