"""The tiny model, its tokens and the engine that runs it, in this process."""

import itertools
import math
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_live.node import tiny_model
from lattice_live.node.engine import Engine, sample
from lattice_live.node.tokens import BEGIN, END, VOCABULARY, Detokeniser, encode

ENGINE = Engine(tiny_model.build(1), context=512, end=END)
MODEL_1 = "76d7ff01d9de8e7748cbef3e24bff7bab769dc48ceb7500f3accb0b40c9d9713"

prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=24)
seeds = st.integers(0, 2**63 - 1)
temperatures = st.sampled_from([0.0, 0.3, 1.0, 2.0])


def answer(prompt, max_tokens=16, seed=7, temperature=1.0):
    return list(ENGINE.generate(prompt, max_tokens=max_tokens, seed=seed, temperature=temperature))


def test_a_seed_names_one_model_to_the_byte():
    assert tiny_model.build(5) == tiny_model.build(5)
    assert tiny_model.build(5) != tiny_model.build(6)
    assert ENGINE.model_hash == sha256(tiny_model.build(1)).hexdigest() == MODEL_1


def test_the_engine_names_what_it_runs_on():
    assert ENGINE.provider == "CPUExecutionProvider"
    assert ENGINE.vocabulary == VOCABULARY


@given(prompts, st.sets(st.integers(1, 23)))
def test_reading_in_pieces_with_a_cache_equals_reading_at_once_without(ids, cuts):
    whole, _ = ENGINE.forward(ids, ENGINE.empty_cache())
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    cache, pieces = ENGINE.empty_cache(), []
    for start, stop in itertools.pairwise(edges):
        logits, cache = ENGINE.forward(ids[start:stop], cache)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-5)


def test_decoding_with_a_cache_equals_recomputing_each_token_from_the_start():
    prompt = encode("Once upon a time")
    read = list(prompt)
    for token in answer(prompt, max_tokens=64):
        logits, _ = ENGINE.forward(read, ENGINE.empty_cache())
        assert token == sample(logits[-1], 1.0, 7, len(read))
        read.append(token)


def test_what_was_read_long_ago_still_matters():
    later = encode("and so on and so on")
    first, second = (ENGINE.forward([start, *later], ENGINE.empty_cache())[0][-1, 32:127] for start in (10, 20))
    assert np.abs(first - second).max() > 1e-3


@given(prompts, seeds, temperatures)
def test_an_answer_depends_on_nothing_but_model_prompt_seed_and_temperature(prompt, seed, temperature):
    first = answer(prompt, seed=seed, temperature=temperature)
    assert answer(prompt, seed=seed, temperature=temperature) == first
    assert answer(prompt, max_tokens=4, seed=seed, temperature=temperature) == first[:4]


@given(prompts, seeds, st.integers(1, 15))
def test_an_answer_resumed_from_its_first_tokens_goes_on_as_it_would_have(prompt, seed, cut):
    whole = answer(prompt, seed=seed)
    delivered = whole[: min(cut, len(whole) - 1)]
    assert answer([*prompt, *delivered], max_tokens=16 - len(delivered), seed=seed) == whole[len(delivered) :]


@given(prompts, seeds, temperatures)
def test_answers_are_printable_ascii_and_end_at_the_end_mark_or_the_limit(prompt, seed, temperature):
    *body, last = answer(prompt, seed=seed, temperature=temperature)
    assert all(ord(" ") <= token <= ord("~") for token in body)
    assert last == END or (len(body) == 15 and ord(" ") <= last <= ord("~"))


def test_other_seeds_give_other_answers_and_some_end_by_themselves():
    answers = [answer(encode("Hello"), max_tokens=128, seed=seed) for seed in range(16)]
    assert len({tuple(tokens) for tokens in answers}) == 16
    assert any(tokens[-1] == END for tokens in answers)


def test_draws_follow_the_softmax_of_the_logits_over_the_temperature():
    logits, temperature, draws = np.array([0.0, 1.0, -np.inf, 2.5], np.float32), 1.5, 20_000
    weights = np.exp(logits / temperature)
    expected = weights / weights.sum()
    counts = np.bincount([sample(logits, temperature, 3, position) for position in range(draws)], minlength=4)
    for count, p in zip(counts, expected, strict=True):
        assert abs(count - draws * p) <= 4 * math.sqrt(draws * p * (1 - p))


def test_temperature_zero_takes_the_likeliest_token():
    assert sample(np.array([0.0, 3.0, 1.0], np.float32), 0.0, 1, 1) == 1


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "words"),
    [
        ([], 1, "prompt: expected"),
        ([VOCABULARY], 1, "0 to 257"),
        ([-1], 1, "0 to 257"),
        ([1], 0, "max_tokens: 0"),
        ([1], 512, "at most 512"),
    ],
)
def test_a_request_that_the_model_cannot_serve_is_refused_before_it_runs(prompt, max_tokens, words):
    with pytest.raises(ValueError, match=words):
        ENGINE.generate(prompt, max_tokens=max_tokens, seed=0, temperature=1.0)


@given(st.text())
def test_text_comes_back_from_its_tokens_and_no_character_comes_in_parts(text):
    begin, *tokens = encode(text)
    detokeniser = Detokeniser()
    pieces = [detokeniser.feed(token) for token in tokens]
    assert begin == BEGIN
    assert "".join(pieces) + detokeniser.finish() == text
    assert "\ufffd" not in pieces or "\ufffd" in text


def test_an_answer_cut_within_a_character_ends_with_the_replacement_mark():
    detokeniser = Detokeniser()
    assert [detokeniser.feed(token) for token in [BEGIN, 0x41, 0xE2, 0x82, END]] == ["", "A", "", "", ""]
    assert detokeniser.finish() == "\ufffd"


def test_a_lone_surrogate_in_a_prompt_is_a_question_mark():
    assert encode("a\ud800b") == [BEGIN, *b"a?b"]
