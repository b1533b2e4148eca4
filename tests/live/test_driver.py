"""What the driver makes of the kernel's commands and the world's events, with nodes that act and with real ones."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from lattice_core.events import BatchConfirmed, Cancel, CloseEpoch, Dispatch, Fail, NodeDown, Progress, Receipt, Submit
from lattice_core.state import CLIENT_LEFT, COMPLETED, DEADLINE, FAILED, NODE_LOST
from lattice_live import driver
from lattice_live.launcher import NodeProcess, start_node
from lattice_live.node.engine import Engine, Job
from lattice_live.node.sampling import Sampling
from tests.live.networks import tiny
from tests.live.stage import Actor, Play, config_of, read, run, stage, truth


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def paced(number: int = 0) -> Actor:
    """An honest node that takes its time."""
    actor = Actor(number)
    actor.pause_s = 0.002
    return actor


def test_the_end_of_an_answer_is_told_once_it_is_durable_and_its_tokens_before() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), Actor(0)) as scene:
            scene.storage.closed = True
            answer = scene.ask([1], 5)
            await until(lambda: not scene.nexus.count("in_flight"))
            assert answer.ids.tolist() == truth([1], 5)
            assert (answer.begun.is_set(), answer.over.is_set(), answer.status) == (True, False, None)
            scene.storage.open()
            assert await read(answer) == truth([1], 5)
            assert answer.ended().outcome == COMPLETED

    run(scenario)


def test_a_batch_goes_to_the_chain_once_what_it_rests_on_is_durable() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), Actor(0)) as scene:
            await read(scene.ask([1], 5))
            scene.storage.closed = True
            scene.driver.tell(CloseEpoch(scene.driver.now_ns(), 0))
            for _ in range(10):
                await asyncio.sleep(0)
            assert (len(scene.seen(Submit)), scene.seen(BatchConfirmed)) == (1, [])
            scene.storage.open()
            await until(lambda: scene.seen(BatchConfirmed))

    run(scenario)


def test_each_receipt_that_the_kernel_hears_of_is_stored_first() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), Actor(0)) as scene:
            answer = scene.ask([1], 40)
            await read(answer)
            stored = [signed.progress.to_tok for signed in scene.storage.receipts]
            assert stored == [event.upto_tok for event in scene.seen(Progress)] == [16, 32, 40]
            assert [leg.receipt for leg in answer.legs] == scene.storage.receipts[-1:]

    run(scenario)


def test_a_storage_that_breaks_breaks_the_driver() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), Actor(0)) as scene:
            scene.storage.broken.set_exception(OSError("disk full"))
            await until(scene.driver.broken.done)

    with pytest.raises(OSError, match="disk full"):
        run(scenario)


def test_an_answer_that_is_enough_ends_there_and_its_node_is_paid_for_what_was_delivered() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), paced()) as scene:
            last = truth([1], 100)[20]
            whole = truth([1], 100)[: truth([1], 100).index(last) + 1]
            answer = scene.ask([1], 100, enough=lambda drawn: drawn.token == last)
            assert await read(answer) == whole
            status = answer.ended()
            assert (status.outcome, status.output_tok) == (COMPLETED, len(whole))
            [play] = scene.actors[0].plays
            assert play.cancelled
            assert play.book.receipted >= len(whole)

    run(scenario)


@pytest.mark.parametrize("enough", [True, False])
def test_a_node_that_does_not_stop_is_left_and_paid_for_what_it_has_signed(
    enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "DRAIN_S", 0.1)
    last = truth([1], 18)[17]

    async def act(play: Play) -> None:
        await play.honestly(20)
        await asyncio.sleep(60)

    async def scenario() -> None:
        async with stage(config_of(1, "5s", "5s"), Actor(0, act)) as scene:
            answer = scene.ask([1], 100, enough=lambda drawn: enough and drawn.token == last)
            await until(lambda: len(answer.ids) >= 18)
            scene.driver.leave(answer)
            await answer.over.wait()
            assert answer.ended().outcome == (COMPLETED if enough else FAILED)
            assert [one.output_tok for one in scene.seen(Receipt)] == [16]

    run(scenario)


def test_a_user_who_leaves_pays_for_what_was_delivered_and_the_node_stops() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), paced()) as scene:
            answer = scene.ask([1], 400)
            await until(lambda: len(answer.ids) == 20)
            scene.driver.leave(answer)
            scene.driver.leave(answer)
            tokens = await read(answer)
            status = answer.ended()
            assert (status.outcome, status.reason) == (FAILED, CLIENT_LEFT)
            assert scene.seen(Receipt)[-1].output_tok == len(tokens) == 20
            [play] = scene.actors[0].plays
            assert play.cancelled

    run(scenario)


def test_a_user_who_leaves_before_the_first_token_pays_nothing_and_the_node_hears_of_it() -> None:
    left = asyncio.Event()

    async def act(play: Play) -> None:
        await play.gone()
        left.set()

    async def scenario() -> None:
        async with stage(config_of(1, "5s", "5s"), Actor(0, act)) as scene:
            answer = scene.ask([1], 10)
            await until(lambda: scene.actors[0].plays)
            scene.driver.leave(answer)
            await answer.over.wait()
            assert answer.ended().fee_nlai == 0
            assert len(scene.seen(Cancel)) == 1
            await left.wait()

    run(scenario)


def test_a_deadline_ends_an_answer_that_runs_and_its_node_hears_of_it() -> None:
    left = asyncio.Event()

    async def act(play: Play) -> None:
        await play.honestly(17)
        await play.gone()
        left.set()

    async def scenario() -> None:
        async with stage(config_of(1, "5s", "5s"), Actor(0, act)) as scene:
            answer = scene.ask([1], 100, deadline_s=0.2)
            assert await read(answer) == truth([1], 17)
            assert (answer.ended().reason, answer.ended().output_tok) == (DEADLINE, 16)
            await left.wait()

    run(scenario)


def test_a_reader_who_does_not_read_is_left_after_a_while_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "STALLED_S", 0.3)

    async def scenario() -> None:
        async with stage(config_of(1), paced()) as scene:
            stalled = scene.ask([1], 450)
            tokens = stalled.tokens()
            assert (await anext(tokens)).token == truth([1], 1)[0]
            for number in range(2, 6):
                assert await read(scene.ask([number], 10)) == truth([number], 10)
            await stalled.over.wait()
            assert (stalled.ended().outcome, stalled.ended().reason) == (FAILED, CLIENT_LEFT)
            assert 10 < len(stalled.ids) < 450

    run(scenario)


def test_a_driver_that_stops_ends_what_is_open_and_pays_for_it() -> None:
    async def scenario() -> None:
        async with stage(config_of(1), paced()) as scene:
            answers = [scene.ask([number], 400) for number in range(1, 5)]
            await until(lambda: all(len(answer.ids) > 3 for answer in answers))
        for answer in answers:
            assert answer.ended().output_tok == len(answer.ids)
        assert scene.nexus.count("in_flight") == 0
        assert scene.seen(BatchConfirmed)

    run(scenario)


def test_a_first_leg_goes_out_at_once_and_a_second_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "RETRY_S", 1e6)

    async def act(play: Play) -> None:
        pass

    async def scenario() -> None:
        async with stage(config_of(2), Actor(0, act), Actor(1)) as scene:
            answer = scene.ask([1], 10)
            await until(lambda: len(scene.seen(Dispatch)) == 2)
            await asyncio.sleep(0.05)
            assert (len(scene.actors[0].plays), len(scene.actors[1].plays)) == (1, 0)
            scene.driver.leave(answer)
            await answer.over.wait()
            assert answer.ended().fee_nlai == 0

    run(scenario)


def test_an_answer_whose_node_is_lost_between_its_last_token_and_its_end_is_complete_as_it_is() -> None:
    async def act(play: Play) -> None:
        await play.honestly(17)
        await play.send(*play.token(7))

    async def scenario() -> None:
        async with stage(config_of(2), Actor(0, act), Actor(1)) as scene:
            answer = scene.ask([1], 100)
            assert await read(answer) == [*truth([1], 17), 7]
            assert answer.ended().outcome == COMPLETED
            assert [event.why for event in scene.seen(Fail)] == [NODE_LOST]
            assert [(one.node, one.output_tok) for one in scene.seen(Receipt) if one.nlai] == [(0, 16)]
            assert not scene.actors[1].plays

    run(scenario)


class Real:
    """A node process with the tiny model."""

    def __init__(self) -> None:
        self.process: NodeProcess

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def address(self) -> bytes:
        return self.process.address

    async def start(self) -> None:
        self.process = await start_node({"a": tiny().path}, context=512, threads=1, slots=2, step_ms=5)

    async def stop(self) -> None:
        await self.process.stop()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny(), slots=1, context=512)


def alone(engine: Engine, prompt: list[int], max_tok: int, sampling: Sampling) -> list[int]:
    """The answer of a node that nobody kills."""
    engine.submit(Job(1, prompt, sampling, max_tok))
    tokens: list[int] = []
    while len(tokens) < max_tok and not (tokens and tokens[-1] in engine.end):
        tokens += [token.token for token in engine.step()]
    return tokens


def test_an_answer_goes_on_at_another_node_when_its_own_is_killed_as_if_nothing_had_happened(engine: Engine) -> None:
    prompt = tiny().text.encode("Tell me a story.")
    never_end = dict.fromkeys(engine.end, -100.0)
    samplings = [Sampling(temperature=0.0, logit_bias=never_end), Sampling(seed=4, top_p=0.9, logit_bias=never_end)]

    async def scenario() -> None:
        reals = [Real() for _ in range(3)]
        async with stage(config_of(3, "10s", "10s"), *reals, model=tiny().manifest) as scene:
            for sampling in samplings:
                answer = scene.ask(prompt, 120, sampling=sampling)
                tokens = []
                async for drawn in answer.tokens():
                    tokens.append(drawn.token)
                    if len(tokens) == 45:
                        os.kill(reals[answer.legs[-1].node].process.pid, signal.SIGKILL)
                assert tokens == alone(engine, prompt, 120, sampling), "ids are contiguous, none is repeated, none is another"
                first, second = answer.legs
                assert (first.from_tok, first.to_tok, second.to_tok) == (0, second.from_tok, 120)
                assert 45 <= first.to_tok < 120
                assert answer.ended().outcome == COMPLETED
                assert answer.ended().output_tok == 120
                paid = [one for one in scene.seen(Receipt) if one.request == answer.request]
                assert [(one.node, one.output_tok) for one in paid] == [(leg.node, leg.receipted_tok) for leg in answer.legs]
                assert second.receipted_tok == 120 - second.from_tok
                offers = scene.nexus.table("offers")[[first.node, second.node]]
                owed = [
                    -(-(int(price_in) * prompt_tok + int(price_out) * leg.receipted_tok) // 10**6)
                    for price_in, price_out, prompt_tok, leg in zip(
                        offers["price_in"], offers["price_out"], (len(prompt), 0), answer.legs, strict=True
                    )
                ]
                assert [one.nlai + one.faucet_nlai for one in paid] == owed, "the prompt is paid once"
                assert answer.ended().fee_nlai == sum(owed)
                scene.driver.tell(NodeDown(scene.driver.now_ns(), first.node))

    run(scenario)
