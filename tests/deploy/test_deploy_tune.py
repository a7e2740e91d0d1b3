"""Tuning exports, loads and times every set of passes, and returns the quickest."""

import importlib

import pytest
from torch import nn

from ghostnet.deploy import optimize, tune
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d


def network() -> nn.Module:
    layers = [GhostConv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_sets_are_timed_against_the_export_without_rewrites() -> None:
    pytest.importorskip("onnxruntime")
    model = network()
    sets = [["split", "fold_batch_norm"], ["fold_batch_norm"], ["fold_batch_norm", "channels_last"]]
    result = tune(model, "onnx", input_size=(3, 16, 16), candidates=sets, min_seconds=0)
    tried = {row.passes for row in result.rows}
    assert tried == {
        (),
        ("fold_batch_norm", "split"),
        ("fold_batch_norm",),
    }  # channels_last gives the same file
    assert [row.median_ms for row in result.rows] == sorted(row.median_ms for row in result.rows)
    assert result.passes == result.rows[0].passes
    assert next(row.ratio for row in result.rows if not row.passes) == 1.0
    assert all(name in str(result) for name in ("fold_batch_norm, split", "none", "onnx, 1 thread(s)"))
    assert result.to_dict()["input_size"] == (3, 16, 16)
    assert isinstance(model[1], nn.BatchNorm2d)


def test_the_usual_sets_include_the_targets_own() -> None:
    pytest.importorskip("onnxruntime")
    result = tune(network(), "onnx", input_size=(3, 8, 8), min_seconds=0)
    assert len(result.rows) >= 4


def test_a_set_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def failing(model: nn.Module, *, passes: tuple[str, ...], input_size: tuple[int, ...]) -> nn.Module:
        if "split" in passes:
            raise RuntimeError("the optimised network differs")
        return optimize(model, passes=passes, input_size=input_size)

    monkeypatch.setattr(importlib.import_module("ghostnet.deploy.tune"), "optimize", failing)
    sets = [["fold_batch_norm"], ["split"]]
    result = tune(network().half(), "onnx", input_size=(3, 8, 8), candidates=sets, min_seconds=0)
    assert {row.passes for row in result.rows} == {(), ("fold_batch_norm",)}
    assert result.skipped == {"split": "the optimised network differs"}
    assert "left out: split: the optimised network differs" in str(result)


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(InputError, match="no set of passes to try"):
        tune(network(), "onnx", input_size=(3, 8, 8), candidates=[])
    with pytest.raises(InputError, match=r"pass 'spilt'.*split"):
        tune(network(), "onnx", input_size=(3, 8, 8), candidates=[["spilt"]])
    with pytest.raises(InputError, match=r"'onx'.*onnx"):
        tune(network(), "onx", input_size=(3, 8, 8))
