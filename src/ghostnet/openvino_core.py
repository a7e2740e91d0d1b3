"""OpenVINO as every room uses it: imported without usage reports, and one core for the whole process.

A core that is destroyed takes its CPU plugin along, and with it the alternate signal stack that the plugin had given
its thread. Where Python handles a signal (torch's data loader handles SIGCHLD), the next one then ends the process by
SIGSEGV. So the core is made once and never given back; that also saves loading the plugin again.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from ghostnet.quiet import HeldTogether


def openvino() -> Any:
    """Return the package; importing it alone would send usage figures over the network."""
    with no_usage_reports():
        import openvino as package
    return package


@functools.cache
def core() -> Any:
    """Return the process's `openvino.Core`."""
    return openvino().Core()


def no_usage_reports() -> contextlib.AbstractContextManager[None]:
    """Keep OpenVINO from sending usage figures over the network, as importing and converting do outside of CI."""
    return _AS_IN_CI.held()


@contextlib.contextmanager
def _as_in_ci() -> Iterator[None]:
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


_AS_IN_CI = HeldTogether(_as_in_ci)
