"""Where the files of an export will lie, settled before any work: free, writable, and nobody else's."""

from __future__ import annotations

from pathlib import Path

from ghostnet.deploy.manifest import manifest_path
from ghostnet.deploy.targets import TARGETS, Target
from ghostnet.deploy.targets.target import files_of
from ghostnet.errors import InputError
from ghostnet.files import refuse_nameless, refuse_overwrite


def places_for(target: Target, path: Path, *, force: bool) -> list[Path]:
    """Return every file that an export to `path` writes but the manifest, the named one first.

    Args:
        target: the runtime.
        path: what the user named.
        force: files of an earlier export to the same place may be replaced.

    Raises:
        InputError: the ending of another target, something there, no right to write, or a file that an export
            for another runtime needs too (net.xml and net.param both keep their weights in net.bin).
    """
    refuse_nameless(path)
    for other in TARGETS.values():
        if path.suffix.lower() == other.suffixes[0] and other.name != target.name:
            raise InputError(
                f"{path} must end in {target.suffixes[0]} for {target.runtime}, {path.suffix} is {other.runtime}'s; "
                f"use {path.with_suffix(target.suffixes[0])}"
            )
    files = files_of(target, path)
    for other in TARGETS.values():
        shared = set(other.suffixes[1:]).intersection(target.suffixes[1:])
        neighbour = path.with_suffix(other.suffixes[0])
        if other.name != target.name and shared and neighbour.exists():
            raise InputError(
                f"{path.with_suffix(shared.pop())} belongs to {neighbour}, which would be lost; name another file"
            )
    for file in (*files, manifest_path(path)):
        refuse_overwrite(file, force=force, folders=target.writes_folder)
    return files
