"""Arrays and plain values come out of a pickle; every other global is refused before it is called."""

from __future__ import annotations

import _codecs
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from ghostnet.array_pickle import ArrayUnpickler


class _Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_and_plain_values_are_read(protocol) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = {"array": array, "values": [1, 2.5, "three", b"\xff", None, (True,)]}
    found = ArrayUnpickler(io.BytesIO(pickle.dumps(written, protocol))).load()
    assert found["array"].dtype == array.dtype
    assert found["array"].tolist() == array.tolist()
    assert found["values"] == written["values"]


def test_other_globals_are_refused_and_not_called(tmp_path: Path) -> None:
    content = pickle.dumps(_Call(os.mkdir, str(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError, match=r"its pickle asks for \w+\.mkdir, which is refused"):
        ArrayUnpickler(io.BytesIO(content)).load()
    assert not (tmp_path / "ran").exists()


def test_further_globals_exist_only_where_they_are_named() -> None:
    content = pickle.dumps(OrderedDict(a=1))
    with pytest.raises(pickle.UnpicklingError, match=r"asks for collections\.OrderedDict"):
        ArrayUnpickler(io.BytesIO(content)).load()
    also = {("collections", "OrderedDict"): OrderedDict}
    assert ArrayUnpickler(io.BytesIO(content), also=also).load() == OrderedDict(a=1)
    with pytest.raises(pickle.UnpicklingError, match=r"asks for collections\.OrderedDict"):
        ArrayUnpickler(io.BytesIO(content)).load()


def test_bytes_of_python_3_are_the_one_use_of_encode() -> None:
    content = pickle.dumps(_Call(_codecs.encode, "a", "rot13"))
    with pytest.raises(pickle.UnpicklingError, match="asks for the encoding 'rot13', which is refused"):
        ArrayUnpickler(io.BytesIO(content)).load()


def test_an_array_cannot_ask_for_memory_by_its_constructor() -> None:
    reconstruct = np.zeros(1).__reduce__()[0]
    content = pickle.dumps(_Call(reconstruct, np.ndarray, (1 << 60,), b"b"))
    assert ArrayUnpickler(io.BytesIO(content)).load().shape == (0,)
