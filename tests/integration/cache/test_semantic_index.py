"""Large partitions of the semantic cache: their index, and its file after a restart."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge_runtime.cache.semantic import partitions
from edge_runtime.cache.semantic.contract import (
    SemanticHit,
)
from edge_runtime.cache.semantic.partitions import Partitions
from edge_runtime.cache.semantic.store import SemanticStore
from tests.support.semantic import WORDS, Clock, ask, is_hit, keep, opened


class TestIndex:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partitions, "SMALL", 10)

    def filled(self, path: Path, clock: Clock) -> SemanticStore:
        store = opened(path, clock)
        for first in WORDS:
            for second in WORDS[:3]:
                keep(store, f"what is the {first} of {second}")
        return store

    def index_files(self, path: Path) -> list[Path]:
        return sorted(path.with_name(path.name + ".index").glob("*.usearch"))

    def test_a_large_partition_is_found_by_its_index(self, path: Path, clock: Clock) -> None:
        store = self.filled(path, clock)
        assert len(store._partitions._indexes) == 1
        hit = ask(store, "tell me what is the refund of balance")
        assert isinstance(hit, SemanticHit)
        assert hit.question == "what is the refund of balance"
        assert store.purge(key=hit.entry) == 1
        gone = ask(store, "tell me what is the refund of balance")
        assert not isinstance(gone, SemanticHit) or gone.entry != hit.entry
        store.close()

    @pytest.mark.parametrize("harm", ["none", "missing", "damaged", "behind"])
    def test_a_file_is_used_only_if_it_is_right(
        self, path: Path, clock: Clock, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.filled(path, clock).close()
        (file,) = self.index_files(path)
        if harm == "missing":
            file.unlink()
        elif harm == "damaged":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(bytes(data))
        elif harm == "behind":
            other = sqlite3.connect(path)
            other.execute("DELETE FROM entries WHERE text = 'what is the refund of balance'")
            other.commit()
            other.close()
        made: list[bytes] = []
        make = Partitions._make
        monkeypatch.setattr(
            Partitions,
            "_make",
            staticmethod(
                lambda connection, one, epoch: made.append(one) or make(connection, one, epoch)
            ),
        )
        store = opened(path, clock)
        assert len(made) == (0 if harm == "none" else 1)
        assert is_hit(ask(store, "tell me what is the limit of transfer"))
        found = ask(store, "tell me what is the refund of balance")
        exact = isinstance(found, SemanticHit) and found.question == "what is the refund of balance"
        assert exact == (harm != "behind")
        store.close()

    def test_purging_most_of_a_partition_drops_its_index(self, path: Path, clock: Clock) -> None:
        store = self.filled(path, clock)
        assert store.purge(tenant="t") == 24
        assert not store._partitions._indexes
        assert keep(store, "what is my balance")
        assert is_hit(ask(store, "what is my balance"))
        store.close()
        assert not self.index_files(path)

    def test_an_epoch_or_an_eviction_reaches_the_index(self, path: Path, clock: Clock) -> None:
        self.filled(path, clock).close()
        store = opened(path, clock, max_entries=12)
        assert store.size().entries == 12
        assert len(next(iter(store._partitions._indexes.values()))) == 12
        keep(store, "what is my balance of today")
        keep(store, "what is the passcode of refund")
        assert store.size().entries == 12
        store.new_epoch()
        assert not is_hit(ask(store, "what is the limit of transfer"))
        store.close()
