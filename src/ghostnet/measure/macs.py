"""What one aten operation costs in multiply-accumulates (MACs); the only definition in this package.

Convolutions (plain, grouped, transposed), matrix products and attention cost one MAC for each
multiply-accumulate that their definition writes down: zero padding counts, causal masks do not reduce it.
Bias, normalisation, activation, pooling, resizing and other elementwise work cost zero. An operation in
neither list is not guessed: `macs_of` returns None and the profile reports it as uncounted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Counter = Callable[[Sequence[Any], torch.Tensor], int]


def _convolution(arguments: Sequence[Any], output: torch.Tensor) -> int:
    source, weight, transposed = arguments[0], arguments[1], arguments[6]
    positions = source if transposed else output
    return int(positions.numel()) * math.prod(weight.shape[1:])


def _matrix_product(first: int) -> Counter:
    """Count `output.numel()` inner products as long as the last size of the argument at index `first`."""

    def count(arguments: Sequence[Any], output: torch.Tensor) -> int:
        return int(output.numel()) * int(arguments[first].shape[-1])

    return count


def _attention(arguments: Sequence[Any], _output: torch.Tensor) -> int:
    query, key, value = arguments[:3]
    pairs = math.prod(query.shape[:-1]) * int(key.shape[-2])
    return pairs * (int(query.shape[-1]) + int(value.shape[-1]))


_COUNTERS: dict[str, Counter] = {
    "convolution": _convolution,
    "mm": _matrix_product(0),
    "bmm": _matrix_product(0),
    "mv": _matrix_product(0),
    "dot": _matrix_product(0),
    "vdot": _matrix_product(0),
    "linear": _matrix_product(0),
    "addmm": _matrix_product(1),
    "addmv": _matrix_product(1),
    "baddbmm": _matrix_product(1),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}

# Neither tagged pointwise or reduction by PyTorch nor a view, and without MACs by the definition above.
_FREE_NAMES = """
    as_strided_ native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update native_layer_norm
    native_group_norm _fused_rms_norm _softmax _log_softmax _safe_softmax max_pool2d_with_indices
    max_pool3d_with_indices mkldnn_max_pool2d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa cat stack clone
    copy copy_ _to_copy constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d embedding index index_select index_put
    index_put_ gather scatter scatter_ select_scatter slice_scatter roll flip repeat repeat_interleave
    where masked_fill masked_fill_ masked_select nonzero sort topk argsort argmax argmin max min sum mean
    cumsum unique_dim bincount tril triu eye empty empty_like empty_strided empty_permuted new_empty
    new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full arange
    linspace scalar_tensor lift lift_fresh lift_fresh_copy fill fill_ zero_ resize_ set_ rand rand_like
    randn randn_like randint randperm bernoulli bernoulli_ uniform_ normal_ native_dropout
    _local_scalar_dense _unsafe_view _reshape_alias unsafe_split unsafe_split_with_sizes
    split_with_sizes_copy native_channel_shuffle channel_shuffle pixel_shuffle pixel_unshuffle im2col
    col2im glu std std_mean var var_mean norm linalg_vector_norm all any amax amin prod equal is_same_size
    _assert_async _assert_scalar isnan nms one_hot unfold_copy prelu _prelu_kernel
    hardswish hardswish_ gelu_ mish_ threshold_
"""
_FREE = frozenset(_FREE_NAMES.split())


def _name(operation: Any) -> str:
    return str(operation._schema.name).split("::")[-1]


def is_free(operation: Any) -> bool:
    """Tell whether an aten operation has no MACs by its kind, whatever it is given."""
    return _name(operation) in _FREE or bool({torch.Tag.pointwise, torch.Tag.reduction} & set(operation.tags))


def is_made_of_others(operation: Any) -> bool:
    """Tell whether an aten operation stands for others that count; in inference mode it comes whole.

    Example:
        >>> is_made_of_others(torch.ops.aten.conv2d.default), is_made_of_others(torch.ops.aten.convolution.default)
        (True, False)
    """
    composite = operation.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return bool(composite) and _name(operation) not in _COUNTERS and not is_free(operation)


def macs_of(operation: Any, arguments: Sequence[Any], output: Any) -> int | None:
    """Return the MACs of one executed aten operation, or None when they are not known.

    Args:
        operation: the `OpOverload` that a dispatch mode has seen.
        arguments: its positional arguments.
        output: what it returned.

    Example:
        >>> left, right = torch.zeros(2, 3), torch.zeros(3, 5)
        >>> macs_of(torch.ops.aten.mm.default, (left, right), left @ right)
        30
    """
    name = _name(operation)
    if name in _COUNTERS:
        return _COUNTERS[name](arguments, output)
    if is_free(operation):
        return 0
    returned = operation._schema.returns
    is_view = bool(returned) and all(value.alias_info is not None for value in returned)
    has_no_tensor = not any(isinstance(value, torch.Tensor) for value in (output, *arguments))
    return 0 if (is_view and not operation._schema.is_mutable) or has_no_tensor else None
