"""What is ExecuTorch's own: threads of the whole process, kernels beside XNNPACK, a silent terminal, no paths."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("executorch")

from ghostnet.deploy import benchmark, export, load
from ghostnet.errors import InputError

SIZE = (3, 9, 11)


class Summed(nn.Module):
    """XNNPACK has no cumulative sum, ExecuTorch's own kernels have."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(maps, 1)


class Sorted(nn.Module):
    """Neither has a sort."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.sort(maps, dim=1)[0]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), Summed(), nn.Conv2d(5, 7, 3, stride=2)
    ).eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("executorch") / "net.pte"
    report = export(network(), "executorch", place, input_size=SIZE)
    assert report.operators == {"aten.convolution": 2, "aten.cumsum": 1, "aten.relu": 1}
    return place


def test_what_xnnpack_lacks_runs_in_kernels_beside_it(path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((3, *SIZE), dtype=np.float32)
    with torch.no_grad():
        expected = network()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(load(path).predict(images), expected, atol=1e-5)


def test_an_operator_without_a_kernel_is_named_with_its_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Sorted()))
    with pytest.raises(InputError, match=r"^ExecuTorch cannot express sort \(layer 1\.1\); use another"):
        export(model, "executorch", tmp_path / "net.pte", input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_process_has_one_number_of_threads(path: Path) -> None:
    from executorch.extension.pybindings import portable_lib

    images = np.ones((1, *SIZE), np.float32)
    gc.collect()
    first = load(path, threads=2)
    assert portable_lib._threadpool_get_thread_count() == 2
    with pytest.raises(InputError, match="ExecuTorch has one number of threads in a process") as error:
        load(path, threads=1)
    assert "\n" not in str(error.value)
    expected = first.predict(images)
    second = load(path, threads=2)
    np.testing.assert_array_equal(second.predict(images), expected)
    del first, second
    gc.collect()
    alone = load(path, threads=1)
    assert portable_lib._threadpool_get_thread_count() == 1
    np.testing.assert_allclose(alone.predict(images), expected, atol=1e-6)


def test_networks_are_exported_and_timed_beside_one_that_is_open_with_other_threads(tmp_path: Path) -> None:
    gc.collect()
    networks = {"a": network(), "b": network()}
    settings = {"input_size": SIZE, "runtimes": ["executorch"], "min_seconds": 0.01, "cold_starts": 0}
    result = benchmark(networks, threads=2, **settings)
    assert ([(row.name, row.threads) for row in result.rows], result.skipped) == ([("a", 2), ("b", 2)], [])
    gc.collect()
    result = benchmark(networks, threads=[1, 2], **settings)
    assert [(row.name, row.threads) for row in result.rows] == [("a", 1), ("b", 1)]
    assert result.skipped == [
        f"{name} with threads=2: ExecuTorch has one number of threads in a process, which is 1 here; "
        "time it with 2 alone"
        for name in networks
    ]
    gc.collect()
    export(network(), "executorch", tmp_path / "net.pte", input_size=SIZE)
    session = load(tmp_path / "net.pte", threads=2)
    export(network(), "executorch", tmp_path / "other.pte", input_size=SIZE)
    assert session.threads == 2


def test_the_answer_is_all_that_is_printed(path: Path) -> None:
    program = (
        "import sys, numpy, ghostnet; print('first');"
        "session = ghostnet.deploy.load(sys.argv[1]);"
        "images = numpy.zeros((1, 3, 9, 11), 'float32');"
        "images.setflags(write=False);"  # such as a file that is mapped into memory
        "session.predict(images); print('last')"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\nlast\n", "")


def test_no_path_of_this_machine_is_in_the_file(path: Path) -> None:
    content = path.read_bytes()
    for place in (Path.home(), path.parent, Path(sys.prefix), Path(__file__).parent):
        assert str(place).encode() not in content
