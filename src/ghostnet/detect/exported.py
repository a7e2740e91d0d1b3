"""An exported detector in the place of a detector, so that files are measured and used as saved detectors are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ghostnet.detect.session import DetectorSession
from ghostnet.errors import InputError, first_line


class ExportedDetector(nn.Module):
    """A session that is called like a `Detector` in evaluation mode, on the CPU.

    Args:
        session: from `load_detector_file`.

    Attributes:
        classes: names; a label is an index into them.
    """

    def __init__(self, session: DetectorSession) -> None:
        super().__init__()
        self.classes = tuple(session.classes)
        self._session = session

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return `boxes`, `labels` and `scores` of float images `(3, H, W)` in [0, 1], one after the other.

        Raises:
            InputError: the runtime cannot take an image.
        """
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> dict[str, Tensor]:
        try:
            found = self._session.run(image.contiguous().numpy())
        except Exception as error:  # the runtimes' own classes share no public base class
            size = "x".join(map(str, image.shape[:0:-1]))
            raise InputError(
                f"{self._session.path} does not run on an image of {size} pixels: {first_line(error)}"
            ) from error
        return {name: torch.from_numpy(value) for name, value in found.items()}
