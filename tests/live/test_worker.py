"""The engine's thread and the streams of its jobs, with an engine whose every step is at the test's command."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_live.node.metrics import Metrics
from lattice_live.node.sampling import Sampling
from lattice_live.node.worker import EngineError, QueueFullError, Stream, UnavailableError, Worker
from tests.live.abacus import Abacus

GREEDY = Sampling(temperature=0.0)


@contextmanager
def work(engine: Abacus, queue: int = 100) -> Iterator[Worker]:
    worker = Worker("abacus", engine, Metrics(), queue=queue)  # type: ignore[arg-type]
    try:
        yield worker
    finally:
        engine.gate.set()
        worker.close()


def begin(worker: Worker, prompt: list[int], max_tokens: int = 4) -> Stream:
    return worker.open(prompt, GREEDY, max_tokens)


async def read(stream: Stream) -> list[int]:
    tokens = []
    while taken := await stream.take():
        tokens += [token.token for token in taken]
    return tokens


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


JOBS = st.lists(st.tuples(st.lists(st.integers(0, 99), min_size=1, max_size=5), st.integers(1, 20), st.booleans()), max_size=12)


@given(jobs=JOBS, slots=st.integers(1, 4))
def test_every_stream_is_the_answer_of_its_own_prompt_whatever_is_cancelled_beside_it(
    jobs: list[tuple[list[int], int, bool]], slots: int
) -> None:
    engine = Abacus(slots)

    async def scenario() -> None:
        with work(engine) as worker:
            streams = [begin(worker, prompt, max_tokens) for prompt, max_tokens, _ in jobs]
            for stream, (_, _, cancelled) in zip(streams, jobs, strict=True):
                if cancelled:
                    stream.cancel()
            for stream, (prompt, max_tokens, cancelled) in zip(streams, jobs, strict=True):
                answer = engine.answer(prompt, max_tokens)
                assert await read(stream) == ([] if cancelled else answer)
                assert stream.reason == ("cancelled" if cancelled else "stop" if answer[-1] in engine.end else "length")
            await worker.drained()
            assert (worker.in_flight, worker.queued, worker.free) == (0, 0, slots + 100)

    run(scenario)
    assert engine.submitted == sorted(engine.submitted)  # first come, first served


def test_a_job_beyond_slots_and_queue_is_refused_and_leaves_the_others_alone() -> None:
    engine = Abacus(slots=2)
    engine.gate.clear()

    async def scenario() -> None:
        with work(engine, queue=1) as worker:
            streams = [begin(worker, [n]) for n in range(3)]
            assert (worker.in_flight, worker.queued, worker.free) == (2, 1, 0)
            with pytest.raises(QueueFullError, match="2 served and 1 waiting, which is all"):
                begin(worker, [3])
            engine.gate.set()
            assert [await read(stream) for stream in streams] == [engine.answer([n], 4) for n in range(3)]

    run(scenario)


def test_a_job_that_cannot_be_served_is_refused_by_the_engines_own_words() -> None:
    async def scenario() -> None:
        with work(Abacus()) as worker:
            with pytest.raises(ValueError, match="at most 64, the context"):
                begin(worker, [1], 64)
            assert worker.free == 102

    run(scenario)


def test_a_job_cancelled_in_its_slot_or_in_the_queue_frees_its_place_at_once() -> None:
    engine = Abacus(slots=1)
    engine.gate.clear()

    async def scenario() -> None:
        with work(engine, queue=2) as worker:
            first, second, third = (begin(worker, [n]) for n in range(3))
            await until(lambda: engine.submitted == [1])
            first.cancel()
            second.cancel()
            assert (worker.in_flight, worker.queued, worker.free) == (1, 0, 2)
            assert [await read(first), await read(second)] == [[], []]
            fourth = begin(worker, [3])
            engine.gate.set()
            assert [await read(third), await read(fourth)] == [engine.answer([2], 4), engine.answer([3], 4)]
            assert engine.submitted == [1, 3, 4]

    run(scenario)


def test_a_reader_who_takes_nothing_delays_nobody_and_finds_his_whole_answer_later() -> None:
    engine = Abacus(slots=1)

    async def scenario() -> None:
        with work(engine) as worker:
            asleep = begin(worker, [1], 60)
            for n in range(20):
                assert await read(begin(worker, [n])) == engine.answer([n], 4)
            assert asleep.reason is not None
            assert await read(asleep) == engine.answer([1], 60)

    run(scenario)


def test_a_worker_that_drains_takes_nothing_more_and_finishes_what_it_has() -> None:
    engine = Abacus(slots=1)
    engine.gate.clear()

    async def scenario() -> None:
        with work(engine) as worker:
            streams = [begin(worker, [n]) for n in range(3)]
            worker.drain()
            assert worker.free == 0
            with pytest.raises(UnavailableError, match="drains"):
                begin(worker, [3])
            engine.gate.set()
            await worker.drained()
            assert [await read(stream) for stream in streams] == [engine.answer([n], 4) for n in range(3)]

    run(scenario)


def test_a_failing_engine_fails_its_own_jobs_with_its_words_and_serves_the_next() -> None:
    failing, sound = Abacus(slots=2), Abacus(slots=2)
    failing.gate.clear()

    async def scenario() -> None:
        with work(failing) as worker, work(sound) as other:
            unharmed = begin(other, [5])
            struck = [begin(worker, [n]) for n in range(2)]
            waiting = begin(worker, [2])
            await until(lambda: len(failing.submitted) == 2)
            failing.fault = MemoryError("no room")
            failing.gate.set()
            for stream in struck:
                with pytest.raises(EngineError, match=r"the engine of 'abacus' failed: MemoryError\('no room'\)"):
                    await read(stream)
                assert stream.reason == "failed"
            assert await read(waiting) == failing.answer([2], 4)
            assert await read(begin(worker, [3])) == failing.answer([3], 4)
            assert await read(unharmed) == sound.answer([5], 4)

    run(scenario)


def test_an_engine_that_loses_a_slot_fails_all_and_takes_no_more() -> None:
    engine = Abacus(slots=1)
    engine.gate.clear()

    async def scenario() -> None:
        with work(engine) as worker:
            streams = [begin(worker, [n]) for n in range(2)]
            await until(lambda: engine.submitted == [1])
            engine.fault, engine.stuck = RuntimeError("cable"), True
            engine.gate.set()
            for stream in streams:
                with pytest.raises(EngineError, match="cable"):
                    await read(stream)
            await until(lambda: worker.free == 0)
            with pytest.raises(UnavailableError, match="cable"):
                begin(worker, [3])

    run(scenario)


def test_a_worker_that_closes_ends_every_stream() -> None:
    engine = Abacus(slots=1)
    engine.gate.clear()

    async def scenario() -> None:
        with work(engine) as worker:
            streams = [begin(worker, [n], 50) for n in range(3)]
        assert [await read(stream) for stream in streams] == [[], [], []]
        assert {stream.reason for stream in streams} == {"cancelled"}

    run(scenario)


def test_a_pace_is_a_floor_under_the_time_of_a_token() -> None:
    async def scenario() -> None:
        worker = Worker("abacus", Abacus(), Metrics(), queue=0, step_s=0.02)  # type: ignore[arg-type]
        began_s = time.monotonic()
        await read(begin(worker, [1], 5))
        assert time.monotonic() - began_s >= 5 * 0.02
        worker.close()

    run(scenario)


def test_what_happened_is_counted_by_model_and_outcome() -> None:
    metrics, engine = Metrics(), Abacus(slots=1)

    async def scenario() -> None:
        worker = Worker("abacus", engine, metrics, queue=0)  # type: ignore[arg-type]
        await read(begin(worker, [1, 2], 5))
        engine.gate.clear()
        stream = begin(worker, [1])
        with pytest.raises(QueueFullError):
            begin(worker, [1])
        assert 'lattice_node_in_flight{model="abacus"} 1.0' in metrics.text().decode()
        stream.cancel()
        engine.gate.set()
        worker.close()

    run(scenario)
    lines = metrics.text().decode().splitlines()
    for outcome in ("length", "refused", "cancelled"):
        assert f'lattice_node_requests_total{{model="abacus",outcome="{outcome}"}} 1.0' in lines
    for kind, tokens in (("prompt", 2), ("output", 5)):
        assert f'lattice_node_tokens_total{{kind="{kind}",model="abacus"}} {tokens}.0' in lines
    assert 'lattice_node_ttft_seconds_count{model="abacus"} 1.0' in lines
    assert 'lattice_node_itl_seconds_count{model="abacus"} 4.0' in lines
