"""Fine-tuning for int8 from a folder of images: it comes closer to the float answers, goes on, and refuses bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ghostnet
from ghostnet import deploy
from ghostnet.data import Preprocessing
from ghostnet.errors import InputError
from ghostnet.recipes import fine_tune_int8

WANTED = Preprocessing(16, 1.0)
SIZE = (3, 16, 16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, shade in (("dark", 60), ("light", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(random.normal(shade, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, *SIZE), dtype=np.float32)


def tuned(photos: Path, checkpoint: Path | None = None, *overrides: str) -> deploy.FakeQuantized:
    torch.manual_seed(0)
    return fine_tune_int8(
        ghostnet.create_model("resnet20").eval(),
        images(),
        data_path=str(photos),
        preprocessing=WANTED,
        weight_bits=3,
        overrides=["epochs=12", *overrides],
        checkpoint=checkpoint,
        progress=False,
    )


def error(network: deploy.FakeQuantized) -> float:
    with torch.no_grad():
        data = torch.from_numpy(images())
        wanted = network.reference(data)
        return float((network(data) - wanted).norm() / wanted.norm())


def test_it_comes_closer_to_the_float_answers_and_goes_on_from_its_checkpoint(
    photos: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "net.checkpoint"
    network = tuned(photos, checkpoint, "checkpoint_seconds=1e-9")
    untrained = deploy.fake_quantized(network.reference, images(), weight_bits=3, input_size=SIZE)
    assert error(network) < 0.9 * error(untrained)
    state = torch.load(checkpoint, weights_only=True)
    marked = next(name for name in state["model"] if name.endswith("weight"))
    state["model"][marked] += 1
    torch.save(state, checkpoint)
    resumed = tuned(photos, checkpoint).state_dict()
    assert torch.equal(resumed[marked], network.state_dict()[marked] + 1)  # nothing was trained anew


def test_bfloat16_and_unusable_images_are_one_line(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`bf16` \(=true\) has no room for a grid of 8 bits"):
        tuned(photos, None, "bf16=true")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        tuned(tmp_path / "nowhere")
