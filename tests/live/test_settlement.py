"""Batches reach a chain behind JSON-RPC once each, though it goes away, loses answers, or keeps its own time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lattice_core.batch import Chunk
from lattice_core.chain import rpc
from lattice_core.config import Config, ConfigError
from lattice_core.events import BatchConfirmed, BatchLapsed
from lattice_core.founding import founding
from lattice_core.standing import Standing
from lattice_live import settlement
from lattice_live.settlement import Settlement
from tests.live.chains import Anvil, restartable
from tests.live.networks import local

REAL_S = time.time

SAID = Standing(np.array([True, True]), np.array([0.9, 0.8]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Away is noticed after one short pause, and asked again soon."""
    monkeypatch.setattr(settlement, "PAUSES_S", (0.05, 0.2))
    monkeypatch.setattr(rpc, "_PAUSES_S", (0.02,))
    monkeypatch.setattr(rpc, "_LOG_BLOCKS", 3)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anvil]:
    with restartable(tmp_path_factory.mktemp("chain")) as node:
        yield node


def config(chain: Anvil, epoch: str = "10s") -> Config:
    return local(chain__backend="rpc", chain__url=chain.url, chain__epoch=epoch)


def batch(epoch: int, nlai: int = 1_000) -> Chunk:
    """Account 0 pays node 1."""
    one, none = np.array([nlai]), np.array([0])
    return Chunk(0, epoch, 0, np.array([0]), one, none, np.array([1]), one, none)


def settling(config: Config, book: Path, work: Callable[[Settlement], Awaitable[None]], secret: bytes = b"") -> None:
    async def run() -> None:
        settlement = Settlement(config, book, secret=secret)
        try:
            opened = await settlement.open()
            assert opened.facts == list(founding(config))
            await work(settlement)
        finally:
            settlement.close()

    asyncio.run(run())


async def paid(settlement: Settlement) -> int:
    """What account 0 has been debited, nanoLAI."""
    account = await settlement.read(lambda bridge: bridge.network.users.account(0))
    return 10**9 - account.purchased_nlai


def test_batches_wait_in_order_while_the_chain_is_away_and_are_settled_when_it_is_back(chain: Anvil, tmp_path: Path) -> None:
    async def work(settlement: Settlement) -> None:
        chain.stop()
        waiting = [asyncio.create_task(settlement.settle(batch(epoch), SAID)) for epoch in range(2)]
        await asyncio.sleep(0.3)
        assert settlement.away
        assert not any(task.done() for task in waiting)
        chain.start()
        for epoch, task in enumerate(waiting):
            outcome = await task
            assert outcome.fact == BatchConfirmed(0, epoch, 0)
            assert [operation.name for operation in outcome.operations] == ["settle", "claim", "post_status"]
        assert not settlement.away
        assert await paid(settlement) == 2_000

    settling(config(chain), tmp_path / "book.json", work)


