"""The law of docs/architecture.md: which room may import which, what is optional, how a file looks."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ghostnet

PACKAGE = Path(ghostnet.__file__).parent
FLOOR = {"errors", "files", "download", "progress", "quiet", "openvino_core", "knapsack", "bfloat16"}
FLOOR |= {"modes", "checks", "array_pickle", "columns", "hooks", "image_facts"}
LAW: dict[str, set[str]] = {
    "paper": set(),
    "nn": set(),
    "models": {"nn"},
    "measure": set(),
    "convert": {"nn", "measure"},
    "data": set(),
    "train": {"data", "measure"},
    "detect": {"nn", "models", "data", "train"},
    "deploy": {"nn", "measure"},
    "recipes": {"nn", "models", "measure", "convert", "data", "train", "detect", "deploy"},
    "report": {"paper"},
}
LAW["cli"] = set(LAW)  # sits on top of all
OPTIONAL = {"onnx", "onnxscript", "onnxruntime", "timm", "torch_pruning", "openvino", "ncnn", "litert_torch"}
OPTIONAL |= {"tensorboard", "nncf", "MNN", "coremltools", "executorch", "ai_edge_litert", "ai_edge_quantizer"}
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 500


def _room(path: Path) -> str:
    """The room of a file; "" for the package's own `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def _imports(nodes: list[ast.stmt] | ast.AST, package: tuple[str, ...]) -> set[str]:
    """Absolute dotted names imported in `nodes`; `from ghostnet import nn` counts as `ghostnet.nn`."""
    found: set[str] = set()
    roots = nodes if isinstance(nodes, list) else [nodes]
    for node in (inner for root in roots for inner in ast.walk(root)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _package_of(path: Path) -> tuple[str, ...]:
    return ("ghostnet", *path.relative_to(PACKAGE).parent.parts)


def _rooms_imported(names: set[str]) -> set[str]:
    rooms = {name.split(".")[1] for name in names if name.startswith("ghostnet.")}
    return {room for room in rooms if room in LAW or room in FLOOR}


def _run_at_import(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run when the module is imported: no function bodies, no TYPE_CHECKING blocks."""
    statements: list[ast.stmt] = []
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        nested = [
            child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
        ]
        if nested:
            for child in nested:
                pending += child.body if isinstance(child, ast.ExceptHandler) else [child]
        else:
            statements.append(node)
    return statements


def test_the_walk_sees_the_package():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(LAW)
    assert len(MODULES) >= 30
    assert {path.stem for path in PACKAGE.glob("*.py")} <= FLOOR | {"__init__", "__main__"}


def test_the_walk_reads_every_form_of_import():
    source = "import ghostnet.nn\nfrom ghostnet import data\nfrom ghostnet.models.vgg import x\n"
    source += "from ..train import y\n"
    names = _imports(ast.parse(source), ("ghostnet", "cli"))
    assert _rooms_imported(names) == {"nn", "data", "models", "train"}
    tree = ast.parse("try:\n    import onnx\nexcept ImportError:\n    pass\ndef f():\n    import timm\n")
    assert _imports(_run_at_import(tree), ()) == {"onnx"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_obey_the_law(path):
    room = _room(path)
    if room in ("", "__main__"):
        return  # the public door names rooms, but loads them only on first use (tested below)
    imported = _rooms_imported(_imports(ast.parse(path.read_text(encoding="utf-8")), _package_of(path)))
    allowed = FLOOR if room in FLOOR else LAW[room] | FLOOR | {room}
    assert imported <= allowed, f"{room} may not import {sorted(imported - allowed)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_documented_and_free_of_optional_imports(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file starts with a docstring"
    assert text.count("\n") <= MAX_LINES
    assert not {"utils", "common", "misc", "helpers", "util"} & set(
        path.relative_to(PACKAGE).with_suffix("").parts
    )
    tops = {name.split(".")[0] for name in _imports(_run_at_import(tree), _package_of(path))}
    assert not tops & OPTIONAL, "an optional dependency is imported inside the function that needs it"
    if _room(path) in ("report", "paper"):
        assert "torch" not in tops


def _loaded(code: str, watched: str) -> str:
    program = f"import sys; {code}; print(sorted({watched} & set(sys.modules)))"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_ghostnet_loads_no_torch():
    assert _loaded("import ghostnet", "{'torch', 'numpy', 'torchvision', 'matplotlib'}") == "[]"


def test_counting_macs_does_not_load_pytorchs_compiler():
    """It takes seconds, and PyTorch loads it for any mode that does not say that it need not."""
    code = "import ghostnet; ghostnet.profile(ghostnet.create_model('resnet20'), (3, 8, 8))"
    assert _loaded(code, "{'torch._dynamo'}") == "[]"


def test_the_probe_would_notice_torch():
    assert _loaded("import ghostnet; ghostnet.nn", "{'torch'}") == "['torch']"


def test_rooms_load_without_optional_dependencies():
    rooms = ", ".join(f"ghostnet.{room}" for room in LAW)
    assert _loaded(f"import {rooms}", repr(OPTIONAL - {"onnxscript"})) == "[]"


def _names_of_the_package(path: Path) -> list[tuple[str, str]]:
    """The module and the name of each `from ghostnet... import name` in a file, wherever in it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ghostnet"
        for alias in node.names
    ]


def test_tests_find_what_they_import_also_where_they_are_skipped():
    """Files for runtimes that are seldom installed are skipped before their imports run."""
    found = [
        (path.name, module, name)
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for module, name in _names_of_the_package(path)
    ]
    assert len(found) > 500
    assert {"test_deploy_coreml.py", "test_deploy_executorch.py"} <= {path for path, _, _ in found}
    missing = [
        (path, module, name)
        for path, module, name in found
        if not hasattr(importlib.import_module(module), name)
        and importlib.util.find_spec(f"{module}.{name}") is None
    ]
    assert missing == []
