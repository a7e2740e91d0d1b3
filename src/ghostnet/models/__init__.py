"""The zoo: networks by name, their packaged weights, and files that rebuild any network of ours."""

from ghostnet.models import (
    borrowed_networks,
    cifar_resnet,
    cifar_resnet9,
    cifar_vgg,
    fe_net,
    ghostnet,
    ghostnet_successors,
    mobilenet_v1,
    resnet50,
    searched_networks,
    shufflenet_v1,
    shufflenet_v2,
)
from ghostnet.models.cards import WeightCard, weight_cards
from ghostnet.models.layouts import to_layout
from ghostnet.models.libraries import create_from_library, library_of
from ghostnet.models.outside import Outside, create_outside, outside_of
from ghostnet.models.pyramid import FeaturePyramid, feature_pyramid
from ghostnet.models.registry import ModelInfo, create_model, list_models, model_info, register
from ghostnet.models.resnet50_v2 import load_resnet50_v2_trunk
from ghostnet.models.saved import load, save
from ghostnet.models.weights import default_tag, packaged_network, packaged_path, packaged_tags

__all__ = [
    "FeaturePyramid",
    "ModelInfo",
    "Outside",
    "WeightCard",
    "borrowed_networks",
    "cifar_resnet",
    "cifar_resnet9",
    "cifar_vgg",
    "create_from_library",
    "create_model",
    "create_outside",
    "default_tag",
    "fe_net",
    "feature_pyramid",
    "ghostnet",
    "ghostnet_successors",
    "library_of",
    "list_models",
    "load",
    "load_resnet50_v2_trunk",
    "mobilenet_v1",
    "model_info",
    "outside_of",
    "packaged_network",
    "packaged_path",
    "packaged_tags",
    "register",
    "resnet50",
    "save",
    "searched_networks",
    "shufflenet_v1",
    "shufflenet_v2",
    "to_layout",
    "weight_cards",
]
