"""Model in, cheaper model out: `ghostify` replaces and initialises convolutions (paper, section 4.1)."""

from ghostnet.convert.ghostify import RandomInit, ghostify
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.order import absorb_channel_orders_
from ghostnet.convert.report import ConversionReport, LayerReport
from ghostnet.convert.select import Layers

__all__ = [
    "ConvUnit",
    "ConversionReport",
    "LayerReport",
    "Layers",
    "RandomInit",
    "absorb_channel_orders_",
    "find_units",
    "ghostify",
]
