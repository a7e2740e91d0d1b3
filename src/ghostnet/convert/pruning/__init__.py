"""Pruning: the baselines that the paper compares with, under one interface (Tables 5 and 6)."""

from ghostnet.convert.pruning.methods import METHODS, PRUNE_METHODS, PruneMethod, check_method, check_streams
from ghostnet.convert.pruning.prune import prune

__all__ = ["METHODS", "PRUNE_METHODS", "PruneMethod", "check_method", "check_streams", "prune"]
