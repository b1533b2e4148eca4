"""The graph of a decoder against the decoder by the book."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_live.models import VARIANTS, random
from lattice_live.models.folder import DATA, ModelFolder, Origin, make
from lattice_live.models.quantise import Kind, Tensor, blocks, real
from lattice_live.models.tokeniser import BYTE_VOCABULARY, bytewise
from lattice_live.node import runtime
from tests.live.models import decoder
from tests.live.models.runner import Runner

WEIGHTS = random.weights(1)
FLOATS = {name: tensor.floats() for name, tensor in WEIGHTS.items()}
SPOKEN = np.isfinite(FLOATS["output.bias"])

tokens = st.integers(0, BYTE_VOCABULARY - 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random.build(tmp_path_factory.mktemp("models") / "random", 1)


@pytest.fixture(scope="module")
def runner(model):
    return Runner(model, rows=4, room=32)


def by_the_book(ids):
    return decoder.logits(FLOATS, random.TINY, ids)[-1]


def assert_equal(found, expected, atol=1e-4):
    np.testing.assert_allclose(found[SPOKEN], expected[SPOKEN], rtol=0, atol=atol)
    assert np.all(np.isneginf(found[~SPOKEN]))


def fill(runner, row, ids):
    runner.lengths[row] = 0
    return runner.step([ids], row)[0, -1]


@given(st.lists(tokens, min_size=1, max_size=24))
def test_a_prompt_read_at_once_gives_the_logits_of_the_book(runner, ids):
    assert_equal(fill(runner, 0, ids), by_the_book(ids))


@given(st.lists(tokens, min_size=1, max_size=24), st.sets(st.integers(1, 23)))
def test_a_prompt_read_in_chunks_gives_the_logits_of_the_book(runner, ids, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    runner.lengths[1] = 0
    for start, stop in itertools.pairwise(edges):
        found = runner.step([ids[start:stop]], 1)[0, -1]
        assert_equal(found, by_the_book(ids[:stop]))


@given(st.lists(st.lists(tokens, min_size=1, max_size=20), min_size=2, max_size=4), st.lists(tokens, min_size=4, max_size=4))
def test_rows_of_different_lengths_decode_together_as_each_would_alone(runner, prompts, following):
    for row, ids in enumerate(prompts):
        fill(runner, row, ids)
    for _ in range(2):
        found = runner.step([[token] for token in following[: len(prompts)]])
        prompts = [[*ids, token] for ids, token in zip(prompts, following, strict=False)]
        for logits, ids in zip(found, prompts, strict=True):
            assert_equal(logits[0], by_the_book(ids))


def test_positions_far_from_the_start_are_as_exact_as_the_first(model):
    long = Runner(model, room=2_048)
    ids = np.random.Generator(np.random.PCG64(5)).integers(0, BYTE_VOCABULARY, 2_000).tolist()
    assert_equal(long.step([ids])[0, -1], by_the_book(ids))


def test_all_logits_are_those_of_every_position(tmp_path):
    origin = Origin("random", "none", "random weights", "0" * 64)
    whole = make(tmp_path / "m", random.TINY, WEIGHTS, bytewise(), origin, "fp32", all_logits=True)
    ids = list(b"Once upon a time")
    found, expected = Runner(whole).step([ids])[0], decoder.logits(FLOATS, random.TINY, ids)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, SPOKEN], expected[:, SPOKEN], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("variant", "atol"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.15), ("q4", 0.15)])
@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_is_near_the_book_with_an_output_matrix_or_a_shared_table(tmp_path, variant, atol, tied):
    weights = {name: tensor for name, tensor in WEIGHTS.items() if not (tied and name == "output.weight")}
    origin = Origin("random", "none", "random weights", "0" * 64)
    runner = Runner(make(tmp_path / "m", random.TINY, weights, bytewise(), origin, variant))
    ids = list(b"Once upon a time")
    expected = decoder.logits({name: tensor.floats() for name, tensor in weights.items()}, random.TINY, ids)[-1]
    assert_equal(runner.step([ids])[0, -1], expected, atol)


def test_a_shared_table_is_stored_once(tmp_path):
    tied = {name: tensor for name, tensor in WEIGHTS.items() if name != "output.weight"}
    origin = Origin("random", "none", "random weights", "0" * 64)
    for variant in VARIANTS:
        untied_bytes, tied_bytes = (
            make(tmp_path / f"{variant}{number}", random.TINY, part, bytewise(), origin, variant).size_bytes
            for number, part in enumerate((WEIGHTS, tied))
        )
        assert untied_bytes - tied_bytes >= BYTE_VOCABULARY * random.TINY.hidden


def as_stored(tensor):
    """Q8_0 of a matrix."""
    rows = tensor.floats().reshape(len(tensor.data), -1, 32)
    scales = (np.abs(rows).max(-1, keepdims=True) / 127).astype(np.float16)
    codes = np.rint(rows / scales.astype(np.float32)).astype(np.int8)
    return Tensor(Kind.Q8_0, np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], -1).reshape(len(rows), -1))


@pytest.mark.parametrize("stored", [False, True])
def test_prompts_of_8_bit_weights_are_read_with_the_floats_that_those_stand_for(tmp_path, stored):
    def unrounded(tensor):
        held = blocks(tensor, "int8")
        zeros = 128 if held.zeros is None else held.zeros[..., None]
        return real((held.scales[..., None] * (held.codes.astype(np.float32) - zeros)).reshape(len(held.codes), -1))

    weights = {name: as_stored(t) if stored and t.data.ndim == 2 else t for name, t in WEIGHTS.items()}
    rounded = {name: unrounded(t) if t.data.ndim == 2 else t for name, t in weights.items()}
    origin = Origin("random", "none", "random weights", "0" * 64)
    codes = make(tmp_path / "codes", random.TINY, weights, bytewise(), origin, "int8")
    floats = make(tmp_path / "floats", random.TINY, rounded, bytewise(), origin, "fp32")
    assert floats.prefill == floats.graph != codes.prefill
    ids = list(b"Once upon a time, in a house by the sea")
    one, other = Runner(codes, graph="prefill"), Runner(floats)
    found, expected = (runner.step([ids])[0, -1] for runner in (one, other))
    for name, held in one.cache.items():
        np.testing.assert_allclose(held, other.cache[name], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[SPOKEN], expected[SPOKEN], rtol=0, atol=0.05)  # of one product with codes
    again = Runner(codes)
    again.step([ids])
    for name, held in again.cache.items():
        np.testing.assert_allclose(held, other.cache[name], rtol=0, atol=0.1)


def test_no_more_than_a_few_matrices_are_floats_at_a_time(tmp_path):
    broad = random.TINY._replace(layers=16, hidden=256, mlp=1_024)
    folder = random.build(tmp_path / "m", 1, "int8", broad)
    reader = runtime.session(folder.prefill, "cpu", 1)
    shape = (1, broad.kv_heads, 64, broad.head_dim)
    fed = {entry.name: np.zeros(shape, np.float32) for entry in reader.get_inputs() if entry.name.startswith("past")}
    fed |= {"input_ids": np.ones((1, 64), np.int64), "seqlens_k": np.array([63], np.int32)}
    fed["total_sequence_length"] = np.array([64], np.int32)
    before = resident_bytes()
    for _ in range(3):
        reader.run(["logits"], fed)
    floats = 4 * sum(int(np.prod(shape)) for name, shape in broad.tensors().items() if name.startswith("blk."))
    assert resident_bytes() - before < floats / 2


def resident_bytes():
    """Memory of this process that is no file's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_a_seed_names_one_model_to_the_byte(tmp_path, model):
    assert model.manifest.model_hash == "1a2c7a36d8a834dc9ec2c37a502eae541a088aed37151852fa0e3abda1129abd"
    assert model.manifest.files[DATA] == "7108b10125da721267eb6a2d8c6815ce2cb5fbdda0dd2af23614f2b6e840720e"
    first, again, other = (random.build(tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6)))
    assert first.manifest == again.manifest
    assert first.manifest.model_hash != other.manifest.model_hash
    assert ModelFolder.open(first.path).manifest == first.manifest
