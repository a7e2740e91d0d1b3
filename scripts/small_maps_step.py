"""Time one optimiser step on the CPU as `train.fit` takes it, and with PyTorch's own convolutions of small maps.

For maintainers, on a machine that does nothing else (one thread, channels_last; of each network all four, in bfloat16
autocast and float32, take turns in one process):

    python scripts/small_maps_step.py results/training/small_maps_step.json
"""

from __future__ import annotations

import sys

from depthwise_step import Case, main

from ghostnet.train.fast_small_maps import fast_small_maps

CASES: dict[str, Case] = {
    "vgg16": ("vgg16", {}, 128, 32),
    "ghost_vgg16": ("ghost_vgg16", {}, 128, 32),
    "resnet9_050": ("resnet9_050", {}, 128, 32),
    "resnet50": ("resnet50", {}, 32, 224),
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/small_maps_step.py RESULT.json")
    main(sys.argv[1], "small_maps_step", CASES, fast_small_maps)
