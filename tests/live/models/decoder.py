"""A decoder by the book: every formula once, in NumPy, no cache, one row at a time."""

import numpy as np


def logits(weights, architecture, ids, *, interleaved=False):
    """float64[len(ids), vocabulary] of the tokens `ids`, from float arrays by their names in GGUF.

    Rotary positions turn number i of a head together with number i + head_dim / 2 or, `interleaved`, numbers 2 i and 2 i + 1.
    """
    a = architecture
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    x = w["token_embd.weight"][ids]
    for i in range(a.layers):

        def times(part, value, i=i):
            return value @ w[f"blk.{i}.{part}.weight"].T + w.get(f"blk.{i}.{part}.bias", 0.0)

        seen = norm(x, w[f"blk.{i}.attn_norm.weight"], a.norm_epsilon)
        queries, keys, values = (times(f"attn_{part}", seen).reshape(len(ids), -1, a.head_dim) for part in "qkv")
        queries, keys = (rotated(part, a.frequencies, interleaved) for part in (queries, keys))
        heads = []
        for head in range(a.heads):
            group = head * a.kv_heads // a.heads
            score = queries[:, head] @ keys[:, group].T / np.sqrt(a.head_dim)
            score[np.triu_indices(len(ids), 1)] = -np.inf
            share = np.exp(score - score.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ values[:, group])
        x = x + times("attn_output", np.concatenate(heads, -1))
        seen = norm(x, w[f"blk.{i}.ffn_norm.weight"], a.norm_epsilon)
        gate = times("ffn_gate", seen)
        x = x + times("ffn_down", gate / (1 + np.exp(-gate)) * times("ffn_up", seen))
    x = norm(x, w["output_norm.weight"], a.norm_epsilon)
    return x @ w.get("output.weight", w["token_embd.weight"]).T + w.get("output.bias", 0.0)


def norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotated(heads, frequencies, interleaved):
    angle = np.outer(np.arange(len(heads)), frequencies)[:, None, :]
    half = heads.shape[-1] // 2
    pairs = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
    first, second = (heads[..., pair] for pair in pairs)
    turned = np.empty_like(heads)
    turned[..., pairs[0]] = first * np.cos(angle) - second * np.sin(angle)
    turned[..., pairs[1]] = second * np.cos(angle) + first * np.sin(angle)
    return turned
