"""A tiny decoder with random weights, for demonstrations and tests: the llama architecture in plain ONNX operators.

Its answers mean nothing, but all else is real: attention over a cache of keys and values, a cost per token, an end mark that it
may draw at any time. It speaks printable ASCII only: a bias of −∞ keeps every other byte from being drawn.

`ids` int64[1, tokens] and, for each layer i, `past_key_i` and `past_value_i` float32[1, HEADS, past, HEAD_WIDTH] give `logits`
float32[1, tokens, VOCABULARY] and the `key_i` and `value_i` of past + tokens positions.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from lattice_live.node.tokens import END, VOCABULARY

LAYERS = 2
HEADS = 4
HEAD_WIDTH = 16
WIDTH = HEADS * HEAD_WIDTH
MLP_WIDTH = 2 * WIDTH

_FUNCTIONS = """
<domain: "lattice", opset_import: ["": 18]>
Normalise (x) => (y) {
    axis = Constant <value_ints: ints = [-1]> ()
    tiny = Constant <value_float: float = 1e-5> ()
    square = Mul(x, x)
    mean = ReduceMean(square, axis)
    above = Add(mean, tiny)
    scale = Sqrt(above)
    y = Div(x, scale)
}
<domain: "lattice", opset_import: ["": 18]>
Heads (x, shape) => (y) {
    apart = Reshape(x, shape)
    y = Transpose <perm: ints = [0, 2, 1, 3]> (apart)
}
<domain: "lattice", opset_import: ["": 18]>
Rotate (x, cosine, sine) => (y) {
    first, second = Split <axis: int = -1, num_outputs: int = 2> (x)
    first_cosine = Mul(first, cosine)
    second_sine = Mul(second, sine)
    second_cosine = Mul(second, cosine)
    first_sine = Mul(first, sine)
    left = Sub(first_cosine, second_sine)
    right = Add(second_cosine, first_sine)
    y = Concat <axis: int = -1> (left, right)
}
"""

_POSITIONS = """
    tokens = Shape <start: int = 1, end: int = 2> (ids)
    past = Shape <start: int = 2, end: int = 3> (past_key_0)
    end = Add(past, tokens)
    first_query = Squeeze(past)
    behind = Squeeze(end)
    query_at = Range(first_query, behind, one)
    key_at = Range(zero, behind, one)
    query_column = Unsqueeze(query_at, column)
    visible = LessOrEqual(key_at, query_column)
    query_float = Cast <to: int = 1> (query_column)
    angle = Mul(query_float, frequency)
    cosine = Cos(angle)
    sine = Sin(angle)
    x_0 = Gather(embedding, ids)
"""

_LAYER = """
    seen_{i} = lattice.Normalise(x_{i})
    query_flat_{i} = MatMul(seen_{i}, to_query_{i})
    key_flat_{i} = MatMul(seen_{i}, to_key_{i})
    value_flat_{i} = MatMul(seen_{i}, to_value_{i})
    query_heads_{i} = lattice.Heads(query_flat_{i}, head_shape)
    key_heads_{i} = lattice.Heads(key_flat_{i}, head_shape)
    value_heads_{i} = lattice.Heads(value_flat_{i}, head_shape)
    query_{i} = lattice.Rotate(query_heads_{i}, cosine, sine)
    new_key_{i} = lattice.Rotate(key_heads_{i}, cosine, sine)
    key_{i} = Concat <axis: int = 2> (past_key_{i}, new_key_{i})
    value_{i} = Concat <axis: int = 2> (past_value_{i}, value_heads_{i})
    key_turned_{i} = Transpose <perm: ints = [0, 1, 3, 2]> (key_{i})
    match_{i} = MatMul(query_{i}, key_turned_{i})
    scaled_{i} = Mul(match_{i}, head_scale)
    causal_{i} = Where(visible, scaled_{i}, never)
    weight_{i} = Softmax <axis: int = -1> (causal_{i})
    mixed_{i} = MatMul(weight_{i}, value_{i})
    mixed_turned_{i} = Transpose <perm: ints = [0, 2, 1, 3]> (mixed_{i})
    mixed_flat_{i} = Reshape(mixed_turned_{i}, flat_shape)
    attended_{i} = MatMul(mixed_flat_{i}, from_heads_{i})
    middle_{i} = Add(x_{i}, attended_{i})
    read_{i} = lattice.Normalise(middle_{i})
    gate_{i} = MatMul(read_{i}, to_gate_{i})
    up_{i} = MatMul(read_{i}, to_up_{i})
    open_{i} = Sigmoid(gate_{i})
    swish_{i} = Mul(gate_{i}, open_{i})
    gated_{i} = Mul(swish_{i}, up_{i})
    down_{i} = MatMul(gated_{i}, from_mlp_{i})
    x_{after} = Add(middle_{i}, down_{i})
