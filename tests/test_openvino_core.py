"""One OpenVINO core a process: sessions come and go, in any order and thread, and signals stay harmless."""

import os
import subprocess
import sys

import pytest

from ghostnet import openvino_core

pytest.importorskip("openvino")

_SCRIPT = """
import gc, signal, subprocess, sys, threading
from torch import nn
from ghostnet.deploy import export, load

signal.signal(signal.SIGCHLD, lambda *_: None)  # as torch's data loader does
export(nn.Conv2d(3, 4, 3), "openvino", "net.xml", input_size=(3, 8, 8))
sessions = [load("net.xml"), load("net.xml")]
if sys.argv[1] == "one after the other":
    sessions.pop(0)
    gc.collect()
    sessions.clear()
else:
    thread = threading.Thread(target=sessions.clear)
    thread.start()
    thread.join()
gc.collect()
subprocess.run([sys.executable, "-c", "pass"], check=True)
print("survived")
"""


@pytest.mark.parametrize("given_back", ["one after the other", "in another thread"])
def test_a_signal_after_sessions_were_given_back_does_not_end_the_process(given_back, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, given_back], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["survived"]), done.stderr[-500:]


def test_the_environment_is_as_it_was_after_an_import(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    package = openvino_core.openvino()
    assert isinstance(openvino_core.core(), package.Core)
    assert openvino_core.core() is openvino_core.core()
    with openvino_core.no_usage_reports():
        pass
    assert "CI" not in os.environ
