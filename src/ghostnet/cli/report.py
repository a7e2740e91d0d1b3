"""`ghostnet report`: regenerate what the repository never types by hand, or check that it is fresh."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import atomic_write, refuse_overwrite


def report(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="The repository: README.md, results/, docs/.")] = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if something is stale.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="The page of all tables and figures. Default: runs/report.html in the repository."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Make the page from this folder alone; no repository is needed or changed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file that --page names.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Regenerate the README's table, docs/'s tables and plots (Figures 6 and 7), and make one page of all results.

    The page holds every table and figure, the paper's numbers beside ours, in one HTML file that needs no network. A
    record that cannot be read is named in one line, the rest is reported, and the exit code is 1. Works without torch.

    \b
    Example:
      ghostnet report
      ghostnet report --check
      ghostnet report --results results --page report.html
    """
    _refuse_places(root, page, results, check=check, force=force)
    refuse_idle(context, (page is not None, "a page elsewhere, with --page FILE", ("force",)))
    problems: list[str] = []
    folder = results or root / "results"
    found = _read(folder, problems)
    stale: dict[Path, str] = {}
    if results is None:
        found = _usable(root, found, folder, problems)
        stale = _stale(root, found)
    for path, text in stale.items():
        if not check:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        note(f"{path} {'is stale; run `ghostnet report`' if check else 'regenerated'}")
    names = [path.relative_to(root).as_posix() for path in stale]
    verb = "stale" if check else "regenerated"
    value: dict[str, Any] = {verb: names}
    if not check:
        value["page"] = _write_page(found, folder, page or root / "runs/report.html", problems)
    if problems:
        value["problems"] = problems
    answer(value, as_json=as_json, text=lambda: _lines(value, verb))
    if (check and stale) or problems:
        raise typer.Exit(1)


def _refuse_places(root: Path, page: Path | None, results: Path | None, *, check: bool, force: bool) -> None:
    """Raise where something is asked for that is not there, or that is there and would be replaced."""
    readme = root / "README.md"
    if check and (page is not None or results is not None):
        raise InputError("--check looks at a repository's documents; leave out --page and --results")
    if results is None and not readme.is_file():
        raise InputError(
            f"there is no {readme}; give the repository with --root, or results alone with --results"
        )
    if results is not None and not results.is_dir():
        raise InputError(f"there is no folder {results}")
    if page is not None:
        refuse_overwrite(page, force=force)


def _lines(value: dict[str, Any], verb: str) -> str:
    lines = [f"{verb}: {', '.join(value[verb]) or 'nothing'}"]
    if "page" in value:
        lines.append(f"page: {value['page']}")
    return "\n".join(lines)


def _read(folder: Path, problems: list[str]) -> list[Any]:
    """Read all records; what cannot be read is noted in one line each."""
    from ghostnet.report import read_results

    def noted(error: InputError) -> None:
        problems.append(str(error))
        note(f"not reported: {error}")

    return read_results(folder, on_error=noted)


def _usable(root: Path, found: list[Any], folder: Path, problems: list[str]) -> list[Any]:
    """Return the records that the documents can be made of; each other one is noted in one line."""
    from ghostnet.report import usable_records

    def noted(line: str) -> None:
        problems.append(line)
        note(f"not reported: {line}")

    return list(usable_records(found, partial(_documents, root), folder=folder, on_error=noted))


def _write_page(found: list[Any], folder: Path, path: Path, problems: list[str]) -> str:
    from ghostnet.report import exhibits_page

    text, more = exhibits_page(found, folder, problems)
    for line in more:
        note(f"not reported: {line}")
    problems += more
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return str(path)


def _stale(root: Path, found: list[Any]) -> dict[Path, str]:
    from ghostnet.cli.reference import command_reference

    wanted = {**_documents(root, found), root / "docs" / "cli.md": command_reference()}
    return {path: text for path, text in wanted.items() if _current(path) != text}


def _documents(root: Path, results: Any) -> dict[Path, str]:
    """Return what is made of records, by its place."""
    from ghostnet.report import (
        FIGURES,
        demo_picture,
        deploy_part,
        detection_section,
        discrepancies_page,
        figure_file,
        headline,
        replace_section,
        results_page,
        tables_page,
    )

    readme = root / "README.md"
    wanted = {
        readme: replace_section(readme.read_text(encoding="utf-8"), headline(results)),
        root / "docs" / "results.md": results_page(results),
        root / "docs" / "cifar10.md": tables_page(results),
        root / "docs" / "paper_against_computed.md": discrepancies_page(results),
    }
    for name, part in (
        ("detection.md", detection_section(results)),
        ("deploy.md", deploy_part(results, "../results")),
    ):
        page = root / "docs" / name
        if page.is_file():
            wanted[page] = replace_section(page.read_text(encoding="utf-8"), part)
    wanted |= {root / "docs" / f"{key}.svg": figure_file(key, results) for key in FIGURES}
    for _, result in results:
        if result["exhibit"] == "demo":
            wanted[root / "docs" / "demo.svg"] = demo_picture(result)
    return wanted


def _current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
