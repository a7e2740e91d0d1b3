"""What users say about images and classes is checked before the work, and reaches the manifest as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import export
from ghostnet.errors import InputError

SIZE = (3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_arrays_tensors_and_numbers_become_plain_values(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    facts = {"mean": torch.tensor([0.5] * 3), "std": np.full(3, 0.25), "image_size": np.int64(8)}
    path = tmp_path / "net.onnx"
    given: Any = {"epochs": 3}
    export(network(), "onnx", path, input_size=SIZE, preprocessing=facts, metadata=given)
    found = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    assert found["preprocessing"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 8}
    assert found["metadata"] == {"epochs": "3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "abcd"}, r"classes \(='abcd'\) must be a list of names"),
        ({"classes": ["a", "b"]}, r"2 classes are named and the network has 4 outputs"),
        ({"preprocessing": {"mean": object()}}, r"preprocessing\['mean'\] holds a object"),
    ],
)
def test_facts_that_do_not_fit_are_refused_before_the_work(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=message):
        export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE, **arguments)
    assert not list(tmp_path.iterdir())


def test_names_of_an_earlier_head_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, path = network(), tmp_path / "net.onnx"
    model.ghostnet_info = {"classes": ["a", "b"]}  # type: ignore[assignment]
    export(model, "onnx", path, input_size=SIZE)
    assert json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["classes"] is None
