"""Networks of one's own code by name: "nets.py:Net(num_classes=5)" or "package.module:build".

That code runs because the user names it, on the command line or in a recipe: nothing here is called with a name that a
file of weights holds.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from ghostnet.errors import InputError, first_line, unknown_name

_NAME = re.compile(
    r"(?P<place>.+?\.py|[A-Za-z_]\w*(?:\.\w+)*):(?P<attribute>[A-Za-z_][\w.]*)(?P<rest>.*)", re.DOTALL
)
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class OwnCode:
    """What builds a network of one's own.

    Attributes:
        place: a Python file, or a module's dotted name.
        attribute: a class or function in it, or a network; dotted for one inside another.
        args: plain values that it is called with.
        kwargs: the same, by name.
        called: arguments were given, be there none between the parentheses.
    """

    place: str
    attribute: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    called: bool = False


def split_own_code(name: str) -> tuple[str, str] | None:
    """Return what builds the network, and what stands behind it ("=weights.pth"); None where nothing is named so.

    Raises:
        InputError: parentheses that do not close.

    Example:
        >>> split_own_code("nets.py:Net(depth=18)=mine.pth"), split_own_code("resnet56")
        (('nets.py:Net(depth=18)', '=mine.pth'), None)
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    rest = found["rest"]
    if rest[:1] not in ("", "(", "="):
        return None
    if not rest.startswith("("):
        return name.removesuffix(rest), rest
    for end in (match.end() for match in re.finditer(r"\)", rest)):
        with contextlib.suppress(SyntaxError):
            ast.parse(f"f{rest[:end]}", mode="eval")
            return name[: found.end("attribute") + end], rest[end:]
    raise InputError(f"{name!r}: the arguments in parentheses are no Python, such as Net(5, depth=18)")


def read_own_code(builder: str) -> OwnCode | None:
    """Take "nets.py:Net(num_classes=5)" apart; None where a text names no code.

    Raises:
        InputError: arguments that are no plain values.

    Example:
        >>> read_own_code("nets.py:Net(5, depth=18)").kwargs
        {'depth': 18}
    """
    split = split_own_code(builder)
    found = _NAME.fullmatch(builder)
    if split is None or found is None or split[1]:
        return None
    if not found["rest"]:
        return OwnCode(found["place"], found["attribute"])
    call = ast.parse(f"f{found['rest']}", mode="eval").body
    assert isinstance(call, ast.Call)
    try:
        args = tuple(ast.literal_eval(value) for value in call.args)
        kwargs = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        if None in kwargs:
            raise ValueError("**")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{builder!r}: arguments must be plain values, such as 5, 'same', True or (1, 2); for others write a "
            "function without arguments that builds the network, and name it"
        ) from error
    named = {str(word): value for word, value in kwargs.items()}
    return OwnCode(found["place"], found["attribute"], args, named, called=True)


def build_own(builder: str) -> nn.Module:
    """Run code that builds a network; a network that a module holds is copied.

    Args:
        builder: "FILE.py:NAME" or "package.module:NAME", modules being looked for here first; with arguments that are
            plain values in parentheses, where it takes some.

    Raises:
        InputError: no such file, module or name, code that fails (its file and line are named), or no network.
    """
    code = read_own_code(builder)
    if code is None:
        raise InputError(f"{builder!r} names no code; write FILE.py:NAME or package.module:NAME")
    with _folder_first(_folder_of(code.place)):
        module = _ran(code.place, lambda: _module(code.place))
        made = _attribute(module, code)
        if not isinstance(made, nn.Module):
            made = _called(made, code)
        elif code.called:
            raise InputError(
                f"{code.attribute} in {code.place} is a network already; leave out the parentheses"
            )
        else:
            made = copy.deepcopy(made)
    if not isinstance(made, nn.Module):
        raise InputError(f"{builder} gives {_an(type(made).__name__)}, not a network (torch.nn.Module)")
    return made


def _called(build: Any, code: OwnCode) -> Any:
    """Call what builds the network, arguments that do not fit being told as such."""
    named = f"{code.place}:{code.attribute}"
    if not callable(build):
        raise InputError(
            f"{named} is {_an(type(build).__name__)}; name a class or function that gives a network"
        )
    try:
        signature = inspect.signature(build)
    except ValueError:  # some callables tell none
        signature = None
    if signature is not None:
        try:
            signature.bind(*code.args, **code.kwargs)
        except TypeError as error:
            takes = ", ".join(signature.parameters)
            raise InputError(f"{named} takes ({takes}): {error}; give values so: {named}(…)") from error
    return _ran(code.place, lambda: build(*code.args, **code.kwargs))


def _attribute(module: ModuleType, code: OwnCode) -> Any:
    found: Any = module
    for part in code.attribute.split("."):
        if not hasattr(found, part):
            raise unknown_name(f"name in {code.place}", part, _offered(found))
        found = getattr(found, part)
    return found


def _offered(holder: Any) -> list[str]:
    """Return what a user may have meant: classes and functions, those from elsewhere apart where it is a module."""
    home = getattr(holder, "__name__", None)
    return [
        name
        for name, value in getattr(holder, "__dict__", {}).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == home))
    ]


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().resolve()
    name = path.stem
    if getattr(sys.modules.get(name), "__file__", None) != str(path) and _is_taken(name, str(path.parent)):
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_taken(name: str, folder: str) -> bool:
    """Tell whether other code is, or would be, imported under a file's name: `onnx.py` is not to replace onnx."""
    others = [place for place in sys.path if str(Path(place).resolve()) != folder]  # "" is where one is
    return name in sys.modules or importlib.machinery.PathFinder.find_spec(name, others) is not None


def _folder_of(place: str) -> str:
    """Return the folder in which modules are looked for first, as `python FILE.py` and `python -m` do.

    Raises:
        InputError: there is no such file.
    """
    if not place.endswith(".py"):
        return str(Path.cwd())
    path = Path(place).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {place}")
    return str(path.resolve().parent)


@contextlib.contextmanager
def _folder_first(folder: str) -> Iterator[None]:
    """Look for modules in a folder first, and last from then on: code may import more when it is used."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _ran(place: str, run: Callable[[], _Made]) -> _Made:
    """Return what code of the user's gives; what it raises becomes one line with its place."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no answer of a command's
            return run()
    except InputError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise InputError(
                f"there is no module {error.name}, here or where Python looks for packages"
            ) from error
        raise InputError(f"{_where(place, error)}: {first_line(error)}") from error
    except SystemExit as error:
        raise InputError(
            f"{_where(place, error)} ends the program; what the file does as a script belongs under "
            'if __name__ == "__main__":'
        ) from error
    except Exception as error:
        reason = (
            error.msg if isinstance(error, SyntaxError) else first_line(error)
        )  # else with the place once more
        told = f"{_where(place, error)}: {type(error).__name__}: {reason}"
        if "relative import" in told:
            told += "; name its package: package.module:NAME"
        raise InputError(told) from error


def _where(place: str, error: BaseException) -> str:
    """Return file and line of the user's own that an error came through last."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}, line {error.lineno}"
    last = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename
    ]
    own = [frame for frame in frames if Path(frame.filename).stem == last] or frames
    return f"{os.path.basename(own[-1].filename)}, line {own[-1].lineno}" if own else place


def _an(kind: str) -> str:
    return f"an {kind}" if kind[:1].lower() in "aeiou" else f"a {kind}"
