"""A GGUF file becomes a model folder."""

from pathlib import Path

import numpy as np

from lattice_live.models import VARIANTS, ModelError
from lattice_live.models.architecture import KINDS, LIMITS, Architecture
from lattice_live.models.folder import ModelFolder, Origin, digest, make
from lattice_live.models.gguf import Gguf
from lattice_live.models.quantise import BLOCK, Tensor
from lattice_live.models.tokeniser import stored

ROPE_FACTORS = "rope_freqs.weight"
"""By how much each rotary frequency is lowered, in the models that can read more than they were first taught to."""


def convert(gguf: Path, folder: Path, variant: str, *, all_logits: bool = False) -> ModelFolder:
    """Write the model folder `folder` from the file `gguf`, whole or not at all.

    Raises ModelError for a file that is damaged or of an architecture or a tokeniser not known here, for a variant that it
    cannot have, and if `folder` is there already or cannot be written.
    """
    if variant not in VARIANTS:
        raise ModelError(f"variant: must be {', '.join(VARIANTS)}, not {variant!r}")
    source = Gguf(gguf)
    architecture = _architecture(source)
    shapes = {name: shape for name, shape in source.shapes.items() if name != ROPE_FACTORS}
    architecture.check_tensors(gguf, shapes)
    if variant in ("int8", "q4"):
        _check_blocks(source, architecture, variant)
    vocabulary = stored(source)
    size = vocabulary.tokeniser.get_vocab_size()
    if size != architecture.vocabulary:
        raise source.fail(f"tokenizer.ggml.tokens: must be {architecture.vocabulary}, one a row of the table, not {size}")
    origin = Origin(
        name=source.string("general.name", gguf.stem),
        licence=source.string("general.license", "unknown"),
        source=gguf.name,
        source_sha256=digest(gguf),
    )
    weights = _weights(source, architecture)
    return make(folder, architecture, weights, vocabulary, origin, variant, all_logits=all_logits)


def _architecture(source: Gguf) -> Architecture:
    kind = source.string("general.architecture")
    if kind not in KINDS:
        raise source.fail(f"general.architecture: must be {' or '.join(KINDS)}, not {kind!r}")
    scaling = source.string(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise source.fail(f"{kind}.rope.scaling.type: must be none, not {scaling!r}")
    if experts := source.integer(f"{kind}.expert_count", 0):
        raise source.fail(f"{kind}.expert_count: must be 0, not {experts}")
    context = source.integer(f"{kind}.context_length")
    if 0 < (window := source.integer(f"{kind}.attention.sliding_window", 0)) < context:
        raise source.fail(f"{kind}.attention.sliding_window: must be 0 or at least {context}, the context, not {window}")
    hidden, heads = source.integer(f"{kind}.embedding_length"), source.integer(f"{kind}.attention.head_count")
    head_dim = source.integer(f"{kind}.attention.key_length", hidden // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (width := source.integer(f"{kind}.{key}", head_dim)) != head_dim:
            raise source.fail(f"{kind}.{key}: must be {head_dim}, the width of a head, not {width}")
    table = source.shapes.get("token_embd.weight", (0,))
    architecture = Architecture(
        kind=kind,
        layers=source.integer(f"{kind}.block_count"),
        hidden=hidden,
        mlp=source.integer(f"{kind}.feed_forward_length"),
        heads=heads,
        kv_heads=source.integer(f"{kind}.attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=table[0],
        context=context,
        norm_epsilon=source.number(f"{kind}.attention.layer_norm_rms_epsilon"),
        frequencies=_frequencies(source, kind, head_dim),
    )
    architecture.check(source.path)
    return architecture


def _frequencies(source: Gguf, kind: str, head_dim: int) -> tuple[float, ...]:
    """base^(−2 i / head_dim), each divided by its factor if the file has factors."""
    base = source.number(f"{kind}.rope.freq_base", 10_000.0)
    if not 1.0 <= base <= 1e12:
        raise source.fail(f"{kind}.rope.freq_base: must be from 1 to 1e12, not {base}")
    pairs = max(0, min(head_dim, LIMITS["head_dim"])) // 2
    factors = np.ones(pairs, np.float32)
    if ROPE_FACTORS in source.tensors:
        factors = source.tensors[ROPE_FACTORS].floats()
        if factors.shape != (pairs,) or not np.all((factors > 1e-6) & (factors < 1e6)):
            raise source.fail(f"tensor {ROPE_FACTORS}: must be {pairs} numbers from 1e-6 to 1e6")
    return tuple(base ** (-2 * i / head_dim) / factor for i, factor in enumerate(factors.tolist()))


def _check_blocks(source: Gguf, architecture: Architecture, variant: str) -> None:
    widths = {"hidden": architecture.hidden, "mlp": architecture.mlp, "heads": architecture.heads * architecture.head_dim}
    for name, width in widths.items():
        if width % BLOCK:
            raise source.fail(f"{name}: {width} inputs of a matrix; must be a multiple of {BLOCK} in {variant}")


def _weights(source: Gguf, architecture: Architecture) -> dict[str, Tensor]:
    """The tensors, with both numbers that a rotation turns together half a head apart.

    In llama files they stand side by side: number 2 i and number 2 i + 1 of a head are i and i + head_dim / 2 here.
    """
    weights = {name: tensor for name, tensor in source.tensors.items() if name != ROPE_FACTORS}
    if architecture.kind == "llama":
        pairs = architecture.head_dim // 2
        for part, heads in (("q", architecture.heads), ("k", architecture.kv_heads)):
            order = np.arange(heads * architecture.head_dim).reshape(heads, pairs, 2).swapaxes(1, 2).reshape(-1)
            for i in range(architecture.layers):
                weights[f"blk.{i}.attn_{part}.weight"] = weights[f"blk.{i}.attn_{part}.weight"].rows(order)
    return weights
