"""`ghostnet report`: regenerate what the repository never types by hand, or check that it is fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import atomic_write


def report(
    root: Annotated[Path, typer.Option(help="The repository: README.md, results/, docs/.")] = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if something is stale.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Regenerate the README's result tables, its picture docs/demo.svg, docs/cifar10.md and docs/cli.md.

    \b
    Example:
      ghostnet report --check
    """
    readme = root / "README.md"
    if not readme.is_file():
        raise InputError(f"there is no {readme}; give the repository with --root")
    stale = {path: text for path, text in _wanted(root).items() if _current(path) != text}
    for path, text in stale.items():
        if not check:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        note(f"{path} {'is stale; run `ghostnet report`' if check else 'regenerated'}")
    names = [path.relative_to(root).as_posix() for path in stale]
    verb = "stale" if check else "regenerated"
    answer({verb: names}, as_json=as_json, text=lambda: f"{verb}: {', '.join(names) or 'nothing'}")
    if check and stale:
        raise typer.Exit(1)


def _wanted(root: Path) -> dict[Path, str]:
    from ghostnet.cli.reference import command_reference
    from ghostnet.report import (
        demo_picture,
        deploy_part,
        read_results,
        readme_part,
        readme_section,
        replace_section,
        tables_page,
    )

    readme = root / "README.md"
    results = read_results(root / "results")
    parts = [readme_section(results), readme_part(results), deploy_part(results)]
    section = "\n\n".join(part for part in parts if part)
    wanted = {
        readme: replace_section(readme.read_text(encoding="utf-8"), section),
        root / "docs" / "cli.md": command_reference(),
        root / "docs" / "cifar10.md": tables_page(results),
    }
    for _, result in results:
        if result["exhibit"] == "demo":
            wanted[root / "docs" / "demo.svg"] = demo_picture(result)
    return wanted


def _current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
