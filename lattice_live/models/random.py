"""A tiny model of random weights, for demonstrations and tests.

Its answers mean nothing, but all else is real: it is a model folder like any other. It speaks printable ASCII only, for a bias
of −∞ keeps every other byte from being drawn.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lattice_live.models.architecture import Architecture
from lattice_live.models.folder import ModelFolder, Origin, make
from lattice_live.models.quantise import Tensor, real
from lattice_live.models.tokeniser import BYTE_VOCABULARY, END, bytewise

TINY = Architecture(
    kind="llama",
    layers=2,
    hidden=64,
    mlp=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=BYTE_VOCABULARY,
    context=8_192,
    norm_epsilon=1e-5,
    frequencies=tuple(4.0**-i for i in range(8)),  # powers of four are exact: no mathematical library decides them
)


def build(path: Path, seed: int = 1, variant: str = "fp32", architecture: Architecture = TINY) -> ModelFolder:
    """Write the model folder `path`, its weights drawn from `seed` ≥ 0: the same bytes on every machine.

    Raises ModelError if something is there, or it cannot be written.
    """
    tensors = weights(seed, architecture)
    content = sha256(b"".join(tensor.data.tobytes() for tensor in tensors.values())).hexdigest()
    origin = Origin("random", "Apache-2.0", f"random weights of seed {seed}", content)
    return make(path, architecture, tensors, bytewise(), origin, variant)


def weights(seed: int, architecture: Architecture = TINY) -> dict[str, Tensor]:
    """Uniform weights of variance 1 / inputs, which keep activations near unit size, made of PCG64's raw words.

    NumPy promises those words for ever, and no such thing of `Generator`'s distributions.
    """
    words = np.random.PCG64(seed)

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        centred = (words.random_raw(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-52 - 1.0
        return (centred * np.sqrt(3.0 / shape[-1])).astype(np.float32).reshape(shape)

    shapes = architecture.tensors() | {"output.weight": (architecture.vocabulary, architecture.hidden)}
    drawn = {name: np.ones(shape, np.float32) if "norm" in name else draw(shape) for name, shape in shapes.items()}
    speakable = np.full(architecture.vocabulary, -np.inf, np.float32)
    speakable[[*range(ord(" "), ord("~") + 1), END]] = 0.0
    return {name: real(array) for name, array in (drawn | {"output.bias": speakable}).items()}
