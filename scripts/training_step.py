"""Time one optimiser step on the CPU as `train.fit` takes it, and with PyTorch's own layers.

For maintainers, on a machine that does nothing else (one thread, channels_last; of each network all four, in bfloat16
autocast and float32, take turns in one process):

    python scripts/training_step.py results/training/training_step.json
"""

from __future__ import annotations

import contextlib
import sys

from depthwise_step import Case, main

from ghostnet.train.step import fast_layers

CASES: dict[str, Case] = {
    "ghostnet_100, 128 of 32x32": ("ghostnet_100", {}, 128, 32),
    "ghostnet_100, 64 of 64x64": ("ghostnet_100", {}, 64, 64),
    "ghostnet_100, 32 of 224x224": ("ghostnet_100", {}, 32, 224),
    "mobilenetv3_large_100, 32 of 224x224": ("mobilenetv3_large_100", {}, 32, 224),
    "resnet50, 32 of 224x224": ("resnet50", {}, 32, 224),
    "vgg16, 128 of 32x32": ("vgg16", {}, 128, 32),
    "ghost_vgg16, 128 of 32x32": ("ghost_vgg16", {}, 128, 32),
    "resnet9_050, 128 of 32x32": ("resnet9_050", {}, 128, 32),
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/training_step.py RESULT.json")
    main(sys.argv[1], "training_step", CASES, fast_layers, contextlib.nullcontext)
