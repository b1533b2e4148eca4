"""Many answers at once are the answers one by one, token for token, whatever comes and goes."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lattice_live.models import random
from lattice_live.models.folder import ModelFolder
from lattice_live.models.tokeniser import BYTE_VOCABULARY, END
from lattice_live.node import runtime
from lattice_live.node.engine import Engine, Job, Token
from lattice_live.node.sampling import Sampling

CONTEXT = 192
CHUNK = 8
GREEDY = Sampling(0.0)
NO_END = {END: -100.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return random.build(tmp_path_factory.mktemp("engine") / "model")


def engine(folder: ModelFolder, slots: int = 4, **changes: int) -> Engine:
    given = {"context": CONTEXT, "threads": 1, "prefill_tok": CHUNK}
    return Engine(folder, slots=slots, **(given | changes))


def run(engine: Engine) -> list[Token]:
    """Everything that comes until nothing is in flight."""
    tokens = []
    while engine.in_flight:
        tokens += engine.step()
    return tokens


def answer(engine: Engine, job: Job) -> list[Token]:
    engine.submit(job)
    return run(engine)


def prompt(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(32, 127, n).tolist()


def job(number: int, n: int = 10, **changes: object) -> Job:
    given = {"sampling": GREEDY, "max_tokens": 12}
    return Job(number, prompt(n, number), **(given | changes))  # type: ignore[arg-type]


def bare(tokens: Sequence[Token]) -> list[tuple[int, int, str | None]]:
    return [(token.n, token.token, token.finish) for token in tokens]


prompts = st.one_of(
    st.lists(st.integers(0, BYTE_VOCABULARY - 1), min_size=1, max_size=30),
    st.integers(1, 5).map(lambda turns: [65 + turn for turn in range(turns) for _ in range(7)]),  # turns of one chat
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    min_p=st.sampled_from([0.0, 0.02]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**63 - 1),
    logit_bias=st.dictionaries(st.integers(0, BYTE_VOCABULARY - 1), st.floats(-9.0, 9.0), max_size=2),
    top_logprobs=st.sampled_from([None, 2]),
)


class Batching(RuleBasedStateMachine):
    """An engine of three slots against one that answers the same jobs one at a time, remembering nothing between them."""

    folder: ModelFolder
    many: Engine
    alone: Engine
    cases = count()

    def __init__(self) -> None:
        super().__init__()
        self.case = next(self.cases)  # no chat of an earlier case goes on: with less to read it would end sooner
        self.running: dict[int, Job] = {}
        self.came: dict[int, list[Token]] = {}
        self.jobs = 0

    @precondition(lambda self: len(self.running) < self.many.slots)
    @rule(
        prompt=prompts,
        sampling=samplings,
        max_tokens=st.integers(1, 20),
        session=st.sampled_from([None, "chat", "other"]),
    )
    def submit(self, prompt: list[int], sampling: Sampling, max_tokens: int, session: str | None) -> None:
        job = Job(self.jobs, prompt, sampling, max_tokens, session and f"{session} {self.case}")
        self.jobs += 1
        self.many.submit(job)
        self.running[job.id], self.came[job.id] = job, []

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for token in self.many.step():
                self.came[token.job].append(token)
                if token.finish:
                    job = self.running.pop(token.job)._replace(session=None)
                    assert answer(self.alone, job) == self.came.pop(token.job)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.running)))
        job, came = self.running.pop(id), self.came.pop(id)
        self.many.cancel(id)
        assert answer(self.alone, job._replace(session=None))[: len(came)] == came

    @precondition(lambda self: len(self.running) == self.many.slots)
    @rule()
    def no_slot_is_left(self) -> None:
        with pytest.raises(RuntimeError, match="slots: all 3 are taken"):
            self.many.submit(Job(self.jobs, [1], GREEDY, 1))

    @invariant()
    def slots_are_those_of_running_jobs(self) -> None:
        assert self.many.in_flight == len(self.running) == self.many.slots - self.many.free_slots

    def teardown(self) -> None:
        for id in self.running:
            self.many.cancel(id)


def test_concurrent_answers_are_those_of_one_at_a_time(folder: ModelFolder) -> None:
    class Case(Batching):
        many = engine(folder, 3)
        alone = engine(folder, 1)

    run_state_machine_as_test(Case)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_16_staggered_chats_of_which_some_are_cancelled_are_16_sequential_ones(tmp_path: Path, variant: str) -> None:
    folder = random.build(tmp_path / "model", 3, variant)
    jobs = [job(n, 5 + 7 * n, sampling=Sampling(float(n % 2), seed=n), max_tokens=10 + 3 * n) for n in range(16)]
    alone, many = engine(folder, 1), engine(folder, 16)
    expected = {each.id: answer(alone, each) for each in jobs}
    came: dict[int, list[Token]] = {each.id: [] for each in jobs}
    waiting = list(jobs)
    for step in range(10_000):
        if step % 2 == 0 and waiting:
            many.submit(waiting.pop(0))
        if not (many.in_flight or waiting):
            break
        for token in many.step():
            came[token.job].append(token)
        for gone in (3, 8, 15):
            if len(came[gone]) == 4:
                many.cancel(gone)
    for n, tokens in came.items():
        assert tokens == (expected[n][:4] if n in (3, 8, 15) else expected[n])
        assert len(tokens) >= 4 or tokens[-1].finish


def chat(turns: int) -> Iterator[list[int]]:
    """The prompts of a chat whose every turn begins with the one before."""
    for turn in range(1, turns + 1):
        yield [token for n in range(turn) for token in prompt(13, n)]


def steps_to_first(engine: Engine, job: Job) -> int:
    engine.submit(job)
    steps = 1
    while all(token.job != job.id for token in engine.step()):
        steps += 1
    return steps


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_reading_a_prompt_from_where_its_session_left_it_changes_nothing_but_time(tmp_path: Path, variant: str) -> None:
    folder = random.build(tmp_path / "model", 3, variant)
    many, alone = engine(folder), engine(folder, 1)
    for n, ids in enumerate(chat(8)):
        turn = Job(n, ids, Sampling(1.0, seed=n), 9, "chat")
        steps = steps_to_first(many, turn)
        assert steps <= 3 < (len(ids) + CHUNK - 1) // CHUNK or n < 3
        many.cancel(n)
        assert answer(many, turn) == answer(alone, turn._replace(session=None))


def test_a_session_is_read_again_once_another_has_its_row(folder: ModelFolder) -> None:
    many = engine(folder, 2)
    long = prompt(130)
    assert steps_to_first(many, Job(0, long, GREEDY, 2, "a")) == 3
    many.cancel(0)
    assert steps_to_first(many, Job(1, long, GREEDY, 2, "a")) == 1
    many.cancel(1)
    for n in (2, 3):
        steps_to_first(many, Job(n, prompt(130, n), GREEDY, 2, f"other {n}"))
    many.cancel(2)
    assert steps_to_first(many, Job(4, long, GREEDY, 2, "a")) == 3


def test_a_session_reads_nothing_of_another(folder: ModelFolder) -> None:
    many = engine(folder)
    steps_to_first(many, Job(0, prompt(130), GREEDY, 2, "a"))
    many.cancel(0)
    assert steps_to_first(many, Job(1, prompt(130), GREEDY, 2, "b")) == 3
    assert steps_to_first(many, Job(2, prompt(130), GREEDY, 2)) == 3


def test_a_row_that_decodes_keeps_its_session_when_another_ends(folder: ModelFolder) -> None:
    many = engine(folder)
    first, second = (Job(n, prompt(40, n), GREEDY, 30, f"chat {n}") for n in range(2))
    steps_to_first(many, first)
    steps_to_first(many, second)
    many.cancel(0)  # the second row takes its place
    assert steps_to_first(many, first._replace(id=2)) == 1
    many.cancel(1)
    assert steps_to_first(many, second._replace(id=3)) == 1


@pytest.mark.parametrize("size", [2, 3, 16, 64])
def test_the_size_of_chunks_changes_logits_by_their_last_bits_only(folder: ModelFolder, size: int) -> None:
    asked = job(1, 70, sampling=Sampling(0.0, top_logprobs=5))
    whole, cut = answer(engine(folder, prefill_tok=128), asked), answer(engine(folder, prefill_tok=size), asked)
    assert bare(cut) == bare(whole)
    for a, b in zip(whole, cut, strict=True):
        assert [i for i, _ in a.top] == [i for i, _ in b.top]
        np.testing.assert_allclose([p for _, p in a.top], [p for _, p in b.top], atol=1e-4)


def test_deep_in_a_prompt_chunks_are_shorter(folder: ModelFolder) -> None:
    deep = engine(folder, 2, context=4_200, prefill_tok=128)
    long = Job(0, prompt(4_100), GREEDY, 2, "a")
    steps_to_first(deep, job(1, max_tokens=100, sampling=Sampling(0.0, logit_bias=NO_END)))
    assert steps_to_first(deep, long) == 8 + 48 + 1
    deep.cancel(0)
    assert steps_to_first(deep, long._replace(id=2)) == 1


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_while_nobody_decodes_several_chunks_are_read_at_once_to_the_same_answer(tmp_path: Path, variant: str) -> None:
    folder = random.build(tmp_path / "model", 3, variant)
    alone, busy = engine(folder, 2), engine(folder, 2)
    steps_to_first(busy, job(1, max_tokens=100, sampling=Sampling(0.0, logit_bias=NO_END)))
    long = Job(0, prompt(20 * CHUNK + 1), Sampling(0.0, top_logprobs=5), 4)
    assert (steps_to_first(alone, long), steps_to_first(busy, long)) == (3 + 1, 20 + 1)  # what is left is read apart
    for each in (alone, busy):
        each.cancel(0)
    assert answer(alone, long) == [token for token in answer(busy, long) if token.job == 0]


def test_a_prompt_and_first_tokens_are_continued_with_the_rest(folder: ModelFolder) -> None:
    one = engine(folder, 1)
    asked = job(5, 10, sampling=Sampling(1.0, seed=5), max_tokens=20)
    drawn = [token.token for token in answer(one, asked)]
    rest = asked._replace(prompt=[*asked.prompt, *drawn[:4]], max_tokens=asked.max_tokens - 4)
    assert [token.token for token in answer(one, rest)] == drawn[4:]


def test_a_long_prompt_delays_others_by_a_chunk_a_token(folder: ModelFolder) -> None:
    many = engine(folder)
    for n in range(3):
        steps_to_first(many, job(n, max_tokens=100, sampling=Sampling(0.0, logit_bias=NO_END)))
    many.submit(job(3, 150, max_tokens=1))
    for _ in range(150 // CHUNK):
        assert sorted(token.job for token in many.step()) == [0, 1, 2]


def test_prompts_are_read_first_come_first_served(folder: ModelFolder) -> None:
    many = engine(folder)
    for n in range(4):
        many.submit(job(n, 20, max_tokens=40, sampling=Sampling(0.0, logit_bias=NO_END)))
    first = [token.job for _ in range(14) for token in many.step() if token.n == 1]
    assert first == [0, 1, 2, 3]


def test_cancelling_frees_the_slot_at_once_even_within_a_prompt(folder: ModelFolder) -> None:
    one = engine(folder, 1)
    expected = answer(one, job(1))
    one.submit(job(0, 100))
    assert one.step() == []
    one.cancel(0)
    assert (one.free_slots, one.step()) == (1, [])
    assert answer(one, job(1)) == expected
    one.cancel(99)


def test_an_answer_ends_at_an_end_mark_or_at_its_length(folder: ModelFolder) -> None:
    one = engine(folder, 1)
    *before, last = answer(one, job(0, sampling=Sampling(0.0, logit_bias={END: 1_000.0})))
    assert (before, last.token, last.finish) == ([], END, "stop")
    tokens = answer(one, job(0, sampling=Sampling(0.0, logit_bias=NO_END)))
    assert [token.finish for token in tokens] == [None] * 11 + ["length"]
    assert [token.n for token in tokens] == list(range(1, 13))


def test_several_answers_may_end_in_one_step(folder: ModelFolder) -> None:
    many = engine(folder)
    bias = Sampling(0.0, logit_bias=NO_END)
    for n, length in enumerate((6, 5, 4, 20)):
        steps_to_first(many, job(n, 4, sampling=bias, max_tokens=length))
    ended = [[token.job for token in many.step() if token.finish] for _ in range(2)]
    assert ended == [[], [0, 1, 2]]
    assert many.in_flight == 1


def test_an_answer_may_fill_the_context(folder: ModelFolder) -> None:
    one = engine(folder, 1)
    asked = job(0, CONTEXT - 5, max_tokens=5, sampling=Sampling(0.0, logit_bias=NO_END))
    assert [token.n for token in answer(one, asked)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": []}, "prompt: must be one or more token ids from 0 to 257"),
        ({"prompt": [258]}, "prompt: must be"),
        ({"prompt": [-1]}, "prompt: must be"),
        ({"max_tokens": 0}, "max_tokens: 0 after a prompt of 10 tokens; must be at least 1, and the sum at most 192"),
        ({"max_tokens": 2**62}, "max_tokens: 4611686018427387904 after"),
        ({"max_tokens": CONTEXT - 9}, "max_tokens: 183 after"),
        ({"sampling": Sampling(-1.0)}, "temperature: must be"),
        ({"sampling": Sampling(logit_bias={258: 1.0})}, "logit_bias: must be"),
        ({"id": 7}, "id: must be one that does not run, not 7"),
    ],
)
def test_what_cannot_be_served_is_refused_and_others_go_on(folder: ModelFolder, changes: dict, said: str) -> None:
    many = engine(folder, 2)
    expected = answer(many, job(7))
    many.submit(job(7))
    with pytest.raises(ValueError, match=said):
        many.submit(job(1)._replace(**changes))
    assert many.free_slots == 1
    assert run(many) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"context": 1}, "context: must be from 2 to 8192"), ({"context": 8_193}, "context"), ({"slots": 0}, "slots: must be")],
)
def test_an_engine_of_impossible_size_is_refused(folder: ModelFolder, changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        engine(folder, **changes)


def test_a_cache_that_memory_cannot_hold_is_refused_with_its_bytes(folder: ModelFolder) -> None:
    with pytest.raises(MemoryError, match=r"10000000 slots of 8192 tokens need 41943040000000 bytes.*; give fewer slots"):
        engine(folder, 10_000_000, context=8_192)
    assert engine(folder, 3).memory_bytes == 3 * 2 * 2 * 2 * CONTEXT * 16 * 4


def test_the_cache_is_not_copied(folder: ModelFolder) -> None:
    many = engine(folder, 2)
    answer(many, job(0))
    held = [(array.ctypes.data, array.copy()) for array in many._cache._arrays.values()]
    answer(many, job(1, 30))
    now = list(many._cache._arrays.values())
    assert [array.ctypes.data for array in now] == [address for address, _ in held]
    assert not any(np.array_equal(array, before) for array, (_, before) in zip(now, held, strict=True))


def test_only_a_provider_that_is_there_is_used(folder: ModelFolder, tmp_path: Path) -> None:
    assert engine(folder).provider == "cpu"
    half = random.build(tmp_path / "half", 1, "fp16")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(runtime.RuntimeUnusableError, match=r"cuda is not in onnxruntime; it is in lattice\[gpu\]"):
            Engine(half, slots=1, context=64, provider="cuda")
    with pytest.raises(ValueError, match="provider: must be cuda for the variant fp16"):
        engine(half)
    with pytest.raises(ValueError, match="provider: must be cpu for the variant fp32"):
        Engine(folder, slots=1, context=64, provider="cuda")
    with pytest.raises(runtime.RuntimeUnusableError, match="provider: must be cpu or cuda, not 'tpu'"):
        Engine(folder, slots=1, context=64, provider="tpu")


@pytest.mark.parametrize(
    ("installed", "said"), [(set(), "is not installed"), ({"onnxruntime", "onnxruntime-gpu"}, "both are installed")]
)
def test_exactly_one_onnx_runtime_must_be_installed(monkeypatch: pytest.MonkeyPatch, installed: set[str], said: str) -> None:
    monkeypatch.setattr(runtime, "_version", lambda name: "1" if name in installed else None)
    with pytest.raises(runtime.RuntimeUnusableError, match=rf"{said}.*lattice\[cpu\].*lattice\[gpu\]"):
        runtime.wheel()


def test_a_damaged_graph_is_an_error_of_one_line(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(runtime.RuntimeUnusableError, match=r"\A\S+model.onnx: ONNX Runtime cannot load it[^\n]+\Z"):
        runtime.session(tmp_path / "model.onnx", "cpu", 1)
