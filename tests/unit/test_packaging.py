"""What is installed is what was built, and a box gets what a box needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edge_runtime
import export_tools
import fleet

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("build", "runtime", "export", "dev", "torch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

from_wheel = pytest.mark.skipif(
    os.environ.get("EDGE_TEST_SOURCE") == "1",
    reason="EDGE_TEST_SOURCE=1: the source tree is under test, not the wheel",
)


def locked(name: str) -> dict[str, str]:
    """Return package name to exact version of one lock."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, flags=re.MULTILINE)
    return {canonicalize_name(package): version for package, version in pins}


def wanted(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for, other than the project itself."""
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    requirements = [Requirement(text) for text in texts]
    return [item for item in requirements if item.name != PROJECT["name"]]


@from_wheel
@pytest.mark.parametrize("package", [edge_runtime, export_tools, fleet])
def test_tests_import_the_installed_wheel(package: object) -> None:
    places = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    file = Path(str(package.__file__)).resolve()  # type: ignore[attr-defined]
    assert any(file.is_relative_to(place) for place in places), (
        f"{file} is not installed; run `make test`, or set EDGE_TEST_SOURCE=1 to test the source"
    )


@from_wheel
def test_the_wheel_holds_every_module_of_the_source() -> None:
    files = {str(file) for file in importlib.metadata.files("edge-runtime") or ()}
    sources = {
        str(path.relative_to(ROOT))
        for package in ("edge_runtime", "export_tools", "fleet")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources
    assert not sources - files, "the wheel is older than the source; run `make test`"


@from_wheel
@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="native operators exist for x86-64 Linux",
)
def test_the_wheel_holds_the_native_operators() -> None:
    files = {str(file) for file in importlib.metadata.files("edge-runtime") or ()}
    assert "edge_runtime/engine/native/librow.so" in files


@from_wheel
def test_the_version_is_said_once() -> None:
    assert importlib.metadata.version("edge-runtime") == edge_runtime.__version__


@from_wheel
@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_every_command_starts(command: str) -> None:
    path = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [path, "--help"], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def loaded_with(modules: str, candidates: set[str]) -> set[str]:
    """Return which of `candidates` a fresh interpreter has loaded after importing `modules`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT if os.environ.get("EDGE_TEST_SOURCE") == "1" else "/",
    )
    assert done.returncode == 0, done.stderr
    return candidates & set(done.stdout.split())


def test_loading_the_commands_needs_no_torch() -> None:
    modules = "edge_runtime.cli, export_tools.cli, fleet.cli"
    assert not loaded_with(modules, {"torch", "transformers", "optimum"})


def test_the_daemon_loads_none_of_the_tools() -> None:
    tools = {"onnx", "safetensors", "ml_dtypes", "export_tools", "fleet"}
    assert not loaded_with("edge_runtime.cli", tools)


@pytest.mark.parametrize("lock", ["runtime", "export", "dev"])
def test_no_torch_outside_the_torch_side(lock: str) -> None:
    names = set(locked(lock))
    assert "onnxruntime" in names
    assert not {name for name in names if re.match(r"torch|nvidia-|transformers|optimum", name)}


def test_a_box_installs_no_export_tools() -> None:
    assert not {"onnx", "safetensors", "ml-dtypes"} & set(locked("runtime"))


@pytest.mark.parametrize("lock", ["runtime", "export", "dev", "torch"])
def test_never_both_onnxruntimes(lock: str) -> None:
    assert "onnxruntime-gpu" not in locked(lock)
    assert PROJECT["optional-dependencies"]["cpu"] != PROJECT["optional-dependencies"]["gpu"]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("runtime", ("cpu",)),
        ("export", ("cpu", "export")),
        ("dev", ("cpu", "export", "fleet", "dev")),
        ("torch", ("cpu", "export", "train")),
    ],
)
def test_a_lock_answers_what_pyproject_asks(lock: str, extras: tuple[str, ...]) -> None:
    pins = locked(lock)
    for item in wanted(*extras):
        name = canonicalize_name(item.name)
        if name == "torch":
            continue  # each machine has its own build: installed by a step of its own
        assert name in pins, f"{item}: not in {lock}.txt; run `make lock`"
        assert item.specifier.contains(pins[name]), f"{item}: {lock}.txt has {pins[name]}"


def test_the_locks_agree_on_what_they_share() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in locked(lock).items():
            versions.setdefault(name, set()).add(version)
    assert len(versions) > 50
    assert not {name: found for name, found in versions.items() if len(found) > 1}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_no_lock_names_a_host(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked(lock))
    assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not re.search(r"://|--index-url|--extra-index|--find-links", text)


@pytest.mark.torch
@pytest.mark.skipif(Path(sys.prefix).name != ".venv-torch", reason="this is not the torch side")
def test_the_torch_side_is_whole() -> None:
    """Its tests skip what they cannot import; here a missing part is an error."""
    for name in ("torch", "transformers", "optimum", "onnx", "onnxruntime", "safetensors"):
        assert importlib.metadata.version(name)
    assert importlib.metadata.version("transformers") == locked("torch")["transformers"]
