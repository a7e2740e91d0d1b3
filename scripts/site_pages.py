"""Pages of the documentation site that are made while it is built: one a command, one a room of the API.

A hook of MkDocs (see mkdocs.yml). A command's page is its `--help`; a room's page names what its `__all__` names, and
mkdocstrings fills in the docstrings. Result records that pages link to are copied into the site.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

import ghostnet
from ghostnet.cli.reference import command_reference

ROOT = Path(__file__).parents[1]


class RunnableExamples(griffe.Extension):
    """Show what stands under "Example:" in a docstring as code; Griffe itself knows "Examples:" alone."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rename the section of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:\s*$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )


def command_pages() -> dict[str, str]:
    """Return Markdown by path, from the sections of docs/cli.md."""
    sections = re.split(r"^## ", command_reference(), flags=re.MULTILINE)[1:]
    pages = {}
    for section in sections:
        title, _, body = section.partition("\n")
        name = "-".join(title.split()[1:]) or title  # "ghostnet detect train" is not "ghostnet train"
        pages[f"commands/{name}.md"] = f"# {title}\n{body}"
    return pages


def rooms() -> list[str]:
    """Return the public modules, the package itself first."""
    named = [name for name in ghostnet.__all__ if inspect.ismodule(getattr(ghostnet, name))]
    return ["ghostnet", *(f"ghostnet.{name}" for name in named), "ghostnet.measure.features"]


def public_names(room: str) -> list[str]:
    """Return the dotted names that a room's page documents: its `__all__`, without modules that have pages."""
    module = importlib.import_module(room)
    pages = set(rooms())
    return [f"{room}.{name}" for name in module.__all__ if f"{room}.{name}" not in pages]


def api_pages() -> dict[str, str]:
    """Return Markdown by path: a heading, the room's own docstring, and a directive for each public name."""
    pages = {}
    for room in rooms():
        module = importlib.import_module(room)
        parts = [f"# {room}", inspect.getdoc(module) or ""]
        for name in public_names(room):
            value = getattr(module, name.rpartition(".")[2])
            members = "\n    options:\n      members: false" if inspect.ismodule(value) else ""
            parts.append(f"::: {name}{members}")
        pages[f"api/{room}.md"] = "\n\n".join(parts) + "\n"
    return pages


def on_config(config: Any) -> Any:
    """Add the made pages to the navigation."""
    commands = [{Path(path).stem: path} for path in command_pages() if path != "commands/ghostnet.md"]
    config["nav"] += [
        {"Commands": [{"ghostnet": "commands/ghostnet.md"}, *commands]},
        {"API": [{room: f"api/{room}.md"} for room in rooms()]},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the made pages, and the records."""
    for path, text in {**command_pages(), **api_pages()}.items():
        files.append(File.generated(config, path, content=text))
    for record in sorted((ROOT / "results").glob("*/*.json")):
        name = f"results/{record.relative_to(ROOT / 'results').as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(record)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to records, which lie beside docs/ in the repository, into the site."""
    return markdown.replace("](../results/", "](results/")