def test_a_batch_whose_answer_was_lost_is_found_on_the_chain_and_not_settled_again(
    chain: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(settlement: Settlement) -> None:
        bridge = await settlement.read(lambda bridge: bridge)
        send = bridge.network.tokenomics.settle

        def send_and_lose(*arguments: object) -> None:
            send(*arguments)
            monkeypatch.setattr(bridge.network.tokenomics, "settle", send)
            raise rpc.ConnectionLost("cut")

        monkeypatch.setattr(bridge.network.tokenomics, "settle", send_and_lose)
        monkeypatch.setattr("lattice_live.settlement.PAUSES_S", (0.5, 0.5))
        task = asyncio.create_task(settlement.settle(batch(0), SAID))
        while not settlement.away:
            await asyncio.sleep(0.01)
        assert not settlement.holds(2), "the kernel keeps what is in its grace"
        assert settlement.holds(3), "but must not give up what may be settled"
        await asyncio.wait_for(settlement.closable(3), 5)
        outcome = await task
        assert outcome.settled is not None
        assert (outcome.fact, outcome.settled.purchased_nlai) == (BatchConfirmed(0, 0, 0), 1_000)
        assert await paid(settlement) == 1_000

    settling(config(chain), tmp_path / "book.json", work)


def test_what_the_kernel_has_given_up_the_chain_refuses(chain: Anvil, tmp_path: Path) -> None:
    async def work(settlement: Settlement) -> None:
        settlement.closed = lambda: 3
        late = await settlement.settle(batch(0), SAID)
        assert (late.fact, late.settled) == (BatchLapsed(0, 0, 0), None)
        assert "NotSettling" in late.failure
        in_time = await settlement.settle(batch(2), SAID)
        assert in_time.fact == BatchConfirmed(0, 2, 0)
        assert await paid(settlement) == 1_000

    settling(config(chain), tmp_path / "book.json", work)


def test_another_process_goes_on_with_the_same_contracts_and_settles_nothing_twice(chain: Anvil, tmp_path: Path) -> None:
    async def first(settlement: Settlement) -> None:
        await settlement.settle(batch(0), SAID)

    async def second(settlement: Settlement) -> None:
        again = await settlement.settle(batch(0), SAID)
        assert again.fact == BatchConfirmed(0, 0, 0)
        assert await paid(settlement) == 1_000
        assert (await settlement.settle(batch(1), SAID)).fact == BatchConfirmed(0, 1, 0)
        settlement.redo(lambda bridge: settlement.settle_again(bridge, batch(1), SAID, 1))
        await settlement.catch_up()
        assert await paid(settlement) == 2_000

    for work in (first, second):
        settling(config(chain), tmp_path / "book.json", work)


def test_a_process_starts_though_the_chain_is_away_and_leaves_what_it_cannot_settle(chain: Anvil, tmp_path: Path) -> None:
    async def nothing(settlement: Settlement) -> None: ...

    async def work(settlement: Settlement) -> None:
        settlement.give_up(0.2)
        with pytest.raises(asyncio.CancelledError):
            await settlement.settle(batch(0), SAID)
        with pytest.raises(ConnectionError):
            await settlement.read(lambda bridge: bridge)

    settling(config(chain), tmp_path / "book.json", nothing)
    chain.stop()
    try:
        settling(config(chain), tmp_path / "book.json", work)
        with pytest.raises(ConfigError, match=r"chain\.url: the node at http://127.* is away"):
            settling(config(chain), tmp_path / "another.json", nothing)
    finally:
        chain.start()


def test_a_book_of_another_chain_is_refused(chain: Anvil, tmp_path: Path) -> None:
    async def nothing(settlement: Settlement) -> None: ...

    book = tmp_path / "book.json"
    settling(config(chain), book, nothing)
    with restartable(tmp_path) as other, pytest.raises(ConfigError, match=r"book\.json: must list contracts that stand on the"):
        settling(config(other), book, nothing)
    book.write_text("{}")
    with pytest.raises(ConfigError, match="must be an address book"):
        settling(config(chain), book, nothing)


def test_a_chain_on_which_something_is_worth_stealing_takes_keys_of_a_secret_only(tmp_path: Path) -> None:
    async def work(settlement: Settlement) -> None:
        assert (await settlement.settle(batch(0), SAID)).fact == BatchConfirmed(0, 0, 0)
        assert await paid(settlement) == 1_000

    with restartable(tmp_path, chain_id=8_453) as chain:
        with pytest.raises(ConfigError, match="was derived without a secret"):
            settling(config(chain), tmp_path / "book.json", work)
        settling(config(chain), tmp_path / "book.json", work, secret=b"s" * 32)


def test_on_a_chain_that_keeps_its_own_time_a_batch_waits_for_the_end_of_its_epoch(
    chain: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = rpc.Node._once

    def disguised(node: rpc.Node, method: str, params: object) -> object:
        return "geth/1" if method == "web3_clientVersion" else once(node, method, params)  # type: ignore[arg-type]

    monkeypatch.setattr(rpc.Node, "_once", disguised)

    async def work(settlement: Settlement) -> None:
        left_s = settlement.until_end_s(0)
        assert left_s is not None
        assert 0 < left_s <= 2
        for jump_s in (-3_600, 86_400, 0):
            monkeypatch.setattr(time, "time", lambda jump_s=jump_s: REAL_S() + jump_s)
            assert abs(left_s - (settlement.until_end_s(0) or 0)) < 1, "the machine's time of day does not matter any more"
        assert (await settlement.settle(batch(0), SAID)).fact == BatchConfirmed(0, 0, 0)
        assert await settlement.read(lambda bridge: bridge.chain.block().timestamp_s >= bridge.epochs.end_s(0))
        assert await paid(settlement) == 1_000

    async def leave(settlement: Settlement) -> None:
        waiting = asyncio.create_task(settlement.settle(batch(0), SAID))
        await asyncio.sleep(0.1)
        settlement.give_up(20.0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 2)  # nobody waits 20 s for an hour to be over

    with restartable(tmp_path) as own:
        settling(config(own, "2s"), tmp_path / "book.json", work)
        settling(config(own, "1h"), tmp_path / "another.json", leave)


def test_in_this_process_too_the_chain_settles_nothing_that_the_kernel_has_given_up_which_waits_for_what_is_queued(
    tmp_path: Path,
) -> None:
    grace = local().chain.grace_epochs

    async def work(settlement: Settlement) -> None:
        async with settlement._turn:  # as while a chain is made again
            task = asyncio.create_task(settlement.settle(batch(0), SAID))
            await asyncio.sleep(0)
            assert not settlement.holds(grace), "the kernel keeps what is in its grace"
            assert settlement.holds(grace + 1)
        assert (await task).fact == BatchConfirmed(0, 0, 0)
        assert not settlement.holds(grace + 1)
        settlement.closed = lambda: grace + 2
        assert (await settlement.settle(batch(2), SAID)).fact == BatchConfirmed(0, 2, 0), "it is in its grace, if only just"
        assert (await settlement.settle(batch(1), SAID)).fact == BatchLapsed(0, 1, 0)
        assert await paid(settlement) == 2_000

    settling(local(), tmp_path / "book.json", work)