"""

_HEAD = """
    last = lattice.Normalise(x_{layers})
    raw = MatMul(last, to_logits)
    logits = Add(raw, speakable)
"""


def build(seed: int) -> bytes:
    """The serialised model whose weights are drawn from `seed` ≥ 0; the same bytes, and so the same hash, on every machine."""
    model = parser.parse_model(_text())
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in _constants().items())
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in _weights(seed).items())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _text() -> str:
    layers = range(LAYERS)
    past = [f"float[1, {HEADS}, past_len, {HEAD_WIDTH}] past_{part}_{i}" for i in layers for part in ("key", "value")]
    present = [f"float[1, {HEADS}, key_len, {HEAD_WIDTH}] {part}_{i}" for i in layers for part in ("key", "value")]
    inputs = ", ".join(["int64[1, token_len] ids", *past])
    outputs = ", ".join([f"float[1, token_len, {VOCABULARY}] logits", *present])
    body = "".join([_POSITIONS, *(_LAYER.format(i=i, after=i + 1) for i in layers), _HEAD.format(layers=LAYERS)])
    header = '<ir_version: 9, opset_import: ["": 18, "lattice": 1], producer_name: "lattice">'
    return f"{header}\ndecoder ({inputs}) => ({outputs}) {{{body}}}\n{_FUNCTIONS}"


def _constants() -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    speakable = np.full(VOCABULARY, -np.inf, np.float32)
    speakable[[*range(ord(" "), ord("~") + 1), END]] = 0.0
    return {
        "zero": np.array(0),
        "one": np.array(1),
        "column": np.array([1]),
        "head_shape": np.array([1, -1, HEADS, HEAD_WIDTH]),
        "flat_shape": np.array([1, -1, WIDTH]),
        # Powers of four, like the inverse square root of a power of four below, are exact: no libm decides a byte of the model.
        "frequency": np.ldexp(np.float32(1.0), -2 * np.arange(HEAD_WIDTH // 2)),
        "head_scale": np.array(HEAD_WIDTH**-0.5, np.float32),
        "never": np.array(-np.inf, np.float32),
        "speakable": speakable,
    }


def _weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Uniform weights of variance 1 / inputs, which keep activations near unit size, made of PCG64's raw words.

    NumPy promises those words for ever, and no such thing of `Generator`'s distributions.
    """
    words = np.random.PCG64(seed)

    def draw(inputs: int, outputs: int) -> NDArray[np.float32]:
        centred = (words.random_raw(inputs * outputs) >> np.uint64(11)) * 2.0**-52 - 1.0
        return (centred * np.sqrt(3.0 / inputs)).astype(np.float32).reshape(inputs, outputs)

    weights = {"embedding": draw(WIDTH, VOCABULARY).T.copy()}
    for i in range(LAYERS):
        weights |= {f"{name}_{i}": draw(WIDTH, WIDTH) for name in ("to_query", "to_key", "to_value", "from_heads")}
        weights |= {f"{name}_{i}": draw(WIDTH, MLP_WIDTH) for name in ("to_gate", "to_up")}
        weights |= {f"from_mlp_{i}": draw(MLP_WIDTH, WIDTH)}
    return weights | {"to_logits": draw(WIDTH, VOCABULARY)}
