"""The zoo: networks by name, their packaged weights, and files that rebuild any network of ours."""

from ghostnet.models import cifar_resnet, cifar_resnet9, cifar_vgg
from ghostnet.models.registry import ModelInfo, create_model, list_models, model_info, register
from ghostnet.models.saved import load, save
from ghostnet.models.weights import packaged_path, packaged_tags

__all__ = [
    "ModelInfo",
    "cifar_resnet",
    "cifar_resnet9",
    "cifar_vgg",
    "create_model",
    "list_models",
    "load",
    "model_info",
    "packaged_path",
    "packaged_tags",
    "register",
    "save",
]
