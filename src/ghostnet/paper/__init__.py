"""Every number, table and equation of the paper (GhostNet, CVPR 2020): data only."""

from ghostnet.paper.agreement import agrees
from ghostnet.paper.equations import approximate_ratio, compression_ratio, theoretical_speedup
from ghostnet.paper.tables import figure7_points, table

__all__ = [
    "agrees",
    "approximate_ratio",
    "compression_ratio",
    "figure7_points",
    "table",
    "theoretical_speedup",
]
