"""What is kept off the console, and that errors and later messages are not."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from ghostnet.quiet import quiet_native, quiet_python


def _chatter() -> None:
    print("printed")
    print("printed", file=sys.stderr)
    warnings.warn("warned", stacklevel=1)
    logging.getLogger("torch.onnx").error("logged")


def test_prints_warnings_and_logs_are_kept_back_and_come_again(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet_python():
        _chatter()
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    with pytest.warns(UserWarning, match="warned"):
        _chatter()
    assert capsys.readouterr().out == "printed\n"
    assert [record.message for record in caplog.records] == ["logged"]


def test_what_is_written_past_python_is_kept_back_and_what_python_held_is_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("before")
    with quiet_native():
        os.write(1, b"native")
        os.write(2, b"native")
    os.write(2, b"after")
    assert capfd.readouterr() == ("before\n", "after")


@pytest.mark.parametrize("quiet", [quiet_python, quiet_native])
def test_an_error_passes_and_the_console_is_back(quiet: object, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), quiet():  # type: ignore[operator]
        raise ValueError("wrong")
    os.write(1, b"native\n")
    print("printed", flush=True)
    assert capfd.readouterr().out == "native\nprinted\n"
