"""What ONNX Runtime makes of a file inside."""

from __future__ import annotations

from pathlib import Path

import pytest


def operators_in_blocks(path: Path) -> list[str]:
    """Return the operators that a session for single images runs; skip where the processor has no blocked layout."""
    import onnx
    import onnxruntime

    inside = path.with_name("inside.onnx")
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 1)
    options.optimized_model_filepath = str(inside)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(str(inside)).graph.node]
    if "ReorderOutput" not in operators:
        pytest.skip("this processor has no blocked layout")
    return operators
