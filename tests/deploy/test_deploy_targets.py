"""Every runtime computes what PyTorch computes, through one interface, and without torch at run time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import random_network
from torch import nn

from ghostnet.deploy import TARGETS, Session, export, load
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d
from ghostnet.openvino_core import core
from ghostnet.quiet import quiet_python

TOLERANCE = 1e-4
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO takes bfloat16 by itself where the processor has it
NAMES = ("c", "coreml", "executorch", "litert", "mnn", "ncnn", "onnx", "openvino")
RUN_HERE = tuple(name for name in NAMES if name != "coreml")  # Core ML has tests of its own
QUICK = [
    (name, seed) for seed in (2, 5) for name in NAMES if (name, seed) != ("litert", 5)
]  # that one takes 4 s
SLOW_SEEDS = tuple(range(20))


def path_for(name: str, folder: Path) -> Path:
    return folder / f"net{TARGETS[name].suffixes[0]}"


def skip_without(name: str) -> None:
    target = TARGETS[name]
    for module in (*target.write_modules, target.open_module):
        pytest.importorskip(module)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layer = GhostConv2d(3, 7, 3, padding=1)
    layer.set_channel_order_(torch.randperm(7))
    norm = nn.BatchNorm2d(7)
    norm.running_mean.normal_()
    return nn.Sequential(
        layer, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)
    ).eval()


@pytest.fixture(scope="module", params=RUN_HERE)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    skip_without(request.param)
    path = path_for(request.param, tmp_path_factory.mktemp(request.param))
    report = export(
        small_network(),
        request.param,
        path,
        input_size=(3, 17, 15),
        metadata={"origin": "test"},
        preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3},
        classes=["cat", "dog", "owl", "eel"],
    )
    assert report.relative_error < 1e-5
    assert set(report.files) == {str(file) for file in path.parent.iterdir()}  # no leftovers
    assert report.bytes == sum(Path(file).stat().st_size for file in report.files[:-1])
    assert sum(report.operators.values()) >= 4
    return request.param, path


def test_the_registry_is_complete():
    assert tuple(sorted(TARGETS)) == NAMES
    assert len({target.suffixes[0] for target in TARGETS.values()}) == len(NAMES)


def test_a_batch_comes_back_as_from_pytorch(exported):
    name, path = exported
    session = load(path)
    assert isinstance(session, Session)
    assert (session.target, session.input_size, session.precision) == (name, (3, 17, 15), "fp32")
    images = np.random.default_rng(3).standard_normal((5, 3, 17, 15), dtype=np.float32)
    with torch.no_grad():
        expected = small_network()(torch.from_numpy(images)).numpy()
    first = session.predict(images)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    session.predict(np.ascontiguousarray(images[::-1]))
    np.testing.assert_allclose(first, expected, atol=1e-5)  # an answer is not overwritten by the next
    sliced = np.random.default_rng(3).standard_normal((5, 3, 17, 30), dtype=np.float32)[..., ::2]
    with torch.no_grad():
        np.testing.assert_allclose(
            session.predict(sliced), small_network()(torch.from_numpy(sliced.copy())).numpy(), atol=1e-5
        )


def test_the_manifest_says_what_a_device_needs(exported):
    name, path = exported
    record = json.loads(path.with_name(path.name + ".json").read_text())
    target = TARGETS[name]
    assert record["target"] == name
    assert set(record["files"]) == set(target.suffixes)
    batch = "N" if target.dynamic_batch else 1
    assert record["input"] == {"shape": [batch, 3, 17, 15], "dtype": "float32", "layout": "NCHW"}
    assert record["output"]["shape"] == [batch, 4]
    assert record["classes"] == ["cat", "dog", "owl", "eel"]
    assert record["preprocessing"]["mean"] == [0.5] * 3
    assert record["parity"]["batches"] == ([1, 3] if target.dynamic_batch else [1])
    assert record["parity"]["relative_error"] <= record["parity"]["tolerance"]
    assert {"ghostnet", "torch", target.package} <= set(record["versions"])
    for session in (load(path), load(path.with_name(path.name + ".json"))):
        assert session.manifest is not None
        assert session.manifest.to_dict() == record
        assert session.metadata == {"origin": "test"}


def test_a_file_alone_is_enough(exported, tmp_path):
    name, path = exported
    for suffix in TARGETS[name].suffixes:
        (tmp_path / f"moved{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
    session = load(tmp_path / f"moved{path.suffix}")
    assert session.manifest is None
    assert session.input_size == (3, 17, 15)
    images = np.random.default_rng(4).standard_normal((2, 3, 17, 15), dtype=np.float32)
    np.testing.assert_array_equal(session.predict(images), load(path).predict(images))


PROGRAM = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "scipy", "pydantic", "PIL"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
import numpy as np
import ghostnet
images, expected = np.load(sys.argv[1]), np.load(sys.argv[2])
found = ghostnet.deploy.load(sys.argv[3], threads=1).predict(images)
print(abs(found - expected).max())
try:
    import torch
    print("torch was not blocked")
except ImportError:
    pass
"""


