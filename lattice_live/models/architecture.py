"""The numbers of a decoder of the llama family, and the tensors that such a decoder consists of."""

from collections.abc import Mapping
from typing import NamedTuple

from lattice_live.models import ModelError

KINDS = ("llama", "qwen2")
"""llama: no biases. qwen2: biases on query, key and value, otherwise the same."""

HEAD_DIM_STEP = 16
"""Rotary attention in ONNX Runtime takes heads whose width is a multiple of this."""

LIMITS = {
    "layers": 1_024,
    "hidden": 1 << 17,
    "mlp": 1 << 20,
    "heads": 1_024,
    "kv_heads": 1_024,
    "head_dim": 256,
    "vocabulary": 1 << 20,
    "context": 1 << 20,
}
"""Generous bounds: what lies beyond is no model but a damaged file."""


class Architecture(NamedTuple):
    """A pre-norm decoder: RMS norm, grouped-query attention with rotary positions, gated SiLU."""

    kind: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    """Longest prompt and answer together, tokens."""
    norm_epsilon: float
    frequencies: tuple[float, ...]
    """Radians per position of each pair of a head's numbers: head_dim / 2 of them."""

    def check(self, file: object) -> None:
        """Raise ModelError, naming `file`, for numbers that no decoder can have."""
        if self.kind not in KINDS:
            raise ModelError(f"{file}: architecture: must be {' or '.join(KINDS)}, not {self.kind!r}")
        for name, most in LIMITS.items():
            if not 1 <= getattr(self, name) <= most:
                raise ModelError(f"{file}: {name}: must be from 1 to {most}, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ModelError(f"{file}: kv_heads: must divide heads, {self.heads}, not {self.kv_heads}")
        if self.head_dim % HEAD_DIM_STEP:
            raise ModelError(f"{file}: head_dim: must be a multiple of {HEAD_DIM_STEP}, not {self.head_dim}")
        if not 0.0 < self.norm_epsilon < 1.0:
            raise ModelError(f"{file}: norm epsilon: must lie between 0 and 1, not {self.norm_epsilon}")
        if len(self.frequencies) != self.head_dim // 2 or not all(0.0 < f < 1e6 for f in self.frequencies):
            raise ModelError(f"{file}: rotary frequencies: must be {self.head_dim // 2} numbers above 0 and below 1e6")

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name in GGUF; a matrix is [outputs, inputs]."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocabulary, self.hidden)}
        for i in range(self.layers):
            layer: dict[str, tuple[int, ...]] = {
                "attn_norm.weight": (self.hidden,),
                "attn_q.weight": (queries, self.hidden),
                "attn_k.weight": (keys, self.hidden),
                "attn_v.weight": (keys, self.hidden),
                "attn_output.weight": (self.hidden, queries),
                "ffn_norm.weight": (self.hidden,),
                "ffn_gate.weight": (self.mlp, self.hidden),
                "ffn_up.weight": (self.mlp, self.hidden),
                "ffn_down.weight": (self.hidden, self.mlp),
            }
            if self.kind == "qwen2":
                layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
            shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
        return shapes | {"output_norm.weight": (self.hidden,)}

    def optional_tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of what may be missing. Without `output.weight` the embedding table serves as the output matrix too."""
        return {"output.weight": (self.vocabulary, self.hidden), "output.bias": (self.vocabulary,)}

    def check_tensors(self, file: object, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ModelError, naming `file`, unless `shapes` are those of this decoder: none missing, wrong or left over."""
        required = self.tensors()
        known = required | self.optional_tensors()
        for name, shape in shapes.items():
            if name not in known:
                raise ModelError(f"{file}: tensor {name}: is no part of the {self.kind} architecture")
            if shape != known[name]:
                raise ModelError(f"{file}: tensor {name}: must have shape {list(known[name])}, not {list(shape)}")
        for name in required:
            if name not in shapes:
                raise ModelError(f"{file}: tensor {name}: is missing; the {self.kind} architecture needs it")
