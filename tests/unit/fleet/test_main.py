"""`edge-fleet` where its packages are, and where they are not."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from fleet import main


def missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let the next import of `package` fail as in an environment without it."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "fleet.cli":
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "fleet.cli", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "sqlalchemy.orm")
    with pytest.raises(SystemExit, match=r"sqlalchemy.*edge-runtime\[fleet\]"):
        main.app()


def test_a_fault_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "fleet.renamed")
    with pytest.raises(ModuleNotFoundError, match="renamed"):
        main.app()


def test_with_its_packages_it_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edge-fleet", "--help"])
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert ended.value.code == 0
    assert "rollout" in capsys.readouterr().out
