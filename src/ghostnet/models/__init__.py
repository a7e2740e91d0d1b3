"""The zoo: networks by name, their packaged weights, and files that rebuild any network of ours."""

from ghostnet.models import (
    cifar_resnet,
    cifar_resnet9,
    cifar_vgg,
    ghostnet,
    ghostnet_successors,
    resnet50,
)
from ghostnet.models.cards import WeightCard, weight_cards
from ghostnet.models.layouts import to_layout
from ghostnet.models.pyramid import FeaturePyramid, feature_pyramid
from ghostnet.models.registry import ModelInfo, create_model, list_models, model_info, register
from ghostnet.models.saved import load, save
from ghostnet.models.weights import packaged_path, packaged_tags

__all__ = [
    "FeaturePyramid",
    "ModelInfo",
    "WeightCard",
    "cifar_resnet",
    "cifar_resnet9",
    "cifar_vgg",
    "create_model",
    "feature_pyramid",
    "ghostnet",
    "ghostnet_successors",
    "list_models",
    "load",
    "model_info",
    "packaged_path",
    "packaged_tags",
    "register",
    "resnet50",
    "save",
    "to_layout",
    "weight_cards",
]
