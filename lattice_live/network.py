"""A live network: node processes, a chain, a Nexus and its folder, put together and taken apart."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from lattice_core.batch import Chunk
from lattice_core.census import NodeEntry, nodes
from lattice_core.config import Config, ConfigError
from lattice_core.events import EVENTS, BatchConfirmed, BatchFailed, BatchLapsed, Submit
from lattice_core.nexus import Nexus
from lattice_core.standing import Standing, standing
from lattice_live.driver import Driver
from lattice_live.folder import Folder, FolderError
from lattice_live.history import History
from lattice_live.launcher import NodeProcess, start_node
from lattice_live.settlement import Settlement
from lattice_live.upstream import Upstream


class Network(NamedTuple):
    """A network that serves. `processes[i]` runs the kernel's node i."""

    config: Config
    folder: Folder
    processes: list[NodeProcess]
    settlement: Settlement
    history: History
    driver: Driver


def launched(config: Config) -> Config:
    """`config` with the nodes of `live.launch` only, each serving the first of its models, as one process does.

    Raises ConfigError.
    """
    if config.chain.backend == "rpc":
        raise ConfigError(f"{config.name}: chain.backend: must be py-evm or revm in live mode, not rpc")
    if config.economics.bonus.per_day_nlai:
        raise ConfigError(f"{config.name}: economics.bonus.per_day: must be 0 in live mode, which does not weigh nodes")
    populations = []
    for population in config.nodes:
        count = config.live.launch.get(population.name, 0)
        if count:
            populations.append(population.model_copy(update={"count": count, "models": population.models[:1]}))
    if not populations:
        raise ConfigError(f"{config.name}: live.launch: must start at least one node")
    return config.model_copy(update={"nodes": populations})


@asynccontextmanager
async def running(config: Config, folder: Folder, step_ms: int = 0) -> AsyncIterator[Network]:
    """Start the network, or go on where its folder ends; on leaving, settle and stop it.

    `step_ms` is the least time of a node's token. Raises ConfigError, NodeError, and FolderError if the folder does not fit.
    """
    live = launched(config)
    async with AsyncExitStack() as stack:
        settlement = Settlement(live)
        stack.callback(settlement.close)
        processes = await _start(nodes(live), config, step_ms)
        stack.push_async_callback(_stop, processes)
        upstream = Upstream([process.url for process in processes])
        stack.push_async_callback(upstream.close)
        _compile_rules(config)
        nexus, history, unsettled = await _recover(config, folder, settlement, live)
        driver = Driver(nexus, upstream, settlement, history)
        driver.start(len(processes), unsettled)
        stack.push_async_callback(driver.stop)
        yield Network(config, folder, processes, settlement, history, driver)


async def _start(entries: Sequence[NodeEntry], config: Config, step_ms: int) -> list[NodeProcess]:
    """A process for each node; none is left if one does not start."""

    async def start(entry: NodeEntry) -> NodeProcess:
        population = entry.population
        name = population.models[0]
        weights, context_tok = config.models[name].weights, config.models[name].context_tok
        assert weights is not None  # the config was checked
        # A node answers one at a time: the others of its slots wait in its queue, which has one more place for a probe.
        queue = population.slots + population.queue
        return await start_node(name, seed=weights.random or 0, context=context_tok, queue=queue, step_ms=step_ms)

    tasks = [asyncio.create_task(start(entry)) for entry in entries]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await _stop([process for process in ended if isinstance(process, NodeProcess)])
        raise


async def _stop(processes: Sequence[NodeProcess]) -> None:
    await asyncio.gather(*(process.stop() for process in processes))


def _compile_rules(config: Config) -> None:
    """Show a Nexus that nobody uses one empty event of each kind, so that no user waits while a rule is compiled."""
    nexus = Nexus(config)
    for kind in EVENTS:
        zeros: list[Any] = [0] * (len(kind._fields) - len(kind._field_defaults))
        nexus.handle(kind(*zeros))


async def _recover(
    config: Config, folder: Folder, settlement: Settlement, live: Config
) -> tuple[Nexus, History, list[Chunk]]:  # fmt: skip
    """Kernel, history and chain as the journal left them, new ones if it is empty; and the batches whose fate it does not tell.

    The facts of the start, and what the chain said of each batch, come from the chain again. The folder compares whatever it is
    given with what it holds.
    """
    held = folder.events()
    nexus = Nexus(config, folder.journal, folder.decisions)
    opened = await settlement.open()
    history = History(live, nexus, opened.operations)
    for fact in opened.facts:
        history.see(fact, nexus.handle(fact))
    batches: dict[tuple[int, int], tuple[Chunk, Standing]] = {}
    for event in held[len(opened.facts) :]:
        if isinstance(event, BatchConfirmed | BatchFailed | BatchLapsed):
            outcome = await settlement.settle(*batches.pop((event.epoch, event.chunk)))
            if outcome.fact._replace(t_ns=event.t_ns) != event:
                raise FolderError(f"{folder.path}: must hold what the chain says, {outcome.fact}, not {event}")
            history.settle(outcome.settled, outcome.operations)
        commands = nexus.handle(event)
        history.see(event, commands)
        for command in commands:
            if isinstance(command, Submit):
                said = standing(nexus, nexus.count("now_ns"))
                batches[command.batch.epoch, command.batch.chunk] = command.batch, said
    if folder.decisions.ahead:
        raise FolderError(f"{folder.decisions.path}: must hold what follows from the journal and no more")
    return nexus, history, [batch for batch, _ in batches.values()]
