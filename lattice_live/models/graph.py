"""The ONNX graph of a decoder, for many rows of one shared cache at once.

    input_ids               int64[B, S]     the next S tokens of each of B rows
    seqlens_k               int32[B]        tokens in each row after this step, minus 1
    total_sequence_length   int32[1]        the most tokens that any row has after this step
    past_key_values.{i}.key, .value         T[B, kv_heads, M, head_dim], room for M tokens a row
    → present.{i}.key, .value               the same; bind the same memory, and nothing is copied
    → logits                float32[B, 1, vocabulary] of the last position, or [B, S, vocabulary]

T is float16 in the fp16 variant and float32 in the others. Several rows are read at once with S = 1, or from their first tokens
on: the attention operator refuses B > 1 with S > 1 behind tokens already read.

Where weights are 8-bit codes, two graphs share them. Products with codes are the fastest for a few tokens, when it is reading
weights that takes time; for many, when arithmetic does, the other graph makes floats of each matrix in turn, and forgets them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lattice_live.models import ModelError
from lattice_live.models.architecture import Architecture
from lattice_live.models.folder import DATA, GRAPH, PREFILL
from lattice_live.models.quantise import BLOCK, Blocks, Tensor, blocks, joined

_MICROSOFT = "com.microsoft"
_OF_MICROSOFT = {
    "FusedMatMul",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulNBits",
    "QuickGelu",
    "SkipSimplifiedLayerNormalization",
}
"""Operators that are not of the ONNX standard but of ONNX Runtime."""

_ALIGNMENT = 64
_WHOLE_NUMBERS = 4  # accuracy level: inputs are rounded to 8 bits, and their products with codes are added up exactly


def write(
    folder: Path, architecture: Architecture, weights: Mapping[str, Tensor], variant: str, *, all_logits: bool = False
) -> tuple[str, ...]:
    """Write GRAPH, DATA and, where it would be another, PREFILL into `folder`; the names of what was written.

    `weights` are the tensors of `architecture`; rotary positions turn a query's number i together with number
    i + head_dim / 2. Matrices are read and written one after the other. Raises ModelError for weights that are not finite.
    """
    with open(folder / DATA, "wb") as data:
        model = _Decoder(architecture, weights, variant, data).model(all_logits)
    graphs = {GRAPH: model}
    if (prefill := _with_floats(model)) is not None:
        graphs[PREFILL] = prefill
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph.SerializeToString(deterministic=True))
    return (*graphs, DATA)


class _Decoder:
    """Nodes and weights of one graph, in the order in which they are made."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, Tensor], variant: str, data: BinaryIO) -> None:
        self._architecture = architecture
        self._weights = weights
        self._variant = variant
        self._data = data
        self._half = variant == "fp16"
        self._type = TensorProto.FLOAT16 if self._half else TensorProto.FLOAT
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def model(self, all_logits: bool) -> onnx.ModelProto:
        a = self._architecture
        cosine, sine = self._rotation()
        residual = self._embedded()
        norm = self._vector("blk.0.attn_norm.weight")
        seen = self._op("SimplifiedLayerNormalization", residual, norm, axis=-1, epsilon=a.norm_epsilon, stash_type=1)
        for i in range(a.layers):
            parts = [f"blk.{i}.attn_{part}" for part in "qkv"]
            heads = self._biased(self._linear(seen, *parts), *parts)
            attended = f"attended.{i}"
            past, present = _cache("past_key_values", i), _cache("present", i)
            lengths = ("seqlens_k", "total_sequence_length")
            self._node("GroupQueryAttention", [heads, "", "", *past, *lengths, cosine, sine], [attended, *present],
                       num_heads=a.heads, kv_num_heads=a.kv_heads, do_rotary=1, scale=a.head_dim**-0.5)  # fmt: skip
            mixed = self._linear(attended, f"blk.{i}.attn_output")
            seen, residual = self._add_and_normalise(residual, mixed, f"blk.{i}.ffn_norm.weight")
            gate, up = f"gate.{i}", f"up.{i}"
            both = self._linear(seen, f"blk.{i}.ffn_gate", f"blk.{i}.ffn_up")
            self._node("Split", [both], [gate, up], axis=-1, num_outputs=2)
            opened = self._op("QuickGelu", gate, alpha=1.0)  # with α = 1 it is SiLU
            read = self._linear(self._op("Mul", opened, up), f"blk.{i}.ffn_down")
            after = f"blk.{i + 1}.attn_norm.weight" if i + 1 < a.layers else "output_norm.weight"
            seen, residual = self._add_and_normalise(residual, read, after)
        if not all_logits:
            seen = self._op("Slice", seen, self._integers(-1), self._integers(np.iinfo(np.int64).max), self._integers(1))
        self._logits(seen)

        cache = (a.kv_heads, "room", a.head_dim)
        layers = range(a.layers)
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["rows"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, [1]),
            *(self._value(name, "rows", *cache) for i in layers for name in _cache("past_key_values", i)),
        ]
        positions = "tokens" if all_logits else 1
        outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", positions, a.vocabulary]),
            *(self._value(name, "rows", *cache) for i in layers for name in _cache("present", i)),
        ]
        return helper.make_model(
            helper.make_graph(self._nodes, "decoder", inputs, outputs, self._tensors),
            opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)],
            ir_version=10,
            producer_name="lattice",
        )

    def _rotation(self) -> tuple[str, str]:
        """Cosine and sine of every position's angles, [context, head_dim / 2]: worked out once, when the graph is loaded.

        In float64, for at position 100,000 a float32 angle is wrong by a hundredth of a radian. And since the operators do it,
        no machine's mathematical library decides a byte of the model.
        """
        first, after, step = (self._constant(np.array(number)) for number in (0, self._architecture.context, 1))
        positions = self._op("Cast", self._op("Range", first, after, step), to=TensorProto.DOUBLE)
        column = self._op("Unsqueeze", positions, self._integers(1))
        angles = self._op("Mul", column, self._constant(np.array([self._architecture.frequencies])))
        cosine, sine = (self._op("Cast", self._op(name, angles), to=self._type) for name in ("Cos", "Sin"))
        return cosine, sine

    def _embedded(self) -> str:
        """The embeddings of the tokens, [B, S, hidden]."""
        table = self._weights["token_embd.weight"]
        if self._variant in ("fp32", "fp16"):
            return self._op("Gather", self._stored("table", self._narrow(table.floats())), "input_ids")
        held = blocks(table, "int8")
        codes = self._stored("table.codes", held.codes)
        scales = self._stored("table.scales", held.scales[..., None])
        parts = [codes, "input_ids", scales]
        if held.zeros is not None:
            parts.append(self._stored("table.zeros", held.zeros[..., None]))
        apart = self._op("GatherBlockQuantized", *parts, bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=2)
        return self._op("Reshape", apart, self._integers(0, 0, self._architecture.hidden))

    def _logits(self, seen: str) -> None:
        """The output named `logits`: by the output matrix or, where there is none, the stored embedding table."""
        a = self._architecture
        if "output.weight" in self._weights:
            logits = self._linear(seen, "output")
        elif self._variant in ("fp32", "fp16"):
            logits = self._op("FusedMatMul", seen, "table", transB=1)
        else:
            views = [self._view("table.scales", a.vocabulary, a.hidden // BLOCK)]
            if any(tensor.name == "table.zeros" for tensor in self._tensors):
                views.append(self._view("table.zeros", a.vocabulary, a.hidden // BLOCK))
            logits = self._multiplied(seen, "table.codes", *views, bits=8, outputs=a.vocabulary, inputs=a.hidden)
        if self._half:
            logits = self._op("Cast", logits, to=TensorProto.FLOAT)
        if "output.bias" in self._weights:
            bias = self._stored("output.bias", self._weights["output.bias"].floats(), finite=False)
            self._node("Add", [logits, bias], ["logits"])
        else:
            self._node("Identity", [logits], ["logits"])

    def _linear(self, x: str, *names: str) -> str:
        """`x` times each of the matrices NAME.weight, side by side."""
        tensors = [self._weights[f"{name}.weight"] for name in names]
        title = "+".join(names)
        if self._variant in ("fp32", "fp16"):
            matrix = np.concatenate([self._narrow(tensor.floats()) for tensor in tensors])
            return self._op("MatMul", x, self._stored(title, matrix.T))
        return self._quantised(x, title, [blocks(tensor, self._variant) for tensor in tensors])

    def _biased(self, y: str, *names: str) -> str:
        """`y` plus NAME.bias of each part, if they have biases."""
        biases = [self._weights[f"{name}.bias"].floats() for name in names if f"{name}.bias" in self._weights]
        if not biases:
            return y
        return self._op("Add", y, self._stored("+".join(names) + ".bias", self._narrow(np.concatenate(biases))))

    def _quantised(self, x: str, title: str, matrices: Sequence[Blocks]) -> str:
        matrix = joined(matrices)
        if matrix is None:
            apart = [self._quantised(x, f"{title}.{i}", [part]) for i, part in enumerate(matrices)]
            return self._op("Concat", *apart, axis=-1)
        parts = [self._stored(f"{title}.codes", matrix.codes), self._stored(f"{title}.scales", matrix.scales)]
        if matrix.zeros is not None:
            parts.append(self._stored(f"{title}.zeros", matrix.zeros))
        outputs, count = matrix.scales.shape
        y = self._multiplied(x, *parts, bits=matrix.bits, outputs=outputs, inputs=count * BLOCK)
        if matrix.offsets is None:
            return y
        # Σ x·(scale·(code − zero) + offset): the offset of a block multiplies the sum of its inputs.
        grouped = self._op("Reshape", x, self._integers(0, 0, count, BLOCK))
        sums = self._op("ReduceSum", grouped, self._integers(-1), keepdims=0)
        offset = self._op("MatMul", sums, self._stored(f"{title}.offsets", matrix.offsets.T))
        return self._op("Add", y, offset)

    def _multiplied(self, x: str, *matrix: str, bits: int, outputs: int, inputs: int) -> str:
        sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK}
        return self._op("MatMulNBits", x, *matrix, **sizes, accuracy_level=_WHOLE_NUMBERS)

    def _add_and_normalise(self, residual: str, change: str, norm: str) -> tuple[str, str]:
        """The sum, normalised, and the sum itself."""
        outputs = [f"{norm}.seen", "", "", f"{norm}.sum"]
        self._node("SkipSimplifiedLayerNormalization", [residual, change, self._vector(norm)], outputs,
                   epsilon=self._architecture.norm_epsilon)  # fmt: skip
        return outputs[0], outputs[3]

    # Nodes

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The one output of an operator, which is given a name."""
        output = f"{kind}.{len(self._nodes)}"
        self._node(kind, inputs, [output], **attributes)
        return output

    def _node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        domain = _MICROSOFT if kind in _OF_MICROSOFT else ""
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))

    def _value(self, name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self._type, shape)

    # Weights

    def _vector(self, name: str) -> str:
        return self._stored(name, self._narrow(self._weights[name].floats()))

    def _narrow(self, array: NDArray[np.float32]) -> NDArray:
        with np.errstate(over="ignore"):  # refused when it is stored
            return array.astype(np.float16) if self._half else array

    def _constant(self, array: NDArray) -> str:
        """A small array, in the graph itself, where those who infer shapes look for it."""
        name = f"constant.{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(array, name))
        return name

    def _integers(self, *numbers: int) -> str:
        return self._constant(np.array(numbers))

    def _stored(self, name: str, array: NDArray, *, finite: bool = True) -> str:
        """A weight, written to the data file."""
        array = np.ascontiguousarray(array)
        if np.isnan(array).any() or (finite and np.isinf(array).any()):
            raise ModelError(f"tensor {name}: must be finite numbers in {self._variant}")
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        place = {"location": DATA, "offset": self._data.tell(), "length": array.nbytes}
        self._data.write(array.data)
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._tensors.append(tensor)
        return name

    def _view(self, name: str, *shape: int) -> str:
        view = _view(next(tensor for tensor in self._tensors if tensor.name == name), *shape)
        self._tensors.append(view)
        return view.name


def _view(tensor: onnx.TensorProto, *shape: int) -> onnx.TensorProto:
    """The same bytes of the data file in another shape."""
    view = TensorProto()
    view.CopyFrom(tensor)
    view.name = f"{tensor.name}.view"
    del view.dims[:]
    view.dims.extend(shape)
    return view


def _with_floats(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same decoder with floats in place of 8-bit codes in all products but the last, which is of one position.

    None if it has no such products. A block is a row to the operator that makes floats of it, which so is four times as fast as
    it is on blocks of a matrix.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"][:-1]
    sizes = {node.output[0]: {entry.name: entry.i for entry in node.attribute} for node in products}
    coded = {y: size for y, size in sizes.items() if size["bits"] == 8}
    if not coded:
        return None
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, onnx.TensorProto] = {}

    def integers(*numbers: int) -> str:
        name = "shape." + ".".join(map(str, numbers))
        shapes[name] = numpy_helper.from_array(np.array(numbers), name)
        return name

    for node in model.graph.node:
        (y, *_) = node.output
        if y not in coded:
            nodes.append(node)
            continue
        x, *parts = node.input
        outputs, inputs = coded[y]["N"], coded[y]["K"]
        count = outputs * inputs // BLOCK
        views = [_view(tensors[name], *shape) for name, shape in zip(parts, ((count, BLOCK), (count,), (count,)), strict=False)]
        tensors |= {view.name: view for view in views}
        codes = [view.name for view in views]
        if len(codes) == 2:
            middle = numpy_helper.from_array(np.array([128], np.uint8))
            nodes.append(helper.make_node("ConstantOfShape", [integers(count)], [f"{y}.zeros"], value=middle))
            codes.append(f"{y}.zeros")
        nodes += [
            helper.make_node("DequantizeLinear", codes, [f"{y}.blocks"], f"{y}.blocks", axis=0),
            helper.make_node("Reshape", [f"{y}.blocks", integers(outputs, inputs)], [f"{y}.weights"], f"{y}.weights"),
            helper.make_node("FusedMatMul", [x, f"{y}.weights"], [y], y, domain=_MICROSOFT, transB=1),
        ]
    used = {name for node in nodes for name in node.input}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(tensor for name, tensor in (tensors | shapes).items() if name in used)
    return changed


def _cache(prefix: str, layer: int) -> tuple[str, str]:
    return f"{prefix}.{layer}.key", f"{prefix}.{layer}.value"