def test_it_runs_where_torch_is_not_installed(exported, tmp_path):
    name, path = exported
    if name == "executorch":
        pytest.skip("its Python runtime is built on torch")
    images = np.random.default_rng(5).standard_normal((2, 3, 17, 15), dtype=np.float32)
    with torch.no_grad():
        np.save(tmp_path / "expected.npy", small_network()(torch.from_numpy(images)).numpy())
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "images.npy", tmp_path / "expected.npy", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize("name", ["openvino"])
def test_bfloat16_is_close_and_not_the_same(name, tmp_path):
    skip_without(name)
    model, size = random_network(0)
    export(model, name, path_for(name, tmp_path), input_size=size)
    images = np.random.default_rng(1).standard_normal((1, *size), dtype=np.float32)
    try:
        half = load(path_for(name, tmp_path), precision="bf16")
    except ValueError as error:
        pytest.skip(str(error))
    exact = load(path_for(name, tmp_path)).predict(images)
    error = np.abs(half.predict(images) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.1


def check_parity(name: str, seed: int, folder: Path) -> float:
    skip_without(name)
    model, size = random_network(seed)
    report = export(model, name, path_for(name, folder), input_size=size, tolerance=TOLERANCE)
    assert report.relative_error <= TOLERANCE
    print(f"parity {name} seed {seed} input {size}: {report.relative_error:.1e}")
    return report.relative_error


@pytest.mark.parametrize(("name", "seed"), QUICK)
def test_parity_on_random_networks(name, seed, tmp_path):
    check_parity(name, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW_SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_parity_on_twenty_random_networks(name, seed, tmp_path):
    check_parity(name, seed, tmp_path)


@pytest.mark.parametrize("sessions", [1, 2], ids=["one session", "two sessions"])
@pytest.mark.parametrize("name", RUN_HERE)
def test_threads_that_predict_at_once_get_their_own_answers(name: str, sessions: int, tmp_path: Path) -> None:
    skip_without(name)
    layers = [nn.Conv2d(16 if index else 3, 16, 3, padding=1) for index in range(8)]
    network = nn.Sequential(*(step for layer in layers for step in (layer, nn.MaxPool2d(3, 1, 1)))).eval()
    path = path_for(name, tmp_path)
    export(network, name, path, input_size=(3, 32, 32))
    loaded = [load(path) for _ in range(sessions)]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 1, 3, 32, 32)).astype(np.float32)
    expected = [loaded[0].predict(image) for image in images]

    def wrong_answers(thread: int) -> int:
        session = loaded[thread % sessions]
        answers = (session.predict(images[thread]) for _ in range(60))
        return sum(not np.allclose(answer, expected[thread], atol=1e-4) for answer in answers)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong_answers, range(4))) == [0, 0, 0, 0]


