"""Runs the packed decoder graph over KV slots.

The KV of all slots lies in one buffer a layer, float32 [slots, kv_heads, capacity, head_dim],
bound as `past_key_values` and `present` at once: the operator writes new tokens in place and
nothing is copied. A run over a range of slots binds that range of the buffers.

Capacity is `max_len + max_chunk`: the attention operator wants room for a whole padded chunk
behind the cached tokens. Pages that no token has reached cost no memory.

One thread owns a session.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge_runtime.bundle.manifest import DecoderGraph
from edge_runtime.core import FloatArray, StepPlan
from edge_runtime.engine.packing import PackedRun, pack_step
from edge_runtime.engine.session import engine_errors, make_session
from edge_runtime.errors import BundleError

_STEP_INPUTS = (
    "input_ids",
    "pad_index",
    "unpad_index",
    "query_seqlens",
    "seqlens_k",
    "total_len",
    "logits_index",
)


class DecoderSession:
    """A `DecoderModel` over one graph of a bundle."""

    def __init__(
        self,
        graph: Path,
        contract: DecoderGraph,
        *,
        slots: int,
        max_len: int,
        max_chunk: int,
        threads: int,
        spinning: bool = False,
        native: bool = False,
    ) -> None:
        """Load the graph and reserve its slots.

        Raises `BundleError` when the graph does not keep its contract, `EngineError` when the
        machine cannot load it. Costs address space for every slot, memory only for used ones.
        """
        self._contract = contract
        self._slots = slots
        self._max_len = max_len
        self._max_chunk = max_chunk
        self._session = make_session(graph, threads=threads, spinning=spinning, native=native)
        self._check_contract(graph)
        properties = self._session.get_modelmeta().custom_metadata_map
        self._padded = properties.get("attention") != "packed"
        shape = (slots, contract.kv_heads, max_len + max_chunk, contract.head_dim)
        self._kv: list[FloatArray] = [
            np.zeros(shape, np.float32) for _ in range(2 * contract.layers)
        ]
        self._logits = np.empty((slots, contract.vocab_size), np.float32)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    @property
    def slots(self) -> int:
        """Number of KV slots."""
        return self._slots

    @property
    def max_len(self) -> int:
        """Longest sequence (prompt and answer) a slot holds, in tokens."""
        return self._max_len

    @property
    def max_chunk(self) -> int:
        """Most tokens one row may bring in one step."""
        return self._max_chunk

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._contract.vocab_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory one cached token takes over all layers."""
        contract = self._contract
        return 2 * contract.layers * contract.kv_heads * contract.head_dim * 4

    def step(self, plan: StepPlan) -> FloatArray:
        """Run one step; see `DecoderModel.step`. Raises `EngineError` when a run fails."""
        for row in plan.rows:
            if row.new_len > self._max_chunk or row.cached_len + row.new_len > self._max_len:
                raise ValueError(
                    f"slot {row.slot}: {row.cached_len} cached + {row.new_len} new tokens do not "
                    f"fit a slot of {self._max_len} with chunks of {self._max_chunk}"
                )
        total = sum(row.wants_logits for row in plan.rows)
        runs = pack_step(plan.rows, padded=self._padded)
        if len(runs) == 1 and list(runs[0].logits_rows) == list(range(total)):
            self._run(runs[0], self._logits[:total])
            return self._logits[:total]
        for run in runs:
            part = np.empty((len(run.logits_rows), self.vocab_size), np.float32)
            self._run(run, part)
            self._logits[list(run.logits_rows)] = part
        return self._logits[:total]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of KV from one slot to another."""
        for buffer in self._kv:
            buffer[target, :, :length] = buffer[source, :, :length]

    def _run(self, run: PackedRun, logits: FloatArray) -> None:
        binding = self._binding(run.first, run.slot_count)
        for name in _STEP_INPUTS:
            binding.bind_cpu_input(name, getattr(run, name))
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        with engine_errors("decoder step"):
            self._session.run_with_iobinding(binding)

    def _binding(self, first: int, count: int) -> ort.IOBinding:
        """The binding of a range of slots, made once: KV in and out are the same memory."""
        key = (first, count)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._session.io_binding()
            for index, buffer in enumerate(self._kv):
                name = f"{index // 2}.{'value' if index % 2 else 'key'}"
                value = ort.OrtValue.ortvalue_from_numpy(buffer[first : first + count])
                binding.bind_ortvalue_input(f"past_key_values.{name}", value)
                binding.bind_ortvalue_output(f"present.{name}", value)
            self._bindings[key] = binding
        return binding

    def _check_contract(self, graph: Path) -> None:
        names = [
            f"{index}.{part}" for index in range(self._contract.layers) for part in ("key", "value")
        ]
        wanted = {*_STEP_INPUTS, *(f"past_key_values.{name}" for name in names)}
        found = {item.name for item in self._session.get_inputs()}
        if found != wanted:
            odd = ", ".join(sorted(found ^ wanted)[:4])
            raise BundleError(str(graph), f"inputs are not those of {self._contract.type}: {odd}")
        outputs = {item.name for item in self._session.get_outputs()}
        if outputs != {"logits", *(f"present.{name}" for name in names)}:
            raise BundleError(str(graph), f"outputs are not those of {self._contract.type}")
