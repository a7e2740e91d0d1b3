"""Feature maps of any layer, how alike they are, and which layers have maps to spare (Fig. 1, 4, 5, Table 2).

Left out: reading images and drawing; `cli` does both.
"""

from ghostnet.measure.features.capture import feature_maps, intrinsic_maps, layers_with_maps, unit_outputs
from ghostnet.measure.features.pairs import MapPair, PairFits, fit_filter, fit_pairs
from ghostnet.measure.features.redundancy import LayerRedundancy, Redundancy, ghost_error, redundancy
from ghostnet.measure.features.table2 import KERNEL_SIZES, PairStudy, study_pairs

__all__ = [
    "KERNEL_SIZES",
    "LayerRedundancy",
    "MapPair",
    "PairFits",
    "PairStudy",
    "Redundancy",
    "feature_maps",
    "fit_filter",
    "fit_pairs",
    "ghost_error",
    "intrinsic_maps",
    "layers_with_maps",
    "redundancy",
    "study_pairs",
    "unit_outputs",
]
