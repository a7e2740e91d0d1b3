"""Model in, cheaper model out: `ghostify` (paper, section 4.1) and `prune`, the baselines of its Tables 5 and 6."""

from ghostnet.convert.ghostify import RandomInit, ghostify
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.order import absorb_channel_orders_
from ghostnet.convert.pruning import METHODS, PRUNE_METHODS, check_method, prune
from ghostnet.convert.report import ConversionReport, LayerReport
from ghostnet.convert.select import Layers
from ghostnet.convert.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from ghostnet.convert.synthetic import synthetic_images

__all__ = [
    "METHODS",
    "PRUNE_METHODS",
    "ConvUnit",
    "ConversionReport",
    "LayerReport",
    "LayerSensitivity",
    "Layers",
    "RandomInit",
    "Sensitivity",
    "absorb_channel_orders_",
    "check_method",
    "find_units",
    "ghostify",
    "prune",
    "sensitivity",
    "synthetic_images",
]
