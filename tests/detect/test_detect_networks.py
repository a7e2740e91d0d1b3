"""Our detectors against torchvision's with the same weights; every backbone; what is frozen; bad settings."""

import pytest
import torch
import torchvision.models.detection as theirs

from ghostnet import InputError
from ghostnet.detect import (
    KINDS,
    DetectorSettings,
    create_detector,
    light_settings,
    load_torchvision_,
)
from ghostnet.measure import profile
from ghostnet.models import create_model, feature_pyramid

_CLASSES = list("abcde")
_BUILDERS = {
    "retinanet": (theirs.retinanet_resnet50_fpn, 0),
    "faster_rcnn": (theirs.fasterrcnn_resnet50_fpn, 1),
}


def _theirs(kind):
    build, background = _BUILDERS[kind]
    classes = len(_CLASSES) + background
    model = build(weights=None, weights_backbone=None, num_classes=classes, min_size=128, max_size=200)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.2, 0.6)
    for name, parameter in model.named_parameters():
        if "cls" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # otherwise nothing reaches the threshold
            if kind == "faster_rcnn" and len(parameter) > 3:
                parameter.data[0] = -2  # the background
    return model


def _settings(kind, **changes):
    detections = 300 if kind == "retinanet" else 100  # torchvision's defaults
    return DetectorSettings(
        kind, min_size=128, max_size=200, detections=detections, freeze_batch_norm=False, **changes
    )


def _targets(last=4):
    boxes = torch.tensor([[10.0, 10, 60, 70], [50, 40, 90, 100]])
    return [
        {"boxes": boxes, "labels": torch.tensor([0, last])},
        {"boxes": boxes[:1], "labels": torch.tensor([2])},
    ]


@pytest.mark.parametrize("channels_last", [False, True])
def test_anchors_that_are_looked_at_give_torchvisions_boxes(channels_last):
    torch.manual_seed(0)
    settings = light_settings(min_size=128, max_size=200, score_threshold=0.3, freeze_batch_norm=False)
    ours = create_detector(create_model("ghostnet_050"), _CLASSES, settings).eval()
    head = ours.network.head.classification_head
    images = [torch.rand(3, 110, 150), torch.rand(3, 140, 100), torch.rand(3, 128, 128)]
    with torch.no_grad():
        maps = ours.network.backbone(torch.rand(1, 3, 128, 160))["0"]
        raw = head.cls_logits(head.conv(maps)) - head.cls_logits[1].bias[:, None, None]
        head.cls_logits[1].weight.mul_(2 / raw.std())
        if channels_last:
            ours = ours.to(memory_format=torch.channels_last)
        found = ours.network(images)
        expected = theirs.RetinaNet.forward(ours.network, images)
        logits = ours.network.head(list(ours.network.backbone(torch.rand(1, 3, 128, 160)).values()))
    chosen = (logits["cls_logits"].sigmoid() > 0.3).any(-1).float().mean()
    assert 0 < chosen < 0.5, "most anchors are passed over"
    for one, two in zip(expected, found, strict=True):
        assert len(one["boxes"]) >= 10
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_torchvisions_weights_give_torchvisions_outputs_and_losses(kind):
    torch.manual_seed(0)
    reference = _theirs(kind)
    ours = create_detector(create_model("resnet50"), _CLASSES, _settings(kind))
    load_torchvision_(ours, reference.state_dict())
    images, background = [torch.rand(3, 110, 150), torch.rand(3, 140, 100)], _BUILDERS[kind][1]
    with torch.no_grad():
        expected, found = reference.eval()(images), ours.eval()(images)
    for one, two in zip(expected, found, strict=True):
        assert len(one["boxes"]) >= 10
        torch.testing.assert_close(two["boxes"], one["boxes"], atol=1e-4, rtol=0)
        torch.testing.assert_close(two["scores"], one["scores"], atol=1e-4, rtol=0)
        assert torch.equal(two["labels"] + background, one["labels"])
    shifted = [{**target, "labels": target["labels"] + background} for target in _targets()]
    with torch.no_grad():
        torch.manual_seed(1)  # Faster R-CNN samples proposals
        wanted = reference.train()(images, shifted)
        torch.manual_seed(1)
        losses = ours.train()(images, _targets())
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=0)


