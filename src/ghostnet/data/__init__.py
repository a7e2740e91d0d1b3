"""Images to train and evaluate on: CIFAR-10 checked by hash, class folders, shards, boxes, and batches of them."""

from ghostnet.data.augment import Augmentation
from ghostnet.data.batches import Batches, TensorBatches
from ghostnet.data.cifar10 import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, Cifar10, load_cifar10
from ghostnet.data.coco import check_instances, coco_splits, open_coco, read_coco, read_json
from ghostnet.data.decode import UnreadableImageError, decode_image, read_image
from ghostnet.data.detection import BadBoxError, BoxImage, DetectionSet
from ghostnet.data.detection_batches import DetectionBatches
from ghostnet.data.detection_sets import open_detection
from ghostnet.data.image_batches import ImageBatches
from ghostnet.data.image_folder import (
    IMAGE_ENDINGS,
    ImageFolder,
    ImageSource,
    Subset,
    UnlabelledImages,
    list_images,
    split_at_random,
    split_stratified,
)
from ghostnet.data.image_sets import (
    open_held_out,
    open_images,
    open_split,
    refuse_parts,
    training_folder,
    with_class_indices,
    with_labels_of,
    write_cifar10_folder,
)
from ghostnet.data.loading_speed import compare_loading_speed
from ghostnet.data.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropAugmentation,
    Preprocessing,
    evaluation_transform,
    image_info,
    training_transform,
)
from ghostnet.data.shards import ShardFolder, write_shards
from ghostnet.data.voc import read_voc

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_ENDINGS",
    "Augmentation",
    "BadBoxError",
    "Batches",
    "BoxImage",
    "Cifar10",
    "CropAugmentation",
    "DetectionBatches",
    "DetectionSet",
    "ImageBatches",
    "ImageFolder",
    "ImageSource",
    "Preprocessing",
    "ShardFolder",
    "Subset",
    "TensorBatches",
    "UnlabelledImages",
    "UnreadableImageError",
    "check_instances",
    "coco_splits",
    "compare_loading_speed",
    "decode_image",
    "evaluation_transform",
    "image_info",
    "list_images",
    "load_cifar10",
    "open_coco",
    "open_detection",
    "open_held_out",
    "open_images",
    "open_split",
    "read_coco",
    "read_image",
    "read_json",
    "read_voc",
    "refuse_parts",
    "split_at_random",
    "split_stratified",
    "training_folder",
    "training_transform",
    "with_class_indices",
    "with_labels_of",
    "write_cifar10_folder",
    "write_shards",
]
