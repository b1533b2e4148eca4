"""GGUF files of both architectures converted and run, and damaged ones refused."""

import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lattice_live.models import ModelError
from lattice_live.models.convert import convert
from lattice_live.models.folder import ModelFolder, digest, model_hash
from lattice_live.models.gguf import Gguf
from lattice_live.models.quantise import READABLE, Tensor, blocks, joined
from lattice_live.models.tokeniser import byte_letters
from tests.live.models import decoder, files
from tests.live.models.runner import Runner

IDS = [*b"the old man and the sea"]

ROUNDED = {
    "whole numbers": {".weight": Kind.Q8_0},
    "mixed": {
        "attn_q.weight": Kind.Q4_1,
        "attn_k.weight": Kind.Q4_1,
        "attn_v.weight": Kind.Q8_0,
        "ffn_up.weight": Kind.Q5_1,
        "ffn_down.weight": Kind.Q4_0,
        "embd.weight": Kind.F16,
        "gate.weight": Kind.BF16,
    },
    "four bits": {
        "attn_q.weight": Kind.Q4_0,
        "attn_k.weight": Kind.Q4_1,
        "attn_v.weight": Kind.Q4_0,
        "ffn_up.weight": Kind.Q4_1,
        "embd.weight": Kind.Q4_0,
    },
}


def matrices_only(stored, weights):
    """The type of each matrix whose name has an end in `stored`; vectors stay F32."""
    return [(name, kind) for end, kind in stored.items() for name in weights if name.endswith(end) and weights[name].ndim == 2]


def run(folder, ids=IDS):
    return Runner(folder).step([ids])[0, -1]


def expected(a, weights, stored=(), ids=IDS):
    kinds = dict(stored)
    held = {
        name: dequantize(quantize(array, kinds.get(name, Kind.F32)), kinds.get(name, Kind.F32))
        for name, array in weights.items()
    }
    return decoder.logits(held, a, ids, interleaved=a.kind == "llama")[-1]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("layers", "heads", "kv_heads", "hidden"), [(2, 4, 2, 64), (1, 3, 3, 32), (1, 2, 1, 96)])
def test_a_converted_file_gives_the_logits_of_the_book(tmp_path, kind, tied, layers, heads, kv_heads, hidden):
    a = files.architecture(kind, layers, heads, kv_heads, hidden)
    weights = files.floats(a, tied)
    folder = convert(files.write(tmp_path / "m.gguf", a, weights), tmp_path / "m", "fp32")
    np.testing.assert_allclose(run(folder), expected(a, weights), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("stored", ROUNDED.values(), ids=ROUNDED)
@pytest.mark.parametrize(("variant", "atol"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.1), ("q4", 0.1)])
def test_every_variant_of_rounded_weights_is_near_the_book(tmp_path, kind, stored, variant, atol):
    a = files.architecture(kind, layers=2, heads=4, kv_heads=2, hidden=64)
    weights = files.floats(a)
    stored = matrices_only(stored, weights)
    folder = convert(files.write(tmp_path / "m.gguf", a, weights, stored), tmp_path / "m", variant)
    np.testing.assert_allclose(run(folder), expected(a, weights, stored), rtol=0, atol=atol)


def test_rotary_factors_lower_the_frequencies(tmp_path):
    a = files.architecture()
    weights = files.floats(a)
    factors = np.array([1, 1, 2, 4, 8, 8, 8, 8], np.float32)
    path = files.write(tmp_path / "m.gguf", a, weights | {"rope_freqs.weight": factors})
    slower = a._replace(frequencies=tuple(np.array(a.frequencies) / factors))
    found = run(convert(path, tmp_path / "m", "fp32"))
    np.testing.assert_allclose(found, expected(slower, weights), rtol=0, atol=1e-4)
    assert np.abs(found - expected(a, weights)).max() > 1e-3


floats = st.lists(st.floats(-4, 4, width=32), min_size=128, max_size=128)


