"""Worker process around llama.cpp's multi-sequence decoding (protocol: ``worker.py``).

Batches as llama.cpp's own server does: one ``llama_decode`` a step holds the newest token of every
stream that generates, then as much of the waiting prompts as the batch has room for. Greedy tokens
are taken by one argmax over all rows of logits, without the server's chain of samplers.

The library is met in ``LlamaCpp`` only; what is decided here runs over anything that decodes.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from benchmarks.peers import worker

REST_S = 0.3  # OpenMP's threads of clang spin for 0.2 s before they sleep
DEFAULTS = {"n_ctx": "16384", "n_seq_max": "16", "n_batch": "2048", "kv_unified": "0"}


class Decoder(Protocol):
    """What a round needs of the library."""

    def forget(self) -> None:
        """Empty the cache of every sequence."""
        ...

    def decode(self, pieces: Sequence[Piece]) -> list[int]:
        """Run the pieces as one batch; the greedy token after each piece that ``ends``, in order.

        Raises RuntimeError when the library refuses the batch.
        """
        ...

    def rest(self) -> None:
        """Wait until its threads sleep, so that they take nothing from whoever runs next."""
        ...


@dataclass
class Stream:
    """One prompt on its way: its sequence, what of it was fed, and what came out when."""

    sequence: int
    prompt: list[int]
    fed: int = 0
    newest: int = 0
    tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def take(self, token: int, now_s: float) -> None:
        if not self.tokens:
            self.first_s = now_s
        self.newest, self.last_s = token, now_s
        self.tokens += 1


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one sequence in a batch; ``ends`` asks for the token that follows."""

    sequence: int
    position: int
    tokens: list[int]
    ends: bool


def next_batch(streams: Sequence[Stream], new_tokens: int, room: int) -> list[Piece]:
    """What the next step runs, at most ``room`` tokens: generating streams first, then prompts.

    Empty when every stream has its ``new_tokens``.
    """
    pieces = []
    for stream in streams:
        if 0 < stream.tokens < new_tokens and room:
            pieces.append(Piece(stream.sequence, stream.fed, [stream.newest], ends=True))
            room -= 1
    for stream in streams:
        waiting = stream.prompt[stream.fed : stream.fed + room] if not stream.tokens else []
        if waiting:
            ends = stream.fed + len(waiting) == len(stream.prompt)
            pieces.append(Piece(stream.sequence, stream.fed, waiting, ends))
            room -= len(waiting)
    return pieces


