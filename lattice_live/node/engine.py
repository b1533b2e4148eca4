"""Many prompts and answers at once, by one ONNX decoder: continuous batching over the rows of one shared cache.

The rows of the cache, `slots` of them, are ordered: first those that decode, one behind the other, so that one run of the graph
reads the next token of them all; behind them, in any order, those whose prompts are being read and those that are free. A row
that changes its state changes places with another.

A step decodes all rows that can, then reads one chunk of the oldest unread prompt, if there is one. So a long prompt delays
the others by one chunk a token. While there are no others, it reads several chunks.

The answer of a job is a function of model, prompt and sampling, to the bit and in every variant, whatever else runs or ran:
a graph computes a row of a batch as it does one alone, and a chunk as it does within several. One graph reads whole chunks, the
other what a prompt leaves over, at which it is faster, and single tokens; they round otherwise, so prompts are cut at the same
places each time. A row that is free again keeps the whole chunks of the prompt that it read for a `session`; a later prompt of
that session that begins with them is read from there, and what was decoded is read again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_live.models.folder import ModelFolder
from lattice_live.node import runtime
from lattice_live.node.cache import Cache, CudaCache
from lattice_live.node.sampling import Sampler, Sampling

PREFILL_TOK = 32

_CHUNKS = 8
"""So many chunks are read at once while nobody decodes, which is faster; those who do are not kept waiting for it."""

_DEEP_TOK = 1_024
"""From here on attention takes a good part of the time, and chunks are shorter, so that they take no longer."""


class Job(NamedTuple):
    """A prompt to answer."""

    id: int
    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    session: str | None = None
    """Jobs of one session are turns of one chat: the beginning that their prompts share need not be read again."""


class Token(NamedTuple):
    """The `n`-th token, from 1, of a job's answer."""

    job: int
    n: int
    token: int
    finish: str | None
    """None but for the last: "stop", an end mark; "length", the job's or the context's."""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class _Row:
    """What a row of the cache holds, and the job it works for."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.session: str | None = None
        self.kept: list[int] = []  # tokens of the whole chunks that are in the cache
        self.read = 0  # tokens of prompt and answer that are in the cache
        self.last = -1  # the token that was drawn last, which is not
        self.n = 0
        self.sampler: Sampler

    def held_tok(self) -> int:
        """How much of the row's cache matters."""
        return self.read if self.job else len(self.kept)


class _Run(NamedTuple):
    """A graph's cache and logits, bound for some rows that follow one another."""

    binding: Any
    logits: NDArray[np.float32]
    """float32[rows, 1, vocabulary]"""


