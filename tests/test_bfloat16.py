"""bfloat16 is for devices that have it."""

import pytest
import torch

import ghostnet.bfloat16
from ghostnet.bfloat16 import bfloat16_autocast, has_bfloat16
from ghostnet.train import TrainSettings
from ghostnet.train.objective import Classification

CPU = torch.device("cpu")


@pytest.mark.parametrize("able", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_training_is_in_bfloat16_where_it_is_wanted_and_there(
    wanted: bool, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ghostnet.bfloat16, "has_bfloat16", lambda _kind: able)
    seen = []
    network = torch.nn.Linear(3, 2)
    network.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    loss = Classification(TrainSettings(bf16=wanted))(
        network, torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    )
    assert seen == [torch.bfloat16 if wanted and able else torch.float32]
    assert loss.dtype == torch.float32


def test_a_processor_is_asked_whether_it_has_it() -> None:
    """Processors with AVX2 alone have not; with oneDNN's kernels for AVX-512 they all have."""
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT"):
        assert not has_bfloat16("cpu")
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available():
        assert has_bfloat16("cpu")


def test_autocast_is_off_where_it_is_not_wanted() -> None:
    with bfloat16_autocast(CPU, wanted=False):
        assert not torch.is_autocast_enabled("cpu")
