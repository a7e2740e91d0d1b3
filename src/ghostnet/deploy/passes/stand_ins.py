"""What a network calls while it is traced, called in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class StandIns(TorchFunctionMode):
    """While it is entered, each of PyTorch's functions goes through `called`."""

    def called(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]) -> Any:
        """Call a function, or what stands for it.

        Args:
            func: of PyTorch or a method of its tensors.
            args: what it is given by place.
            given: and by name.
        """
        return func(*args, **given)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hand the call on."""
        return self.called(func, args, dict(kwargs or {}))
