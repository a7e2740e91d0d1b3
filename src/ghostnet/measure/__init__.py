"""Room `measure`: parameters, MACs, latency and environment of any module; see docs/architecture.md."""

from ghostnet.measure import features
from ghostnet.measure.environment import environment
from ghostnet.measure.latency import Timing, time_interleaved
from ghostnet.measure.profile import LayerProfile, Profile, profile

__all__ = [
    "LayerProfile",
    "Profile",
    "Timing",
    "environment",
    "features",
    "profile",
    "time_interleaved",
]