class Engine:
    """A model, loaded, and the jobs it answers. One thread calls it.

    `slots` jobs run at once, each of up to `context` tokens of prompt and answer, None for as many as the model can; `provider`
    is one of `runtime.PROVIDERS`. `prefill_tok`, at least 2, is the size of the first chunks.
    Raises ValueError for what is out of range, MemoryError if the cache has no room, `RuntimeUnusableError`.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        slots: int,
        context: int | None = None,
        threads: int = 1,
        provider: str = "cpu",
        prefill_tok: int = PREFILL_TOK,
    ) -> None:
        about = folder.manifest
        self.context = about.context if context is None else context
        if not 2 <= self.context <= about.context:
            raise ValueError(f"context: must be from 2 to {about.context}, that of {about.name}, not {context}")
        for name, number, least in (("slots", slots, 1), ("threads", threads, 1), ("prefill_tok", prefill_tok, 2)):
            if number < least:
                raise ValueError(f"{name}: must be at least {least}, not {number}")
        if about.variant == "fp16" and provider == "cpu":
            raise ValueError("provider: must be cuda for the variant fp16, not cpu")
        if about.variant != "fp16" and provider == "cuda":
            raise ValueError(f"provider: must be cpu for the variant {about.variant}, not cuda, which takes fp16")
        self.slots = slots
        self.vocabulary = about.vocabulary
        self.end = frozenset(about.end)
        self.model_hash = about.model_hash
        self.provider = provider
        self.prefill_tok = prefill_tok
        self._chunks = 1 if provider == "cuda" else _CHUNKS  # a GPU's products of other sizes add up in other orders

        shape = (slots, about.kv_heads, self.context, about.head_dim)
        dtype = np.dtype(about.kv_dtype).type
        self.memory_bytes = 2 * about.layers * int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        available = runtime.available_bytes() if provider == "cpu" else None
        lack = (
            f"cache: {slots} slots of {self.context} tokens need {self.memory_bytes} bytes, more than "
            f"{'can be had' if available is None else f'the {available} there are'}; give fewer slots or a shorter context"
        )
        if available is not None and self.memory_bytes > available:
            raise MemoryError(lack)
        self._writer = runtime.session(folder.graph, provider, threads)
        self._reader = self._writer if folder.prefill == folder.graph else runtime.session(folder.prefill, provider, threads)
        try:
            self._cache = (CudaCache if provider == "cuda" else Cache)(about.layers, shape, dtype)
        except (MemoryError, RuntimeError):
            raise MemoryError(lack) from None
        self._runs: dict[tuple[Any, int, int], _Run] = {}  # by graph, first row and number of rows
        self._logits = np.empty((slots, 1, self.vocabulary), np.float32)
        self._rows = [_Row() for _ in range(slots)]
        self._decoding = 0
        self._waiting: list[_Row] = []  # prompts not yet read, the oldest first
        self._released = list(self._rows)  # free rows, the one released longest ago first
        Sampler(Sampling(), (), self.vocabulary).draw(np.zeros(self.vocabulary, np.float32), 0)  # compile it now

    @property
    def free_slots(self) -> int:
        return len(self._released)

    @property
    def in_flight(self) -> int:
        return self.slots - len(self._released)

    def check(self, job: Job) -> None:
        """Raise ValueError, naming what is allowed, if this engine cannot serve the job."""
        if not job.prompt or not all(0 <= token < self.vocabulary for token in job.prompt):
            raise ValueError(f"prompt: must be one or more token ids from 0 to {self.vocabulary - 1}")
        if job.max_tokens < 1 or len(job.prompt) + job.max_tokens > self.context:
            raise ValueError(
                f"max_tokens: {job.max_tokens} after a prompt of {len(job.prompt)} tokens; "
                f"must be at least 1, and the sum at most {self.context}, the context"
            )
        job.sampling.check(self.vocabulary)

    def submit(self, job: Job) -> None:
        """Give the job a slot. Raises ValueError as `check` does, or if its id runs; RuntimeError if no slot is free."""
        self.check(job)
        if any(row.job and row.job.id == job.id for row in self._rows):
            raise ValueError(f"id: must be one that does not run, not {job.id}")
        if not self._released:
            raise RuntimeError(f"slots: all {self.slots} are taken")
        row = self._admit(job)
        self._released.remove(row)
        row.read = self._shared_tok(row, job)
        row.kept = row.kept[: row.read]
        row.job, row.session, row.n = job, job.session, 0
        row.sampler = Sampler(job.sampling, job.prompt, self.vocabulary)
        self._waiting.append(row)

    def cancel(self, id: int) -> None:
        """End a job; its slot is free at once. Nothing happens if there is none of this id."""
        for row in self._rows:
            if row.job and row.job.id == id:
                self._release(row)
                return

    def step(self) -> list[Token]:
        """Decode a token of each answer that has begun, read chunks of a prompt that waits; the tokens that came, if any."""
        tokens = self._decode_rows() if self._decoding else []
        if self._waiting:
            tokens += self._read_chunks(self._waiting[0])
        return tokens

    def _admit(self, job: Job) -> _Row:
        """The free row that has most of the job's prompt; else the one whose content is the least worth keeping."""
        best = max(self._released, key=lambda row: self._shared_tok(row, job))
        if self._shared_tok(best, job):
            return best
        empty = [row for row in self._rows if row.job is None and not row.kept]  # the nearest to those that decode
        return empty[0] if empty else self._released[0]

    def _shared_tok(self, row: _Row, job: Job) -> int:
        """Tokens of the job's prompt that a free row has: whole chunks, and not the last token, whose logits are needed."""
        if job.session is None or row.session != job.session:
            return 0
        limit = min(len(row.kept), len(job.prompt) - 1)
        same = next((i for i in range(limit) if row.kept[i] != job.prompt[i]), limit)
        shared = 0
        while (end := shared + self._chunk_tok(shared)) <= same:
            shared = end
        return shared

    def _chunk_tok(self, start: int) -> int:
        """Size of the chunk that begins at token `start`: half from _DEEP_TOK on, a quarter from four times that, and so on."""
        return max(2, self.prefill_tok >> ((start // _DEEP_TOK).bit_length() + 1) // 2)

    def _decode_rows(self) -> list[Token]:
        rows = self._rows[: self._decoding]
        read = self._run(self._writer, 0, [[row.last] for row in rows])
        tokens = [self._draw(row, logits[0]) for row, logits in zip(rows, read, strict=True)]
        for row, token in zip(rows, tokens, strict=True):
            if token.finish:
                self._release(row)
        return tokens

    def _read_chunks(self, row: _Row) -> list[Token]:
        assert row.job
        at = self._rows.index(row)
        prompt, size = row.job.prompt, self._chunk_tok(row.read)
        whole = (len(prompt) - row.read) // size
        if whole:
            tok = size * min(whole, 1 if self._decoding else self._chunks)
            row.kept.extend(prompt[row.read : row.read + tok])
            logits = self._run(self._reader, at, [prompt[row.read : row.read + tok]])
        else:
            logits = self._run(self._writer, at, [prompt[row.read :]])
        if row.read < len(prompt):
            return []
        self._waiting.remove(row)
        self._swap(at, self._decoding)
        self._decoding += 1
        token = self._draw(row, logits[0, 0])
        if token.finish:
            self._release(row)
        return [token]

    def _run(self, graph: Any, first: int, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Read `ids`, as many of each row from `first` on, behind what the rows have read; the logits [rows, 1, vocabulary]."""
        rows = self._rows[first : first + len(ids)]
        for row, more in zip(rows, ids, strict=True):
            row.read += len(more)
        last = np.array([row.read - 1 for row in rows], np.int32)
        run = self._runs.get((graph, first, len(rows))) or self._bound(graph, first, len(rows))
        # Bound anew each time, which takes microseconds: on a GPU, binding is what copies them.
        run.binding.bind_cpu_input("input_ids", np.array(ids, np.int64))
        run.binding.bind_cpu_input("seqlens_k", last)
        run.binding.bind_cpu_input("total_sequence_length", last.max(keepdims=True) + 1)
        graph.run_with_iobinding(run.binding)
        return run.logits

    def _draw(self, row: _Row, logits: NDArray[np.float32]) -> Token:
        assert row.job
        drawn = row.sampler.draw(logits, row.read)
        row.last = drawn.token
        row.n += 1
        finish = "stop" if drawn.token in self.end else "length" if row.n == row.job.max_tokens else None
        return Token(row.job.id, row.n, drawn.token, finish, drawn.logprob, drawn.top)

    def _release(self, row: _Row) -> None:
        at = self._rows.index(row)
        row.job = None
        if row.session is None:
            row.kept = []
        if at < self._decoding:
            self._decoding -= 1
            self._swap(at, self._decoding)
        else:
            self._waiting.remove(row)
        self._released.append(row)

    def _swap(self, at: int, other: int) -> None:
        if at != other:
            row, behind = self._rows[at], self._rows[other]
            self._cache.swap(at, other, row.held_tok(), behind.held_tok())
            self._rows[at], self._rows[other] = behind, row

    def _bound(self, graph: Any, first: int, rows: int) -> _Run:
        run = self._runs[graph, first, rows] = _Run(graph.io_binding(), self._logits[:rows])
        self._cache.bind(run.binding, first, rows)
        address = run.logits.ctypes.data
        run.binding.bind_output("logits", "cpu", 0, np.float32, run.logits.shape, address)
        return run
