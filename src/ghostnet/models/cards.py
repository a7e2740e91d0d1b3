"""Model cards: what is known of published weights, by model and tag. Data only; nothing is fetched here.

The claimed figures are those of the named source: single crop on ImageNet validation, or CIFAR-10's test images for a
network of 32x32 pixels. `measured_top1` is ours and stays None ("not measured") until a command has measured it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AUTHORS = "https://github.com/huawei-noah/Efficient-AI-Backbones"
_PADDLE = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


@dataclass(frozen=True)
class WeightCard:
    """One published file of weights.

    Attributes:
        model: name of the zoo.
        tag: what `create_model(model, weights=tag)` takes.
        source: where the file is: an http(s) URL, or "hf:owner/name:file" on the Hugging Face hub.
        publisher: who trained and published it.
        licence: SPDX name.
        claimed_top1: percent, as claimed by `claimed_by`.
        claimed_top5: percent, where it is claimed.
        claimed_by: whose figures these are.
        interpolation: of the resizing that the claim was made with.
        sha256: of the file, where its publisher states it.
        git_blob: identity of the file in its publisher's git repository, where it lies in one.
        measured_top1: percent, measured by us; None is "not measured".
        input_size: `(C, H, W)`.
        crop: side of the centre crop over that of the resized image.
        mean: of the normalisation, RGB in [0, 1].
        std: of the normalisation.
    """

    model: str
    tag: str
    source: str
    publisher: str
    licence: str
    claimed_top1: float
    claimed_top5: float | None
    claimed_by: str
    interpolation: str = "bilinear"
    sha256: str | None = None
    git_blob: str | None = None
    measured_top1: float | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    crop: float = 0.875
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dictionary."""
        return asdict(self)

    def info(self) -> dict[str, Any]:
        """Return what a network with these weights carries in `ghostnet_info`: whose they are, and `IMAGE_FACTS`."""
        return {
            "weights": f"{self.model}.{self.tag}",
            "source": self.source,
            "licence": self.licence,
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.input_size[1],
            "crop_fraction": self.crop,
            "interpolation": self.interpolation,
        }


def _timm(model: str, publisher: str, licence: str, top1: float, top5: float) -> WeightCard:
    """Return the card of weights that timm republishes; the figures are those of its results table."""
    return WeightCard(
        model,
        "in1k",
        f"hf:timm/{model}.in1k:model.safetensors",
        f"{publisher}, republished by timm",
        licence,
        top1,
        top5,
        "timm",
        interpolation="bicubic",
    )


def _paddle(model: str, width: str, top1: float, top5: float, *, tag: str = "paddle") -> WeightCard:
    file = f"GhostNet_{width}_pretrained.pdparams"
    return WeightCard(model, tag, f"{_PADDLE}/{file}", "PaddleClas", "Apache-2.0", top1, top5, "PaddleClas")


def _cifar_resnet(model: str, file: str, sha256: str, claimed: float, measured: float) -> WeightCard:
    """Return the card of a CIFAR ResNet, of the epoch that was best on the test images."""
    return WeightCard(
        model,
        "akamaster",
        f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}",
        "Yerlan Idelbayev",
        "BSD-2-Clause",
        claimed,
        None,
        "its publisher",
        sha256=sha256,
        measured_top1=measured,
        input_size=(3, 32, 32),
        crop=1.0,
    )


_NOAH, _REPGHOST = "GhostNet's authors", "RepGhost's authors"

CARDS: tuple[WeightCard, ...] = (
    WeightCard(
        "ghostnet_100",
        "authors",
        f"{_AUTHORS}/raw/master/ghostnet_pytorch/models/state_dict_73.98.pth",
        _NOAH,
        "Apache-2.0",
        73.98,
        91.46,
        _NOAH,
        git_blob="26da9f2807cd5ba95c607cec01ceb9700d94e0ae",
    ),
    _timm("ghostnet_100", _NOAH, "Apache-2.0", 73.958, 91.542),
    _paddle("ghostnet_050", "x0_5", 66.88, 86.95),
    _paddle("ghostnet_100", "x1_0", 74.02, 91.65),
    _paddle("ghostnet_130", "x1_3", 75.79, 92.54),
    _paddle("ghostnet_130", "x1_3_ssld", 79.38, 94.49, tag="paddle_ssld"),
    _timm("ghostnetv2_100", _NOAH, "Apache-2.0", 75.186, 92.334),
    _timm("ghostnetv2_130", _NOAH, "Apache-2.0", 76.746, 93.364),
    _timm("ghostnetv2_160", _NOAH, "Apache-2.0", 77.836, 93.948),
    _timm("ghostnetv3_100", _NOAH, "Apache-2.0", 76.936, 93.124),
    _timm("repghostnet_050", _REPGHOST, "MIT", 66.978, 86.936),
    _timm("repghostnet_058", _REPGHOST, "MIT", 68.938, 88.386),
    _timm("repghostnet_080", _REPGHOST, "MIT", 72.240, 90.492),
    _timm("repghostnet_100", _REPGHOST, "MIT", 74.208, 91.550),
    _timm("repghostnet_111", _REPGHOST, "MIT", 75.060, 92.196),
    _timm("repghostnet_130", _REPGHOST, "MIT", 76.378, 92.898),
    _timm("repghostnet_150", _REPGHOST, "MIT", 77.474, 93.496),
    _timm("repghostnet_200", _REPGHOST, "MIT", 78.802, 94.332),
    _cifar_resnet(
        "resnet20",
        "resnet20-12fca82f.th",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
        91.73,
        91.73,
    ),
    _cifar_resnet(
        "resnet56",
        "resnet56-4bfd9763.th",
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
        93.39,
        93.39,
    ),
)


def weight_cards(model: str) -> tuple[WeightCard, ...]:
    """Return the cards of a model's published weights.

    Example:
        >>> [card.tag for card in weight_cards("ghostnet_100")]
        ['authors', 'in1k', 'paddle']
    """
    return tuple(card for card in CARDS if card.model == model)