@given(floats, st.sampled_from([Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]))
def test_what_a_file_holds_in_four_or_eight_bits_is_kept(numbers, kind):
    matrix = Tensor(kind, quantize(np.array(numbers, np.float32).reshape(2, 64), kind))
    kept = blocks(matrix, "q4")
    assert kept.bits == (8 if kind == Kind.Q8_0 else 4)
    np.testing.assert_allclose(unpacked(kept), matrix.floats(), rtol=1e-6, atol=1e-6)


@given(floats)
def test_other_weights_are_rounded_to_a_255th_of_the_range_of_their_block(numbers):
    matrix = np.array(numbers, np.float32).reshape(2, 64)
    found = unpacked(blocks(Tensor(Kind.F32, matrix), "int8"))
    apart = matrix.reshape(2, 2, 32)
    span = np.maximum(apart.max(-1), 0) - np.minimum(apart.min(-1), 0)
    assert np.all(np.abs(found.reshape(2, 2, 32) - apart) <= span[..., None] / 255 + 1e-6)


@given(floats, st.permutations([Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.F32]), st.integers(2, 4))
def test_matrices_are_joined_if_their_codes_are_alike(numbers, kinds, count):
    array = np.array(numbers, np.float32).reshape(2, 64)
    parts = [blocks(Tensor(kind, quantize(array, kind)), "q4") for kind in kinds[:count]]
    whole = joined(parts)
    if len({part.bits for part in parts}) > 1:
        assert whole is None
    else:
        np.testing.assert_array_equal(unpacked(whole), np.concatenate([unpacked(part) for part in parts]))


def unpacked(matrix):
    codes = matrix.codes
    if matrix.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1)
    zeros = 1 << (matrix.bits - 1) if matrix.zeros is None else matrix.zeros[..., None].astype(np.float32)
    offsets = 0 if matrix.offsets is None else matrix.offsets[..., None]
    return (matrix.scales[..., None] * (codes.astype(np.float32) - zeros) + offsets).reshape(len(codes), -1)


@pytest.mark.parametrize("kind", READABLE.values(), ids=lambda kind: kind.name)
def test_every_readable_type_can_be_read(kind):
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    assert Tensor(kind, np.zeros((2, 2 * size), np.uint8)).floats().shape == (2, 2 * block)


def test_the_manifest_says_what_the_file_says(tmp_path):
    a = files.architecture("qwen2")
    path = files.write(tmp_path / "tiny.gguf", a, files.floats(a), changes={"tokenizer.ggml.add_bos_token": ("bool", True)})
    m = convert(path, tmp_path / "m", "int8").manifest
    shown = (
        m.name,
        m.licence,
        m.source,
        m.architecture,
        m.layers,
        m.hidden,
        m.heads,
        m.kv_heads,
        m.head_dim,
        m.context,
        m.vocabulary,
    )
    assert shown == ("Tiny", "apache-2.0", "tiny.gguf", "qwen2", 1, 32, 2, 1, 16, 128, len(files.TOKENS))
    assert [files.TOKENS[id] for id in m.end] == ["<|im_end|>", "<|endoftext|>"]
    assert (m.begin, m.add_begin, m.bos_token, m.eos_token) == (
        files.TOKENS.index("<|im_start|>"),
        True,
        "<|im_start|>",
        "<|im_end|>",
    )
    assert (m.kv_dtype, m.variant, m.chat_template) == ("float32", "int8", "{{ messages }}")
    assert m.source_sha256 == digest(path)
    assert m.model_hash == model_hash(digest(path), "int8", m.converter)


# Text


