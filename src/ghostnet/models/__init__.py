"""The zoo: networks by name, their packaged weights, and files that rebuild any network of ours."""

from ghostnet.models import (
    borrowed_networks,
    cifar_resnet,
    cifar_resnet9,
    cifar_vgg,
    fe_net,
    mobilenet_v1,
    searched_networks,
    shufflenet_v1,
    shufflenet_v2,
)
from ghostnet.models.registry import ModelInfo, create_model, list_models, model_info, register
from ghostnet.models.saved import load, save
from ghostnet.models.weights import packaged_path, packaged_tags

__all__ = [
    "ModelInfo",
    "borrowed_networks",
    "cifar_resnet",
    "cifar_resnet9",
    "cifar_vgg",
    "create_model",
    "fe_net",
    "list_models",
    "load",
    "mobilenet_v1",
    "model_info",
    "packaged_path",
    "packaged_tags",
    "register",
    "save",
    "searched_networks",
    "shufflenet_v1",
    "shufflenet_v2",
]
