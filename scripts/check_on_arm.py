"""Run exported files on an emulated 64-bit ARM processor and compare their outputs with those of this machine.

For maintainers, on Debian with the package mmdebstrap; a few minutes, some 700 MB in the folder:

    python scripts/check_on_arm.py runs/arm --result results/arm/emulated.json

Debian's QEMU (user mode) and its Python for arm64 are unpacked into the folder, nothing is installed; the runtimes are
the aarch64 wheels of the versions that are installed here. Each process under the emulator finds numpy, one runtime and
this package's source, no torch. Emulated times mean nothing, so none is taken. A network whose output differs by more
than 1e-4 of its largest value ends the script with code 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ghostnet
from ghostnet.convert import ghostify
from ghostnet.deploy import TARGETS, export, load, randomise_statistics_
from ghostnet.deploy.compare import relative_error
from ghostnet.deploy.targets import target_named
from ghostnet.deploy.targets.target import Target
from ghostnet.errors import InputError
from ghostnet.recipes.result import write_record

SUITE = "stable"  # its QEMU is 10; the one of Debian 12 is 7.2
HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names
PYTHON = ("python3", "libgomp1", "libstdc++6", "zlib1g")  # the libraries are what the wheels link to
WHEEL_PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(17, 42)]  # Debian 13 has glibc 2.41
TOLERANCE = 1e-4
BATCH = 2
PROGRAM = """
import importlib.util, json, platform, sys
import numpy as np
import ghostnet
found = ghostnet.deploy.load(sys.argv[1], threads=1).predict(np.load(sys.argv[2]))
np.save(sys.argv[3], found)
modules = [name for name in sys.argv[4].split(",") if importlib.util.find_spec(name)]
print(json.dumps({"machine": platform.machine(), "python": platform.python_version(), "modules": modules}))
"""


def networks() -> dict[str, tuple[nn.Module, tuple[int, int, int]]]:
    """Return the networks and their input sizes: GhostNet 0.5x with random weights, a trained network converted."""
    torch.manual_seed(0)
    small = ghostnet.create_model("ghostnet_050").eval()
    randomise_statistics_(small, (3, 64, 64))
    converted, _ = ghostify(ghostnet.load("resnet9_050"), ratio=2)
    return {"ghostnet_050": (small, (3, 64, 64)), "ghost of resnet9_050": (converted.eval(), (3, 32, 32))}


def debian_tree(folder: Path, architecture: str, packages: tuple[str, ...], mirror: str) -> None:
    """Unpack Debian packages and what they depend on, without running anything of theirs; once."""
    if (folder / "usr").is_dir():
        return
    if shutil.which("mmdebstrap") is None:
        raise InputError("mmdebstrap is not installed; run: apt-get install mmdebstrap")
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--variant=extract", f"--architectures={architecture}", f"--include={','.join(packages)}"]
    source = f"deb {mirror} {SUITE} main"
    done = subprocess.run(["mmdebstrap", *options, SUITE, folder, source], capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"mmdebstrap failed: {(errors or ['no message'])[0]}; is {mirror} a mirror of Debian?"
        )
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")  # the link that a package's script would make


def usual_mirror() -> str:
    """Return the mirror of Debian that apt uses here."""
    form = ["--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    found = subprocess.run(["apt-get", "indextargets", *form], capture_output=True, text=True).stdout.split()
    plain = [address for address in found if "security" not in address]
    if not plain:
        raise InputError("apt knows no mirror of Debian; run apt-get update, or give --mirror")
    return plain[0]


def unpacked_wheel(package: str, python: str, folder: Path) -> Path:
    """Fetch the aarch64 wheel of the version that is installed here and unpack it into a folder of its own."""
    version = importlib.metadata.version(package)
    place = folder / f"{package}-{version}-py{python}"
    if place.is_dir():
        return place
    wheels = folder / "wheels" / place.name
    platforms = [word for name in WHEEL_PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", *platforms, "--dest", str(wheels)]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(f"no wheel of {package} {version} for aarch64: {(errors or ['no message'])[-1]}")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
        archive.extractall(place)
    return place


def _has_wheels(target: Target) -> bool:
    """Return whether a runtime comes as a wheel; C's is Python's own ctypes, which every process finds."""
    return target.open_module not in sys.stdlib_module_names


class Emulated:
    """An ARM machine: QEMU, Debian's Python, wheels.

    Args:
        folder: where all of it is kept.
        mirror: of Debian.
    """

    def __init__(self, folder: Path, mirror: str) -> None:
        self.folder, self.root = folder, folder / "arm64"
        debian_tree(folder / "qemu", HOSTS[platform.machine()], ("qemu-user",), mirror)
        debian_tree(self.root, "arm64", PYTHON, mirror)
        self.qemu = folder / "qemu/usr/bin/qemu-aarch64"
        self.python = next((self.root / "usr/bin").glob("python3.?*"))
        self.source = folder / "source"
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(Path(ghostnet.__file__).parent, self.source / "ghostnet")

    def version(self) -> str:
        """Return the emulator's version."""
        done = subprocess.run([self.qemu, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def predict(self, target: str, path: Path, images: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Run an exported file there; return its output and what the process said of itself."""
        version = self.python.name.removeprefix("python")
        packages = ("numpy", TARGETS[target].package)
        places = [self.source, *(unpacked_wheel(name, version, self.folder) for name in packages)]
        others = ",".join(["torch", *(other.open_module for other in TARGETS.values() if _has_wheels(other))])
        answer = path.with_suffix(".arm.npy")
        command = [self.qemu, "-L", self.root, "-E", f"PYTHONPATH={':'.join(map(str, places))}"]
        command += [self.python, "-B", "-c", PROGRAM, path, images, answer, others]
        done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"})
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{path.name} fails on emulated ARM (code {done.returncode}): {last}")
        said = json.loads(done.stdout.splitlines()[-1])
        expected = {"machine": "aarch64", "modules": [TARGETS[target].open_module]}
        if {key: said[key] for key in expected} != expected:
            raise RuntimeError(f"the process is not what it should be: {said}")
        return np.load(answer), said


def compared(
    machine: Emulated, name: str, model: nn.Module, size: tuple[int, ...], target: str
) -> dict[str, Any]:
    """Export a network, run the file here and there, and return the differences."""
    folder = machine.folder / "files"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace(' ', '_')}-{target}{TARGETS[target].suffixes[0]}"
    export(model, target, path, input_size=size, force=True)
    images = np.random.default_rng(0).standard_normal((BATCH, *size), dtype=np.float32)
    np.save(path.with_suffix(".images.npy"), images)
    here = torch.from_numpy(load(path, threads=1).predict(images))
    found, said = machine.predict(target, path, path.with_suffix(".images.npy"))
    there = torch.from_numpy(found)
    with torch.no_grad():
        eager = model(torch.from_numpy(images))
    return {
        "network": name,
        "runtime": target,
        "version": importlib.metadata.version(TARGETS[target].package),
        "input_size": list(size),
        "against_here": relative_error(here, there),
        "against_pytorch": relative_error(eager, there),
        **said,
    }


def main() -> None:
    """Compare all networks in all runtimes, print a line for each, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps the emulator, the root file system and the wheels")
    parser.add_argument("--runtimes", default="onnx,ncnn,mnn", help="with commas")
    parser.add_argument("--mirror", help="of Debian; default: the one that apt uses here")
    parser.add_argument("--result", type=Path, help="also write a record")
    given = parser.parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        runtimes = [target_named(name).name for name in given.runtimes.split(",")]
        if not all(_has_wheels(TARGETS[name]) for name in runtimes):
            raise InputError(
                "a C file is compiled for a processor, not run by a wheel; use scripts/check_c_elsewhere.py"
            )
        machine = Emulated(given.folder.resolve(), given.mirror or usual_mirror())
        rows = []
        for name, (model, size) in networks().items():
            for target in runtimes:
                rows.append(compared(machine, name, model, size, target))
                print(
                    "{network}, {runtime} {version} on {machine}: largest relative difference".format(
                        **rows[-1]
                    )
                )
                print(
                    "  {against_here:.1e} to this machine, {against_pytorch:.1e} to PyTorch".format(
                        **rows[-1]
                    )
                )
    except InputError as error:
        sys.exit(f"error: {error}")
    worst = max(max(row["against_here"], row["against_pytorch"]) for row in rows)
    metrics = {"rows": rows, "qemu": machine.version(), "tolerance": TOLERANCE, "batch": BATCH}
    if given.result:
        write_record(
            given.result,
            metrics,
            seconds=time.monotonic() - started,
            recipe={"name": "check_on_arm"},
            more={"command": " ".join(["python scripts/check_on_arm.py", *sys.argv[1:]])},
        )
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