@pytest.fixture(scope="module", params=["gpt-2", "smollm", "llama-bpe", "deepseek-r1-qwen"])
def tokeniser(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokeniser")
    a = files.architecture()
    changes = {"tokenizer.ggml.pre": ("string", request.param)}
    path = files.write(folder / "m.gguf", a, files.floats(a), changes=changes)
    return Tokenizer.from_file(str(convert(path, folder / "m", "fp32").path / "tokenizer.json"))


@given(st.text())
def test_text_comes_back_from_its_tokens(tokeniser, text):
    assert tokeniser.decode(tokeniser.encode(text).ids, skip_special_tokens=False) == text


def test_pairs_are_merged_and_marks_are_found(tokeniser):
    found = tokeniser.encode("<|im_start|>the the é12<think><|im_end|>").tokens
    assert found == ["<|im_start|>", "the", "Ġthe", "Ġ", "Ã©", "1", "2", "<think>", "<|im_end|>"]


def test_the_letters_of_bytes_are_256_different_ones():
    assert len(set(byte_letters())) == 256
    assert byte_letters()[ord("A")] == "A"
    assert byte_letters()[ord(" ")] == "Ġ"


# Bad files

A = files.architecture()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "m.gguf"
    return files.write(path, A, files.floats(A), [("embd.weight", Kind.Q8_0)]).read_bytes()


def attempt(tmp_path, content, variant="int8"):
    """Convert a file of this content: None and a whole model folder, or what was wrong with it and nothing else."""
    path, said = tmp_path / "bad.gguf", None
    path.write_bytes(content)
    try:
        convert(path, tmp_path / "m", variant).verify()
    except ModelError as error:
        said = str(error)
    assert sorted(file.name for file in tmp_path.iterdir()) == (["bad.gguf", "m"] if said is None else ["bad.gguf"])
    assert said is None or ("bad.gguf: " in said and "\n" not in said)
    return said


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([1.0, 0.02]))
def test_a_truncated_file_is_refused(good, tmp_path_factory, part, of):
    assert attempt(tmp_path_factory.mktemp("cut"), good[: int(len(good) * part * of)]) is not None


@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    st.sampled_from([1.0, 0.1, 0.02]),
)
def test_a_file_with_changed_bytes_is_converted_or_refused(good, tmp_path_factory, changes, of):
    content = bytearray(good)
    for part, change in changes:
        content[int(len(good) * part * of)] ^= change
    attempt(tmp_path_factory.mktemp("changed"), bytes(content))


@given(st.binary(max_size=200))
def test_anything_after_a_good_beginning_is_refused(good, tmp_path_factory, content):
    assert attempt(tmp_path_factory.mktemp("any"), good[:24] + content) is not None


def header(format, *values):
    """A file of version 3: the number of tensors, the number of keys, and what follows in `format`."""
    return b"GGUF" + struct.pack(f"<IQQ{format}", 3, *values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read: cannot mmap an empty file"),
        (b"GGML" + bytes(20), "magic: must be b'GGUF', not b'GGML'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version: must be 2 or 3, little-endian, not 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version: must be 2 or 3, little-endian, not 50331648"),
        (header("", 0, 2**64 - 1), "key 1 of 18446744073709551615: 8 bytes at 24: end after"),
        (header("", 2**64 - 1, 0), "tensor 1 of 18446744073709551615: 8 bytes at 24: end after"),
        (header("Q", 0, 1, 2**63), "key 1 of 1: 9223372036854775808 bytes at 32: end after"),
        (header("QcIIQ", 0, 1, 1, b"a", 9, 8, 2**62), "value of a: 8 bytes at 49: end after"),
        (header("QcIIQ", 0, 1, 1, b"a", 9, 12, 2**62), "value of a: 36893488147419103232 bytes at 49"),
        (header("QcIIQ", 0, 1, 1, b"a", 9, 9, 1), "type of elements: must be a number or a string, not 9"),
        (header("QcI", 0, 1, 1, b"a", 77), "a: type: must be from 0 to 12, not 77"),
        (header("Qc", 0, 1, 1, b"\xff"), "key 1 of 1: must be UTF-8"),
        (header("QcIQ", 1, 0, 1, b"t", 2**31, 0), "tensor t: must have 1 to 4 dimensions, not 2147483648"),
    ],
)  # fmt: skip
def test_absurd_headers_are_refused_by_name(tmp_path, content, said):
    assert said in attempt(tmp_path, content)


