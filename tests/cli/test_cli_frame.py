"""The command's frame: exit codes, one line for every failure, speed, and streams."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ghostnet import cli
from ghostnet.cli import app


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ghostnet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ghostnet: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_answers_in_half_a_second_and_loads_no_torch() -> None:
    seconds = []
    for _ in range(3):  # the machine may be busy: the processor's seconds count, and the least of three
        started = os.times()
        done = _run("--help")
        ended = os.times()
        seconds.append(
            sum(ended[2:4]) - sum(started[2:4])
        )  # of child processes, for themselves and in the system
        assert done.returncode == 0
    assert min(seconds) < 0.5
    code = "import sys, ghostnet.cli as c; c.run(['convert', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_an_output_that_is_not_utf8_gets_what_it_can_write() -> None:
    done = _run("reproduce", "--list", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout
    failed = _run("profile", "netzwerk-ä", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="1")
    assert failed.returncode == 2
    assert failed.stderr.startswith("ghostnet: ")


def test_version_and_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert cli.run([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(app.VERBS))
def test_each_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([verb, "--help"]) == 0
    assert f"Example:\n    ghostnet {verb}" in capsys.readouterr().out


def test_the_verbs_are_those_of_the_design() -> None:
    wanted = (
        "models profile convert train eval predict detect export bench features reproduce report demo data"
    )
    assert set(app.VERBS) == set(wanted.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modelz"], "unknown command 'modelz'; did you mean 'models'"),
        (["models", "--jason"], "--jason.*--json"),
        (["profile"], "(?i)missing"),
        (["profile", "resnet65"], "unknown model 'resnet65'; did you mean 'resnet56'"),
        (["profile", "nothing.safetensors"], "no file nothing.safetensors"),
        (["profile", "resnet20", "--input-size", "3,32"], r"--input-size \(=3,32\) must be three integers"),
        (["models", "zzz*"], r"unknown model 'zzz\*'"),
        (["convert", "resnet20"], "(?i)missing.*--out"),
        (
            ["convert", "resnet20", "-o", "x.safetensors", "--ratio", "2.5"],
            "--ratio.*'2.5' is not an integer",
        ),
        (
            ["convert", "resnet20", "-o", "x.safetensors", "--init", "desne"],
            "unknown init 'desne'; .*'dense'",
        ),
        (
            ["convert", "resnet20", "-o", "x.safetensors", "--calibration", "cifar"],
            "unknown folder or data set 'cifar'",
        ),
        (["export", "resnet20", "-o", "x.onnx", "--target", "onxx"], "unknown export target 'onxx'.*'onnx'"),
        (
            ["eval", "resnet20", "--data", "cifar"],
            "unknown folder or data set 'cifar'; did you mean 'cifar10'",
        ),
        (["train"], "no recipe given; `ghostnet train --list`"),
        (["train", "resnet9_05"], "unknown recipe 'resnet9_05'; did you mean 'resnet9_050'"),
        (["train", "resnet9_050", "epoch=3"], "unknown key .* 'epoch'; did you mean 'epochs'"),
        (["train", "resnet9_050", "--resume", "--out", "nowhere"], "no checkpoint nowhere/resnet9_050-seed0"),
        (["train", "epochs=3", "--data", "nowhere", "--model", "resnet20"], "there is no folder nowhere"),
        (["train", "ghostnet_100", "--data", "ph\U0001f600"], "there is no folder ph\U0001f600"),
        (["detect", "train", "bccd_light", "--data", "ph\U0001f600"], "ph\U0001f600"),
        (
            ["train", "resnet9_050", "--weights", "x.safetensors"],
            "--weights, --model, --teacher and --unlabelled are for fine-tuning",
        ),
        (
            ["train", "--data", "nowhere", "--weights", "resnet9_050"],
            "resnet9_050 names a network, not its weights; write --model resnet9_050",
        ),
        (["train", "fine_tune"], "fine-tuning needs images; give --data DIR"),
        (["eval", "resnet20", "--data", "./nowhere"], "there is no folder or shard ./nowhere"),
        (["predict", "resnet20", "nowhere.jpg"], "there is no image nowhere.jpg"),
        (["predict", "resnet20", "nowhere.jpg", "--top-k", "0"], r"--top-k \(=0\) must be an integer >= 1"),
        (["data", "cifar1"], "unknown data set 'cifar1'"),
        (["data", "shards", "nowhere"], "`ghostnet data shards` takes SOURCE and OUT, not 1 paths"),
        (["data", "shards", "nowhere", "out"], "there is no folder nowhere"),
        (["data", "speed", "nowhere"], "there is no folder nowhere"),
        (
            ["data", "speed", "nowhere", "--images-per-shard", "9"],
            "--images-per-shard is for `ghostnet data shards`",
        ),
        (["data", "shards", "nowhere", "out", "--rounds", "9"], "--rounds is for `ghostnet data speed`"),
        (["data", "cifar10", "--seed", "9"], "--seed is for `ghostnet data shards`, and has no effect here"),
        (["data", "cifar10", "--per-class", "9"], r"--per-class \(=9\) is for --folder"),
        (["data", "cifar10", "--classes", "cat"], r"--classes \(=cat\) is for --folder"),
        (["bench", "resnet20", "--seconds", "-1"], r"--seconds \(=-1.0\) must be a finite number above 0"),
        (["bench", "resnet20", "--seconds", "nan"], r"--seconds \(=nan\) must be"),
        (
            ["convert", "resnet20", "-o", "x", "--init", "random", "--seed", "-1"],
            r"--seed \(=-1\) must be an integer",
        ),
        (["bench", "resnet20", "--threads", "0"], r"--threads \(=0\) must be"),
        (["bench", "resnet20", "--processes", "0"], r"--processes \(=0\) must be an integer >= 1"),
        (["bench", "resnet20", "--processes", "-1"], r"--processes \(=-1\) must be an integer >= 1"),
        (["bench", "resnet20", "--processes", "1.5"], "'--processes': '1.5' is not an integer"),
        (["bench", "resnet20", "resnet20"], "the same network is given twice"),
        (["bench", "nothing.onnx"], "there is no file nothing.onnx"),
        (["bench", "resnet20", "--threads", "1,x"], r"--threads \(=x\) must be an integer >= 1, or several"),
        (["bench", "resnet20", "--runtime", "onnx,opnvino"], "unknown export target 'opnvino'.*'openvino'"),
        (["bench", "resnet20@plane"], "unknown form 'plane'; did you mean 'plain'"),
        (["bench", "timm:resnet18x"], "unknown network of timm 'resnet18x'; did you mean"),
        (["bench", "torchvision:resnet19"], "unknown network of torchvision 'resnet19'; did you mean"),
        (
            ["bench", "resnet20", "--weights", "resnet20"],
            r"--weights \(=resnet20\) must be NAME=TAG or NAME=FILE",
        ),
        (
            ["bench", "resnet20", "--weights", "resnet2=x"],
            "unknown network in --weights 'resnet2'.*'resnet20'",
        ),
        (["bench", "timm:resnet18", "--weights", "timm:resnet18=x.pth"], "x.pth"),
        (
            ["bench", "vgg16", "--input-size", "3,16,16"],
            "vgg16 does not run with input size .3, 16, 16.: .*Output size is too small",
        ),
        (["profile", "torchvision:resnet19"], "unknown network of torchvision 'resnet19'; did you mean"),
        (
            ["convert", "timm:resnet18", "-o", "x.safetensors"],
            "timm:resnet18 is built with random weights here",
        ),
        (["bench", "resnet20", "ghostnet_100"], "takes .3, 224, 224., another network .3, 32, 32."),
        (["bench", "resnet20", "--precision", "fp31"], "unknown precision 'fp31'; did you mean 'fp32'"),
        (
            ["export", "resnet20", "-o", "x.onnx", "--plain", "--passes", "x"],
            "--plain leaves all out; give one",
        ),
        (["export", "resnet20", "-o", "x.onnx", "--target", "openvino"], "must end in .xml for OpenVINO"),
        (["detect", "trian"], "(?i)no such command 'trian'"),
        (["detect", "train"], "no recipe given; `ghostnet detect train --list`"),
        (["detect", "train", "bccd_lite"], "unknown recipe 'bccd_lite'; did you mean 'bccd_light'"),
        (["detect", "train", "bccd_light", "--data", "nowhere"], "there is no folder nowhere"),
        (["detect", "train", "bccd_light", "epoch=2"], "unknown key .* 'epoch'; did you mean 'epochs'"),
        (["detect", "eval", "--data", "nowhere"], "give either a saved detector or --results FILE"),
        (["detect", "eval", "x.safetensors"], "there is nothing to measure on; give --data"),
        (["detect", "eval", "--results", "x.json", "--data", "y.json"], "there is no file y.json"),
        (["detect", "predict", "x.safetensors", "nowhere.jpg"], "there is no image nowhere.jpg"),
        (["detect", "export", "x.safetensors"], "(?i)missing.*--out"),
        (["detect", "bench", "x.onnx"], "there is no file x.onnx"),
        (["detect", "bench", "x.onnx", "x.onnx"], "the same detector is given twice"),
        (["detect", "bench", "ghostnet_100"], "'ghostnet_100' is no exported file and not KIND:BACKBONE"),
        (["detect", "bench", "retina:ghostnet_100"], "unknown detector 'retina'; did you mean 'retinanet'"),
        (["detect", "bench", "x.onnx", "--image", "nowhere.jpg"], "there is no image nowhere.jpg"),
        (["detect", "export", "x.safetensors", "-o", "y.onnx"], "no file x.safetensors"),
        (["report", "--root", "nowhere"], "there is no nowhere/README.md"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert re.search(message, _line(capsys))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted; continue with the same command"),
        (OSError(28, "No space left on device", "out.json"), "out.json: No space left on device"),
        (OSError("the line is dead"), "the line is dead"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines .*GHOSTNET_DEBUG=1"),
    ],
)
def test_failures_are_one_line_and_exit_1(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(app.VERBS, "data", fail)
    assert cli.run(["data"]) == 1
    assert re.search(message, _line(capsys))


def test_shards_are_not_made_of_a_sets_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pets" / name / "0.png")
    assert cli.run(["data", "shards", str(tmp_path / "pets"), str(tmp_path / "out")]) == 2
    assert "pets holds a set in parts, train and val, which are no classes; name one, " in _line(capsys)
    assert not (tmp_path / "out").exists()
    assert cli.run(["data", "shards", str(tmp_path / "pets" / "train"), str(tmp_path / "out")]) == 0
    assert "2 images of 2 classes" in capsys.readouterr().out


def test_what_keeps_nothing_does_not_promise_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(app.VERBS, "bench", fail)
    assert cli.run(["bench"]) == 1
    assert _line(capsys) == "ghostnet: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["convert", "resnet20", "-o", "x.safetensors", "--plan", "onnx"], False),
        (["convert", "resnet20", "-o", "x.safetensors", "--plan", "onnx", "--plan-files", "kept"], True),
        (["convert", "resnet20", "-o", "x.safetensors", "--costs=costs.json"], True),
        (["convert", "resnet20", "-o", "x.safetensors", "--method=sss"], True),
        (["export", "resnet20", "-o", "x.onnx"], False),
        (["export", "resnet20", "-o", "x.onnx", "--fine-tune-epochs", "2"], True),
    ],
)
def test_a_command_promises_to_go_on_where_it_left_something(
    arguments: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "make_app", lambda: fail)
    assert cli.run(arguments) == 1
    assert ("continue with the same command" in _line(capsys)) == goes_on


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GHOSTNET_DEBUG", "1")
    assert cli.run(["data", "cifar1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_while_the_command_is_loaded_is_one_line() -> None:
    code = """
import runpy, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
runpy.run_module("ghostnet", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "ghostnet: interrupted\n")
    scripts = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'ghostnet = "ghostnet.__main__:main"' in scripts


def test_a_reader_that_leaves_is_no_traceback() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m ghostnet --help | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