def test_names_of_torchvisions_first_files_are_known():
    state = _theirs("faster_rcnn").state_dict()
    old = {
        name.replace("inner_blocks.0.0.", "inner_blocks.0.").replace(
            "rpn.head.conv.0.0.", "rpn.head.conv."
        ): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")  # their frozen batch norms count nothing
    }
    assert set(old) - set(state)
    ours = create_detector(create_model("resnet50"), _CLASSES, _settings("faster_rcnn", batch_norm_eps=0.0))
    load_torchvision_(ours, old)
    own = ours.network.state_dict()
    assert torch.equal(own["rpn.head.conv.0.0.weight"], state["rpn.head.conv.0.0.weight"])
    assert {m.eps for m in ours.network.backbone.body.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {
        0.0
    }


def test_weights_of_another_number_of_classes_are_refused():
    ours = create_detector(create_model("resnet50"), ["a", "b"], _settings("retinanet"))
    with pytest.raises(InputError, match="the weights tell 5 classes apart, the detector 2"):
        load_torchvision_(ours, _theirs("retinanet").state_dict())
    with pytest.raises(InputError, match=r"the weights lack head.classification_head.cls_logits.bias"):
        load_torchvision_(ours, _theirs("faster_rcnn").state_dict())


_BACKBONES = [
    ("ghostnet_110", {"rounding": "paper"}),
    ("ghostnet_100", {}),
    ("mobilenetv2_100", {}),
    ("mobilenetv3_large_100", {}),
    ("resnet50", {"width_mult": 0.25}),
    ("ghost_resnet50", {"width_mult": 0.25}),
]


@pytest.mark.parametrize(("name", "args"), _BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_trains_and_detects(kind, name, args):
    settings = light_settings(kind, min_size=96, max_size=128, freeze_batch_norm=False)
    detector = create_detector(create_model(name, **args), _CLASSES, settings)
    images = [torch.rand(3, 96, 128), torch.rand(3, 120, 100)]
    losses = detector(images, _targets())
    sum(losses.values()).backward()
    assert [n for n, p in detector.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        found = detector.eval()(images)
    for image, result in zip(images, found, strict=True):
        height, width = image.shape[1:]
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"][:, 2] <= width + 1e-3).all()
        assert (result["boxes"][:, 3] <= height + 1e-3).all()


def test_an_image_without_boxes_gives_finite_losses(small_detector):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for kind in KINDS:
        losses = small_detector(kind)([torch.rand(3, 100, 120)] * 2, [empty, empty])
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_frozen_parts_stay_as_they_are_in_training_mode(small_detector):
    detector = small_detector("retinanet", freeze_batch_norm=True, frozen_stages=1).train()
    body = detector.network.backbone.body
    norms = [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) > 10
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert not any(parameter.requires_grad for parameter in body.parts[0].parameters())
    assert any(parameter.requires_grad for parameter in body.parts[1].parameters())
    assert detector.network.head.training


def test_frozen_stages_keep_their_statistics_where_other_norms_learn(small_detector):
    detector = small_detector("retinanet", frozen_stages=1).train()
    first, second = (
        [module for module in part.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for part in detector.network.backbone.body.parts[:2]
    )
    before = [norm.running_mean.clone() for norm in (*first, *second)]
    detector([torch.rand(3, 96, 96)] * 2, _targets(last=1))
    moved = [
        not torch.equal(*pair)
        for pair in zip(before, (n.running_mean for n in (*first, *second)), strict=True)
    ]
    assert moved == [False] * len(first) + [True] * len(second)
    assert first


def test_bf16_losses_are_close(small_detector):
    images = [torch.rand(3, 128, 128)] * 2
    for kind in KINDS:
        detector = small_detector(kind)
        torch.manual_seed(2)
        plain = detector(images, _targets(last=1))
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            half = detector(images, _targets(last=1))
        for name, value in plain.items():
            torch.testing.assert_close(half[name].float(), value, rtol=0.15, atol=0.05)


def test_the_light_setting_costs_what_ssdlite_does():
    backbone = create_model("ghostnet_110", rounding="paper")
    classes = [str(number) for number in range(80)]
    counted = profile(create_detector(backbone, classes, light_settings()).eval(), (3, 320, 320))
    assert counted.uncounted == {} or not counted.uncounted
    assert counted.macs < 0.65e9  # SSDLite with MobileNetV3-Large: 0.62 G by its paper, 0.58 G by torchvision
    assert counted.params < 3.5e6


def test_pyramids_of_borrowed_networks_share_the_classifiers_maps():
    model = create_model("mobilenetv3_large_100").eval()
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        maps = feature_pyramid(model)(images)
        rest = model.blocks[-1](maps[-1])
        torch.testing.assert_close(rest, model.forward_features(images))
    mobile = create_model("mobilenetv2_100").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            mobile.features[-1](feature_pyramid(mobile)(images)[-1]), mobile.features(images)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "retinnet"}, "unknown detector 'retinnet'; did you mean 'retinanet'"),
        ({"min_size": 0}, r"`min_size` \(=0\) must be an integer >= 1"),
        ({"max_size": 10}, r"`max_size` \(=10\) must be at least `min_size`"),
        ({"head_layers": 5}, r"`head_layers` \(=5\) must be 1, 2, 3 or 4"),
        ({"frozen_stages": 9}, r"`frozen_stages` \(=9\)"),
        ({"std": (1.0, 1.0, 0.0)}, "`mean` and `std`"),
        ({"anchor_scale": -1.0}, r"`anchor_scale` \(=-1.0\)"),
        ({"nms_threshold": 2.0}, r"`nms_threshold` \(=2.0\) must be between 0 and 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        DetectorSettings(**changes)


def test_bad_detectors(small_detector):
    with pytest.raises(InputError, match="unknown detector setting 'min_sise'; did you mean 'min_size'"):
        DetectorSettings.from_dict({"min_sise": 3})
    backbone = create_model("ghostnet_050")
    with pytest.raises(InputError, match="at least one class"):
        create_detector(backbone, [])
    with pytest.raises(InputError, match=r"`classes` \(='cat'\) must be a list of names, such as \['cat'\]"):
        create_detector(backbone, "cat")
    with pytest.raises(
        InputError, match=r"`strides` \(=8\) must be a sequence, such as \(8,\), among \[2, 4, 8"
    ):
        feature_pyramid(backbone, strides=8)
    with pytest.raises(InputError, match="class 'a' is named twice"):
        create_detector(backbone, ["a", "b", "a"])
    with pytest.raises(
        InputError, match=r"offers no feature pyramid; take .* mnasnet_a1 of the zoo, or a ResNet"
    ):
        create_detector(create_model("vgg16"), ["a"])
    with pytest.raises(InputError, match="in training mode needs targets"):
        small_detector("retinanet")([torch.rand(3, 64, 64)])