def one_tensor(*dimensions, kind=0, offset=0):
    return header("QcI", 1, 0, 1, b"t", len(dimensions)) + struct.pack(f"<{len(dimensions)}QIQ", *dimensions, kind, offset)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (one_tensor(2**40, 2**40), "tensor t: 4835703278458516698824704 bytes at offset 0: end after the file"),
        (one_tensor(4, offset=2**63), "tensor t: 16 bytes at offset 9223372036854775808: end after the file"),
        (one_tensor(4, offset=3), "tensor t: offset: must be a multiple of 32, not 3"),
        (one_tensor(0), "tensor t: shape: must be positive"),
        (one_tensor(33, kind=2), "rows in multiples of 32 as Q4_0 has, not [33]"),
        (one_tensor(4, kind=24), "tensor t: type: must be one of F32, F16"),
        (one_tensor(4, kind=999), "not 999"),
    ],
)  # fmt: skip
def test_absurd_tensors_are_refused_by_name(tmp_path, content, said):
    assert said in attempt(tmp_path, content)


OPTIONAL = {
    "general.name",
    "general.license",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.rope.freq_base",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.chat_template",
}


@pytest.mark.parametrize("key", sorted(files.keys(A)))
def test_a_missing_key_is_named_or_not_needed(tmp_path, key):
    weights = files.floats(A._replace(kv_heads=2))  # head_count_kv is head_count where it is missing
    changes = {key: (None, None)}
    if key != "llama.attention.head_count_kv":
        changes["llama.attention.head_count_kv"] = ("uint32", 2)
    said = attempt(tmp_path, files.write(tmp_path / "bad.gguf", A, weights, changes=changes).read_bytes())
    assert said is None if key in OPTIONAL else f"bad.gguf: {key}: is missing; must be" in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.block_count", ("uint32", 0), "layers: must be from 1 to 1024, not 0"),
        ("llama.block_count", ("uint32", 2), "tensor blk.1.attn_norm.weight: is missing; the llama architecture needs it"),
        ("llama.block_count", ("string", "two"), "llama.block_count: must be a whole number, not two"),
        ("llama.block_count", ("bool", True), "llama.block_count: must be a whole number, not True"),
        ("llama.block_count", ("array", [1, 2]), "llama.block_count: must be a whole number, not array"),
        ("llama.block_count", ("uint64", 2**63), "layers: must be from 1 to 1024"),
        ("llama.embedding_length", ("uint32", 64), "tensor token_embd.weight: must have shape [264, 64], not [264, 32]"),
        ("llama.attention.head_count", ("uint32", 0), "heads: must be from 1 to 1024, not 0"),
        ("llama.attention.head_count", ("int32", -2), "heads: must be from 1 to 1024, not -2"),
        ("llama.attention.head_count_kv", ("uint32", 3), "kv_heads: must divide heads, 2, not 3"),
        ("llama.attention.key_length", ("int32", -16), "head_dim: must be from 1 to 256, not -16"),
        ("llama.attention.key_length", ("uint32", 24), "head_dim: must be a multiple of 16, not 24"),
        ("llama.attention.value_length", ("uint32", 8), "llama.attention.value_length: must be 16, the width of a head, not 8"),
        ("llama.rope.freq_base", ("float32", float("nan")), "llama.rope.freq_base: must be finite, not nan"),
        ("llama.rope.freq_base", ("float32", 0.0), "llama.rope.freq_base: must be from 1 to 1e12, not 0.0"),
        ("llama.rope.scaling.type", ("string", "yarn"), "llama.rope.scaling.type: must be none, not 'yarn'"),
        ("llama.expert_count", ("uint32", 8), "llama.expert_count: must be 0, not 8"),
        ("llama.attention.sliding_window", ("uint32", 16), "sliding_window: must be 0 or at least 128, the context, not 16"),
        ("llama.attention.layer_norm_rms_epsilon", ("float32", -1.0), "norm epsilon: must lie between 0 and 1, not -1.0"),
        ("llama.context_length", ("uint32", 2**31), "context: must be from 1 to 1048576, not 2147483648"),
        ("general.alignment", ("uint32", 0), "general.alignment: must be a power of two up to 1048576, not 0"),
        ("tokenizer.ggml.model", ("string", "llama"), "tokenizer.ggml.model: must be gpt2, byte pairs, not 'llama'"),
        ("tokenizer.ggml.pre", ("string", "tekken"), "must be deepseek-r1-qwen, gpt-2, llama-bpe, qwen2, smollm, not 'tekken'"),
        ("tokenizer.ggml.tokens", ("array", ["a", "a"]), "tokens: must be tokens of one letter or more, each given once"),
        ("tokenizer.ggml.tokens", ("array", [*files.TOKENS[:-1], "xx", "yy"]), "token_type: must have 265 elements"),
        ("tokenizer.ggml.merges", ("array", ["t q"]), "merges: must be pairs of tokens that make a token, not 't q'"),
        ("tokenizer.ggml.eos_token_id", ("uint32", 264), "tokenizer.ggml.eos_token_id: must be from 0 to 263, not 264"),
        ("tokenizer.chat_template", ("string", "x" * (1 << 20)), "chat template: must have at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_is_allowed(tmp_path, key, value, said):
    assert said in attempt(tmp_path, files.write(tmp_path / "bad.gguf", A, files.floats(A), changes={key: value}).read_bytes())


def test_an_unknown_architecture_is_refused_by_name(tmp_path):
    path = files.write(tmp_path / "bad.gguf", A, files.floats(A), name="gemma3")
    with pytest.raises(ModelError, match=r"bad\.gguf: general\.architecture: must be llama or qwen2, not 'gemma3'"):
        convert(path, tmp_path / "m", "fp32")


def test_an_unknown_tensor_is_refused_by_name(tmp_path):
    weights = files.floats(A) | {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    path = files.write(tmp_path / "bad.gguf", A, weights)
    with pytest.raises(ModelError, match=r"tensor blk\.0\.attn_q\.bias: is no part of the llama architecture"):
        convert(path, tmp_path / "m", "fp32")


@pytest.mark.parametrize(("variant", "value"), [("fp32", np.nan), ("int8", np.inf), ("q4", -np.inf), ("fp16", 1e6)])
def test_weights_that_are_not_finite_in_a_variant_are_refused(tmp_path, variant, value):
    weights = files.floats(A)
    weights["blk.0.ffn_up.weight"][3, 5] = value
    said = attempt(tmp_path, files.write(tmp_path / "bad.gguf", A, weights).read_bytes(), variant)
    assert "tensor blk.0.ffn_gate+blk.0.ffn_up" in said
    assert f"must be finite numbers in {variant}" in said


def test_inputs_that_do_not_fill_blocks_are_refused_in_the_variants_that_have_them(tmp_path):
    a = files.architecture(hidden=48)
    path = files.write(tmp_path / "m.gguf", a, files.floats(a))
    for variant in ("int8", "q4"):
        with pytest.raises(ModelError, match=f"hidden: 48 inputs of a matrix; must be a multiple of 32 in {variant}"):
            convert(path, tmp_path / "m", variant)
    convert(path, tmp_path / "m", "fp32")


def test_an_unknown_variant_and_a_folder_in_use_are_refused(tmp_path):
    path = files.write(tmp_path / "m.gguf", A, files.floats(A))
    with pytest.raises(ModelError, match="variant: must be fp32, fp16, int8, q4, not 'q2'"):
        convert(path, tmp_path / "m", "q2")
    with pytest.raises(ModelError, match=r"m\.gguf: exists; must be a new or an empty folder"):
        convert(path, path, "fp32")
    with pytest.raises(ModelError, match=r"x\.gguf: cannot be read: No such file"):
        convert(tmp_path / "x.gguf", tmp_path / "m", "fp32")
    folder = convert(path, tmp_path / "m", "fp32")
    with pytest.raises(ModelError, match="exists"):
        convert(path, folder.path, "fp32")
    assert ModelFolder.open(folder.path).manifest == folder.manifest


def test_the_tensors_of_a_good_file_are_found(good, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(good)
    source = Gguf(path)
    assert source.shapes == A.tensors()
    weights = files.floats(A)
    for name, tensor in source.tensors.items():
        np.testing.assert_allclose(tensor.floats(), weights[name], rtol=0, atol=0.02)
