"""One ONNX decoder on one CPU thread: prompt in, token ids out, each drawn by a stream that anybody can recompute."""

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lattice_core.jit import jit
from lattice_core.streams import TOKENS, uniform

type Cache = tuple[NDArray[np.float32], ...]
"""Keys and values of the positions read so far, in the order of the model's `past_*` inputs."""


class Engine:
    """A decoder whose inputs are `ids` and a cache, whose outputs are `logits` and the cache grown by as many positions.

    `context` is the longest prompt and answer together, in tokens; `end` the token that ends an answer.
    """

    def __init__(self, model: bytes, *, context: int, end: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._past = self._session.get_inputs()[1:]
        self.context = context
        self.end = end
        self.vocabulary: int = self._session.get_outputs()[0].shape[-1]
        self.model_hash = sha256(model).hexdigest()
        self.provider: str = self._session.get_providers()[0]  # what runs, which is not always what was asked for

    def check(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Raise ValueError, naming what is allowed, if this model cannot serve the request."""
        if not prompt or not all(0 <= token < self.vocabulary for token in prompt):
            raise ValueError(f"prompt: expected one or more token ids from 0 to {self.vocabulary - 1}")
        if max_tokens < 1 or len(prompt) + max_tokens > self.context:
            raise ValueError(
                f"max_tokens: {max_tokens} after a prompt of {len(prompt)} tokens; "
                f"expected at least 1 and a sum of at most {self.context}, the context"
            )

    def generate(self, prompt: Sequence[int], *, max_tokens: int, seed: int, temperature: float) -> Iterator[int]:
        """Token ids of the answer, each computed when it is asked for; the last is `end` or the `max_tokens`-th.

        The answer is a function of (model, prompt, seed, temperature). Draws are keyed by absolute position, so that a prompt
        followed by the first tokens of its answer is answered with the rest of them.
        """
        self.check(prompt, max_tokens)
        return self._decode(prompt, max_tokens, seed, temperature)

    def _decode(self, prompt: Sequence[int], max_tokens: int, seed: int, temperature: float) -> Iterator[int]:
        logits, cache = self.forward(prompt, self.empty_cache())
        for position in range(len(prompt), len(prompt) + max_tokens):
            token = int(sample(logits[-1], temperature, seed, position))
            yield token
            if token == self.end:
                return
            if position + 1 < len(prompt) + max_tokens:
                logits, cache = self.forward([token], cache)

    def forward(self, ids: Sequence[int], cache: Cache) -> tuple[NDArray[np.float32], Cache]:
        """Logits float32[len(ids), vocabulary] of `ids` read after `cache`, and the cache that holds both."""
        feed = {past.name: held for past, held in zip(self._past, cache, strict=True)}
        logits, *grown = self._session.run(None, {"ids": np.array([ids], np.int64), **feed})
        return logits[0], tuple(grown)

    def empty_cache(self) -> Cache:
        """The cache before the first token."""
        shapes = ((batch, heads, 0, width) for batch, heads, _, width in (past.shape for past in self._past))
        return tuple(np.zeros(shape, np.float32) for shape in shapes)


@jit
def sample(logits: NDArray[np.float32], temperature: float, seed: int, position: int) -> int:
    """A token drawn from softmax(logits / temperature) by the Gumbel-max trick; the likeliest one at temperature 0.

    Each token's noise is keyed (seed, position, token), so the draw does not depend on how the answer is split into calls.
    """
    best = 0
    best_score = -math.inf
    for token in range(logits.shape[0]):
        score = float(logits[token])
        if temperature > 0.0:
            score = score / temperature - math.log(-math.log(uniform(seed, TOKENS, position, token)))
        if score > best_score:
            best = token
            best_score = score
    return best
