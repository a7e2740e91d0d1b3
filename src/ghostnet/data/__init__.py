"""CIFAR-10 from wherever it can be had, checked by hash, and batches of it."""

from ghostnet.data.augment import Augmentation
from ghostnet.data.batches import TensorBatches
from ghostnet.data.cifar10 import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, Cifar10, load_cifar10

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Augmentation",
    "Cifar10",
    "TensorBatches",
    "load_cifar10",
]
