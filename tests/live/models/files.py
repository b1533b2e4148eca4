"""Tiny GGUF files, written by the format's own library."""

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize

from lattice_live.models import random
from lattice_live.models.architecture import Architecture
from lattice_live.models.tokeniser import byte_letters

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©")]
TOKENS = [*byte_letters(), *("".join(pair) for pair in MERGES), "<|im_start|>", "<|im_end|>", "<think>", "<|endoftext|>"]
CONTROL = {"<|im_start|>": 3, "<|im_end|>": 3, "<think>": 4, "<|endoftext|>": 3}
TYPES = [CONTROL.get(token, 1) for token in TOKENS]


def architecture(kind="llama", layers=1, heads=2, kv_heads=1, hidden=32, mlp=64, base=10_000.0):
    frequencies = tuple(base ** (-i / 8) for i in range(8))
    return Architecture(kind, layers, hidden, mlp, heads, kv_heads, 16, len(TOKENS), 128, 1e-5, frequencies)


def floats(a, tied=True, seed=1):
    """Random weights, their norms and biases too."""
    names = a.tensors()
    drawn = {name: tensor.floats() for name, tensor in random.weights(seed, a).items() if name != "output.bias"}
    words = np.random.Generator(np.random.PCG64(seed))
    for name, shape in names.items():
        if len(shape) == 1:
            drawn[name] = words.uniform(0.5, 1.5, shape).astype(np.float32)
    if tied:
        del drawn["output.weight"]
    return drawn


def keys(a):
    """Every key of the file, by name: (method of the writer, value)."""
    k = a.kind
    return {
        "general.name": ("string", "Tiny"),
        "general.license": ("string", "apache-2.0"),
        f"{k}.block_count": ("uint32", a.layers),
        f"{k}.context_length": ("uint32", a.context),
        f"{k}.embedding_length": ("uint32", a.hidden),
        f"{k}.feed_forward_length": ("uint32", a.mlp),
        f"{k}.attention.head_count": ("uint32", a.heads),
        f"{k}.attention.head_count_kv": ("uint32", a.kv_heads),
        f"{k}.attention.layer_norm_rms_epsilon": ("float32", a.norm_epsilon),
        f"{k}.attention.key_length": ("uint32", a.head_dim),
        f"{k}.rope.freq_base": ("float32", 10_000.0),
        "tokenizer.ggml.model": ("string", "gpt2"),
        "tokenizer.ggml.pre": ("string", "smollm" if k == "llama" else "qwen2"),
        "tokenizer.ggml.tokens": ("array", TOKENS),
        "tokenizer.ggml.token_type": ("array", TYPES),
        "tokenizer.ggml.merges": ("array", [" ".join(pair) for pair in MERGES]),
        "tokenizer.ggml.bos_token_id": ("uint32", TOKENS.index("<|im_start|>")),
        "tokenizer.ggml.eos_token_id": ("uint32", TOKENS.index("<|im_end|>")),
        "tokenizer.chat_template": ("string", "{{ messages }}"),
    }


def write(path, a, weights, stored=(), changes=None, name=None):
    """The file `path` of weights by name; `stored` is (end of a name, type) of what is not F32.

    `changes` replace keys; a method that is None takes the key away.
    """
    writer = GGUFWriter(path, name or a.kind)
    for key, (method, value) in {**keys(a), **(changes or {})}.items():
        if method is not None:
            getattr(writer, f"add_{method}")(key, value)
    for tensor, array in weights.items():
        kind = next((kind for end, kind in stored if tensor.endswith(end)), Kind.F32)
        writer.add_tensor(tensor, quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