BUSY_THREADS = """
import sys, time
from pathlib import Path
import numpy as np
import ghostnet

def nanoseconds():
    tasks = Path("/proc/self/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in tasks}

session = ghostnet.deploy.load(sys.argv[1], threads=1)
images = np.zeros((1, *session.input_size), dtype=np.float32)
session.predict(images)
before, start = nanoseconds(), time.perf_counter()
while time.perf_counter() - start < 0.5:
    session.predict(images)
spent = [after - before.get(task, 0) for task, after in nanoseconds().items()]
print(max(spent) / sum(spent))
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells the time of each thread")
@pytest.mark.parametrize("name", RUN_HERE)
def test_one_thread_is_one_thread(name: str, tmp_path: Path) -> None:
    skip_without(name)
    layers = [nn.Conv2d(32 if index else 3, 32, 3, padding=1) for index in range(6)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = path_for(name, tmp_path)
    export(network, name, path, input_size=(3, 56, 56))
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", BUSY_THREADS, path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.9, "other threads compute, too"


class _InAnotherOrder(nn.Module):
    def __init__(self, spelling: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 16, 3, padding=1)
        self.spelling = spelling
        self.register_buffer("order", torch.randperm(32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        maps = (
            torch.index_select(maps, 1, self.order)
            if self.spelling == "function"
            else maps.index_select(dim=1, index=self.order)
        )
        return self.second(maps).mean((2, 3))


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("spelling", ["function", "method", "ghost"])
def test_openvino_picks_the_right_channels_between_convolutions(
    tmp_path: Path, spelling: str, optimized: bool
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    if spelling == "ghost":
        torch.manual_seed(0)
        ghost = GhostConv2d(3, 32, 3)
        ghost.set_channel_order_(torch.randperm(32))
        network: nn.Module = nn.Sequential(
            ghost, nn.Conv2d(32, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    else:
        network = _InAnotherOrder(spelling)
    for target, name in (("openvino", "net.xml"), ("onnx", "net.onnx")):
        report = export(network.eval(), target, tmp_path / name, input_size=(3, 12, 12), optimized=optimized)
        assert report.relative_error < 1e-5
    images = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        expected = network(images).numpy()
    compiled = core().compile_model(str(tmp_path / "net.onnx"), "CPU", EXACT)
    np.testing.assert_allclose(compiled([images.numpy()])[0], expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "products"), [(32, 1), (64, 1), (72, 0)])
def test_openvino_picks_few_channels_by_a_convolution(channels: int, products: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    found = []
    for order in (None, torch.randperm(channels)):
        ghost = GhostConv2d(3, channels, 3)
        ghost.set_channel_order_(order)
        network = nn.Sequential(ghost, nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
        report = export(network, "openvino", tmp_path / "net.xml", input_size=(3, 12, 12), force=True)
        assert report.relative_error < 1e-6
        nodes = core().read_model(str(tmp_path / "net.xml")).get_ops()
        found.append(sum(node.get_type_name() == "Convolution" for node in nodes))
    assert found[1] - found[0] == products


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.c.weight = self.b.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(images)).relu()).mean((2, 3))


def _circular(padding: int | tuple[int, int]) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=padding, padding_mode="circular")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _circular_in_two_places() -> nn.Module:
    network = _circular(1)
    return nn.Sequential(network[0], network[1], network[1], *network[2:])


@pytest.mark.parametrize(
    "network",
    [_Tied(), _circular(1), _circular((2, 0)), _circular_in_two_places()],
    ids=["tied", "square", "tall", "in two places"],
)
def test_ncnn_takes_what_pnnx_would_lose(tmp_path: Path, network: nn.Module) -> None:
    skip_without("ncnn")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    report = export(network.eval(), "ncnn", tmp_path / "net.param", input_size=(3, 12, 10))
    assert report.relative_error < 1e-5
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("name", ["mnn", "onnx", "openvino"])
@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm"])
def test_parametrised_weights_are_exported_as_they_are(tmp_path: Path, name: str, kind: str) -> None:
    skip_without(name)
    torch.manual_seed(0)
    layer = getattr(nn.utils.parametrizations, kind)(nn.Conv2d(8, 8, 3))
    network = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    report = export(network, name, path_for(name, tmp_path), input_size=(3, 12, 12))
    assert report.relative_error < 1e-5
    assert nn.utils.parametrize.is_parametrized(layer)


def test_all_layers_with_what_a_runtime_cannot_express_are_named(tmp_path: Path) -> None:
    skip_without("c")

    class Enlarges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.larger = nn.Conv2d(3, 8, 3), nn.Upsample(scale_factor=2, mode="bicubic")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.a(nn.functional.interpolate(images, scale_factor=2, mode="bicubic"))
            return self.larger(maps).mean((2, 3))

    with pytest.raises(InputError, match=r"bicubic2d\S* \(in the network's own forward or layer larger\)"):
        export(Enlarges().eval(), "c", tmp_path / "net.c", input_size=(3, 12, 12))


def test_answers_that_are_no_numbers_are_told_before_anything_is_written(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    network[0].bias.data[0] = float("nan")
    with pytest.raises(InputError, match=r"with NaN or infinity, .* its weights may be damaged, or it takes"):
        export(network, "onnx", tmp_path / "net.onnx", input_size=(3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [torch.sqrt, torch.log])
@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.param"])
def test_networks_for_values_above_zero_are_exported(
    name: str, function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    class Rooted(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(function(images))

    target = {".onnx": "onnx", ".xml": "openvino", ".param": "ncnn"}[Path(name).suffix]
    for module in (*TARGETS[target].write_modules, TARGETS[target].open_module):
        pytest.importorskip(module)
    network = Rooted(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    export(network, target, tmp_path / name, input_size=(3, 8, 8))
    images = torch.rand(1, 3, 8, 8) + 0.5
    with torch.no_grad():
        expected = network(images).numpy()
    found = load(tmp_path / name).predict(images.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not [key for key in vars(network) if key.startswith("ghostnet")], "it is untouched"


def test_what_the_tracing_exporter_makes_of_a_channel_order_is_right_in_openvino(tmp_path: Path) -> None:
    """Detectors are exported by it."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    ghost = GhostConv2d(3, 32, 3)
    ghost.set_channel_order_(torch.randperm(32))
    network = nn.Sequential(ghost, nn.Conv2d(32, 16, 3, padding=1)).eval()
    images = torch.rand(1, 3, 12, 12)
    with quiet_python():
        torch.onnx.export(network, (images,), str(tmp_path / "net.onnx"), dynamo=False, opset_version=18)
    with torch.no_grad():
        expected = network(images).numpy()
    found = core().compile_model(str(tmp_path / "net.onnx"), "CPU", EXACT)([images.numpy()])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
