"""What is kept off the console, and that errors and later messages are not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from ghostnet.openvino_core import no_usage_reports
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


@pytest.mark.parametrize("quiet", [quiet_python, quiet_native, no_usage_reports])
def test_threads_that_overlap_bring_the_console_back_when_the_last_is_done(
    quiet: object, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    disabled, stdout, filters = logging.root.manager.disable, sys.stdout, list(warnings.filters)
    first, second = quiet(), quiet()  # type: ignore[operator]
    with first:  # as two threads would: the one that came first leaves first
        second.__enter__()
    if quiet is quiet_native:
        os.write(1, b"the second still wants it quiet\n")
    second.__exit__(None, None, None)
    os.write(1, b"native\n")
    os.write(2, b"native\n")
    print("printed", flush=True)
    assert capfd.readouterr() == ("native\nprinted\n", "native\n")
    assert (logging.root.manager.disable, sys.stdout, list(warnings.filters)) == (disabled, stdout, filters)
    assert "CI" not in os.environ


def test_what_python_held_is_not_lost_where_something_stands_for_its_stream() -> None:
    script = """
from ghostnet.quiet import quiet_native, quiet_python
print("held back")
python = quiet_python()
python.__enter__()
with quiet_native():
    python.__exit__(None, None, None)  # another thread is done
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("held back\n", "", 0)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_stay_closed(closed: str, tmp_path: object) -> None:
    script = """
import os, sys
from ghostnet.quiet import quiet_native, quiet_python

def leads(stream):
    try:
        return os.readlink(f"/proc/self/fd/{stream}") if os.path.isdir("/proc/self/fd") else bool(os.fstat(stream))
    except OSError:
        return None

before = [leads(stream) for stream in range(8)]
with quiet_native(), quiet_python(), quiet_native():
    os.write(1, b"native")
    os.write(2, b"native")
with open(sys.argv[1], "w") as found:
    if [leads(stream) for stream in range(8) if stream != found.fileno()] == [
        before[stream] for stream in range(8) if stream != found.fileno()
    ]:
        found.write("as before")
"""
    found = os.path.join(str(tmp_path), "found")
    command = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, script, found], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    with open(found, encoding="utf-8") as answer:
        assert answer.read() == "as before"
