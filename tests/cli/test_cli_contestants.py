"""What names of `ghostnet bench` mean: an "@" may be part of a path, and a network may raise anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from ghostnet.cli.contestants import _candidate, _network_and_form
from ghostnet.errors import InputError


def test_an_at_sign_may_be_part_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net@home").write_bytes(b"")
    assert _network_and_form("me@work/net.safetensors") == ("me@work/net.safetensors", "optimized")
    assert _network_and_form("me@work/net.safetensors@plain") == ("me@work/net.safetensors", "plain")
    assert _network_and_form("net@home") == ("net@home", "optimized")
    assert _network_and_form("timm:x@optimized") == ("timm:x", "optimized")
    with pytest.raises(InputError, match=r"unknown form 'plane'.*plain"):
        _network_and_form("ghostnet_100@plane")


@pytest.mark.parametrize("error", [AssertionError("size"), IndexError("size"), KeyError("size")])
def test_whatever_a_network_raises_is_one_line(error: Exception) -> None:
    class Raises(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            raise error

    with pytest.raises(InputError, match=r"net does not run with input size \(3, 8, 8\)"):
        _candidate("net", Raises(), "plain", (3, 8, 8), trained=False)
