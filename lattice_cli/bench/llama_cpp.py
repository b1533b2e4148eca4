"""llama.cpp at the same work, through the C interface that `llama-cpp-python` binds."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class LlamaCpp:
    """A GGUF model with one sequence a slot, greedy. ImportError where llama.cpp is not installed."""

    def __init__(
        self, gguf: Path, *, slots: int, context: int, threads: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        import llama_cpp

        self._clock = clock
        self._api: Any = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)  # kept, or it is freed while in use
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), llama_cpp.llama_model_default_params())
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max = slots * context, slots
        wanted.n_batch = wanted.n_ubatch = 512
        wanted.n_threads = wanted.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp cannot load {gguf}")
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._vocabulary: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def prefill_s(self, prompt: list[int]) -> float:
        """Seconds to read a prompt and know the next token."""
        self._clear()
        began = self._clock()
        for at in range(0, len(prompt), 512):
            part = prompt[at : at + 512]
            self._decode([(token, at + i, 0, at + i + 1 == len(prompt)) for i, token in enumerate(part)])
        self._likeliest(len(part) - 1)
        return self._clock() - began

    def step_s(self, size: int, prompt: list[int], steps: int) -> list[float]:
        """Seconds of each step in which `size` sequences get one more token."""
        self._clear()
        tokens = []
        for row in range(size):
            self._decode([(token, i, row, i + 1 == len(prompt)) for i, token in enumerate(prompt)])
            tokens.append(self._likeliest(len(prompt) - 1))
        times = []
        for at in range(len(prompt), len(prompt) + steps):
            began = self._clock()
            self._decode([(token, at, row, True) for row, token in enumerate(tokens)])
            tokens = [self._likeliest(row) for row in range(size)]
            times.append(self._clock() - began)
        return times

    def close(self) -> None:
        """Free what the library holds."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Run (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        if self._api.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp cannot decode this batch")

    def _likeliest(self, i: int) -> int:
        pointer = self._api.llama_get_logits_ith(self._context, i)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self._vocabulary,))
        return int(logits.argmax())

    def _clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
