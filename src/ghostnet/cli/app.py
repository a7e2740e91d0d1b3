"""The command's frame: its verbs, and how every ending becomes an exit code and at most one line on stderr.

0 is done, 1 failed (disk, network, interrupt, a fault of ours), 2 bad input. `GHOSTNET_DEBUG=1` shows the
traceback. No verb imports torch before it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

import typer

import ghostnet
from ghostnet.cli.bench import bench
from ghostnet.cli.convert import convert
from ghostnet.cli.data import data
from ghostnet.cli.demo import demo
from ghostnet.cli.detect import detect
from ghostnet.cli.evaluate import evaluate
from ghostnet.cli.export import export
from ghostnet.cli.features import features
from ghostnet.cli.models import models
from ghostnet.cli.predict import predict
from ghostnet.cli.profile import profile
from ghostnet.cli.report import report
from ghostnet.cli.reproduce import reproduce
from ghostnet.cli.train import train
from ghostnet.errors import InputError, unknown_name

VERBS: dict[str, Callable[..., None] | typer.Typer] = {
    "models": models,
    "profile": profile,
    "convert": convert,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "bench": bench,
    "features": features,
    "reproduce": reproduce,
    "data": data,
    "demo": demo,
    "report": report,
    "detect": detect,
}
# Newer releases of typer carry their own copy of click, so its error class is reached through typer's own.
_INTERRUPTED = 130  # what typer makes of Ctrl-C
# leave on disk what goes on; of the others, those that are given one of these
_KEEPING = ("train", "reproduce", "data", "demo", "detect train")
_KEEPING_IF = {"convert": ("--plan-files", "--costs", "sss"), "export": ("--fine-tune-epochs",)}
_WRONG_PLACES = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]


def make_app() -> typer.Typer:
    """Return the application with every verb."""
    app = typer.Typer(
        name="ghostnet",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for name, function in VERBS.items():
        if isinstance(function, typer.Typer):
            app.add_typer(function, name=name)
        else:
            app.command(name)(function)
    return app


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Turn a trained CNN into a Ghost network that is measurably faster.

    \b
    Example:
      ghostnet demo
      ghostnet convert resnet20 --weights model.safetensors -o ghost.safetensors
    """
    if version:
        print(ghostnet.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name; None takes them from `sys.argv`.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input.

    Example:
        >>> run(["--version"])
        0.1.0
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_unknown_verb(given)
        code = make_app()(args=given, prog_name="ghostnet", standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        return _fail(f"interrupted{'; continue with the same command' if _goes_on(given) else ''}", 1)
    except typer.Exit as stop:
        return stop.exit_code
    except InputError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the reader left; nothing may write to the pipe at exit)
        return 1
    except _WRONG_PLACES as error:
        return _fail(f"{_describe(error)}; name another place", 2)
    except OSError as error:
        return _fail(_describe(error), 1)
    except Exception as error:
        if isinstance(error, _USAGE_ERROR):
            return _fail(_usage_line(error), 2)
        return _fail(f"{type(error).__name__}: {error} (GHOSTNET_DEBUG=1 shows where)", 1)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        # what the terminal cannot write must not end a command that is done; other ways than "strict" never do
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    if os.environ.get("WORLD_SIZE", "1") == "1":  # torchrun means it: its processes wait for one that is gone
        signal.signal(signal.SIGTERM, _stop)
    sys.exit(run())


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Take SIGTERM, the end that containers and queues announce, for a Ctrl-C: nothing half-written stays."""
    raise KeyboardInterrupt


def _goes_on(arguments: Sequence[str]) -> bool:
    """Whether an interrupted command left on disk what the same command goes on with."""
    words = {word.partition("=")[0] for word in arguments} | {word.partition("=")[2] for word in arguments}
    return " ".join(arguments).startswith(_KEEPING) or any(
        word in words for word in _KEEPING_IF.get(next(iter(arguments), ""), ())
    )


def _refuse_unknown_verb(arguments: Sequence[str]) -> None:
    first = arguments[0] if arguments else ""
    if first and not first.startswith("-") and first not in VERBS:
        raise unknown_name("command", first, VERBS)


def _usage_line(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "ghostnet"
    return f"{message} Try `{where} --help`."


def _describe(error: OSError) -> str:
    if error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _fail(message: str, code: int) -> int:
    if os.environ.get("GHOSTNET_DEBUG") == "1":
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"ghostnet: {line}", file=sys.stderr)
    return code