class LlamaCppEngine:
    """Rounds over a decoder that holds ``sequences`` streams and ``room`` tokens a batch."""

    def __init__(
        self, decoder: Decoder, *, sequences: int, room: int, about: dict[str, Any]
    ) -> None:
        self._decoder = decoder
        self._sequences = sequences
        self._room = room
        self._about = about

    def info(self) -> dict[str, Any]:
        return self._about

    def round(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """Start one greedy stream a prompt, all at once, and step until all have finished."""
        if len(prompts) > min(self._sequences, self._room):
            raise ValueError(
                f"{len(prompts)} streams do not fit: give the peer n_seq_max={len(prompts)}"
            )
        self._decoder.forget()
        start = time.perf_counter()
        streams = [Stream(sequence, prompt) for sequence, prompt in enumerate(prompts)]
        while pieces := next_batch(streams, new_tokens, self._room):
            following = iter(self._decoder.decode(pieces))
            now = time.perf_counter() - start
            for piece in pieces:
                stream = streams[piece.sequence]
                stream.fed += len(piece.tokens)
                if piece.ends:
                    stream.take(next(following), now)
        wall_s = time.perf_counter() - start
        self._decoder.rest()
        taken = [
            {"first_s": stream.first_s, "last_s": stream.last_s, "tokens": stream.tokens}
            for stream in streams
        ]
        return {"wall_s": wall_s, "streams": taken}


class LlamaCpp:
    """A GGUF model and a context of llama.cpp on the CPU.

    ``given`` sets fields of ``llama_context_params`` and ``llama_model_params`` by name, as whole
    numbers: ``n_ubatch=256``, ``flash_attn_type=1``, ``type_k=8``.
    """

    def __init__(self, path: str, threads: int, given: dict[str, str]) -> None:
        import llama_cpp.llama_cpp as lib  # noqa: PLC0415 - absent where this is tested

        self._lib = lib
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        params = lib.llama_context_default_params()
        self.settings = {"n_threads": str(threads), "n_threads_batch": str(threads)}
        self.settings |= DEFAULTS | given
        for key, value in self.settings.items():
            holder = params if hasattr(params, key) else model_params
            if not hasattr(holder, key):
                raise ValueError(f"neither the context nor the model of llama.cpp has {key!r}")
            setattr(holder, key, int(value))
        self._model = lib.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise RuntimeError(f"llama.cpp did not load {path}; its log above says why")
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context with {self.settings}")
        self._memory = lib.llama_get_memory(self._context)
        self._vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self.sequences = int(params.n_seq_max)
        self.room = int(params.n_batch)
        self._make_batch(self.room)

    def _make_batch(self, room: int) -> None:
        """The arrays that a batch points to, written anew at every step."""
        self._token = np.zeros(room, np.int32)
        self._position = np.zeros(room, np.int32)
        self._sequence = np.zeros(room, np.int32)
        self._wanted = np.zeros(room, np.int8)
        self._one_each = np.ones(room, np.int32)
        int32 = ctypes.POINTER(ctypes.c_int32)
        each = np.arange(room, dtype=np.uintp) * self._sequence.itemsize
        self._sequence_at = each + np.uintp(self._sequence.ctypes.data)
        batch = self._lib.llama_batch()
        batch.token = self._token.ctypes.data_as(int32)
        batch.pos = self._position.ctypes.data_as(int32)
        batch.n_seq_id = self._one_each.ctypes.data_as(int32)
        batch.seq_id = self._sequence_at.ctypes.data_as(ctypes.POINTER(int32))
        batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._batch = batch

    def about(self) -> dict[str, Any]:
        return {
            "engine": "llama.cpp, several sequences a llama_decode",
            "versions": {
                "llama_cpp_python": version("llama_cpp_python"),
                "llama.cpp": self._lib.llama_version().decode(),
            },
            "capabilities": self._lib.llama_print_system_info().decode().strip(),
            "settings": self.settings,
        }

    def forget(self) -> None:
        """Empty the cache of every sequence."""
        self._lib.llama_memory_clear(self._memory, False)

    def rest(self) -> None:
        """Wait until its threads sleep; costs REST_S."""
        time.sleep(REST_S)

    def decode(self, pieces: Sequence[Piece]) -> list[int]:
        """Run the pieces as one batch; see ``Decoder``."""
        end = outputs = 0
        for piece in pieces:
            begin, end = end, end + len(piece.tokens)
            self._token[begin:end] = piece.tokens
            self._position[begin:end] = np.arange(piece.position, piece.position + end - begin)
            self._sequence[begin:end] = piece.sequence
            self._wanted[begin:end] = 0
            self._wanted[end - 1] = piece.ends
            outputs += piece.ends
        self._batch.n_tokens = end
        code = self._lib.llama_decode(self._context, self._batch)
        if code:
            raise RuntimeError(f"llama_decode answered {code} to a batch of {end} tokens")
        if not outputs:
            return []
        logits = self._lib.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(logits, (outputs, self._vocab))
        greedy: list[int] = rows.argmax(axis=1).tolist()
        return greedy


def main() -> None:
    args = worker.parser(__doc__ or "", model="GGUF file").parse_args()

    def load() -> LlamaCppEngine:
        library = LlamaCpp(args.model, args.threads, worker.properties(args.property))
        return LlamaCppEngine(
            library, sequences=library.sequences, room=library.room, about=library.about()
        )

    worker.serve(load)


if __name__ == "__main__":
    main()
