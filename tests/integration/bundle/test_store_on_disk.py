"""The store on the real disk: killed at random, shared by two processes, filled from outside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.pointers import RecoveryAction
from edge_runtime.bundle.store import Store
from edge_runtime.errors import BundleError, ConfigError
from tests.support.bundles import FakeLoader, write_tiny_bundle

# Stages, activates and reverts until it is killed, telling each commit on standard output.
SWITCHER = """
import sys
from pathlib import Path
import structlog
from edge_runtime.bundle.store import Store

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

class Loaded:
    def commit(self): pass
    def abort(self): pass

root, one, two = map(Path, sys.argv[1:])
with Store.open(root) as store:
    load = lambda directory, manifest: Loaded()
    while True:
        for source in (one, two):
            outcome = store.activate("tiny", store.stage(source), load)
            print(outcome.pointer.bundle_digest, outcome.pointer.sequence, flush=True)
            store.revert("tiny", load)
        store.garbage_collect()
"""


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    for number in (1, 2):
        write_tiny_bundle(tmp_path / str(number), version=str(number), weights=b"w" * 99 * number)
    return tmp_path / "1", tmp_path / "2"


def start(root: Path, sources: tuple[Path, Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SWITCHER, str(root), *map(str, sources)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_kill_9_leaves_one_good_bundle(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    root, rng, sequence = tmp_path / "store", random.Random(5), 0
    for _ in range(3):
        with start(root, sources) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.randint(2, 30))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines(keepends=True)
        told = int([line for line in lines if line.endswith("\n")][-1].split()[1])
        with Store.open(root) as store:
            assert [entry.action for entry in store.recovered] == [RecoveryAction.KEPT]
            pointer = store.active()["tiny"]
            assert pointer.sequence >= told > sequence
            sequence = pointer.sequence
            for digest in store.digests():
                store.verify(digest)
            assert list((root / "staging").iterdir()) == []


def test_a_second_process_is_turned_away(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    with start(tmp_path / "store", sources) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it holds the store now
            with pytest.raises(ConfigError, match="in use by another process"):
                Store.open(tmp_path / "store").__enter__()
        finally:
            process.kill()


def test_links_share_the_bytes_of_the_source(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    with Store.open(tmp_path / "store") as store:
        directory = store.directory(store.stage(sources[0], link=True))
        assert (directory / "tokenizer.json").samefile(sources[0] / "tokenizer.json")
        directory = store.directory(store.stage(sources[1]))
        assert not (directory / "tokenizer.json").samefile(sources[1] / "tokenizer.json")


def test_a_symbolic_link_in_a_source_never_leads_out(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    one, two = sources
    with Store.open(tmp_path / "store") as store:
        assert isinstance(store.activate("tiny", store.stage(one), FakeLoader()), Committed)
        before = store.active()
        (two / "tokenizer.json").unlink()
        (two / "tokenizer.json").symlink_to(one / "tokenizer.json")  # even to the same bytes
        with pytest.raises(BundleError, match=r"tokenizer\.json: is a link"):
            store.stage(two)
        assert store.active() == before
        assert len(store.digests()) == 1
