"""Exported files of every runtime stand where a network can be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from ghostnet import cli
from ghostnet.deploy import export
from ghostnet.deploy.targets import TARGETS
from ghostnet.deploy.targets.target import runs_here


def skip_elsewhere(name: str) -> None:
    if not runs_here(TARGETS[name]):
        pytest.skip(f"{TARGETS[name].runtime} does not run on this system")


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_any_runtime_is_timed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = TARGETS[name]
    skip_elsewhere(name)
    for module in (*target.write_modules, target.open_module):
        pytest.importorskip(module)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = tmp_path / f"net{target.suffixes[0]}"
    export(network, name, path, input_size=(3, 8, 8))
    assert cli.run(["bench", str(path), "--seconds", "0.05", "--cold-starts", "0", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["runtime"], row["median_ms"] > 0) == (name, True)


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_that_is_none_of_a_runtime_is_called_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_elsewhere(name)
    pytest.importorskip(TARGETS[name].open_module)
    path = tmp_path / f"junk{TARGETS[name].suffixes[0]}"
    path.write_text("junk")
    for verb in (["bench", str(path)], ["profile", str(path)]):
        assert cli.run(verb) == 2
        said = capsys.readouterr().err
        assert "safetensors" not in said
        assert "junk" in said
