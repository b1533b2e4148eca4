"""A live network: node processes, a chain, a Nexus and its folder, put together and taken apart."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from lattice_core.batch import Chunk
from lattice_core.census import NodeEntry, nodes
from lattice_core.config import Config, ConfigError
from lattice_core.events import BatchConfirmed, BatchFailed, Event, Submit
from lattice_core.nexus import Nexus
from lattice_live.driver import Driver
from lattice_live.folder import Folder, FolderError
from lattice_live.launcher import NodeProcess, start_node
from lattice_live.settlement import Settlement
from lattice_live.upstream import Upstream


class Network:
    """A network that serves. `processes[i]` runs the kernel's node i."""

    def __init__(self, config: Config, folder: Folder, processes: list[NodeProcess], driver: Driver, chain: Settlement) -> None:
        self.config = config
        self.folder = folder
        self.processes = processes
        self.driver = driver
        self.chain = chain


def launched(config: Config) -> list[NodeEntry]:
    """The nodes of `live.launch`, numbered as they start. A process serves the first of its population's models.

    Raises ConfigError.
    """
    for name, count in config.live.launch.items():
        most = config.population(name).count
        if count > most:
            raise ConfigError(
                f"{config.name}: live.launch.{name}: must be at most {most}, the count of its population, not {count}"
            )
    chosen = [entry for entry in nodes(config) if entry.ordinal < config.live.launch.get(entry.population.name, 0)]
    if not chosen:
        raise ConfigError(f"{config.name}: live.launch: must start at least one node")
    populations = [entry.population.model_copy(update={"models": entry.population.models[:1]}) for entry in chosen]
    return [entry._replace(node=i, population=p) for i, (entry, p) in enumerate(zip(chosen, populations, strict=True))]


@asynccontextmanager
async def running(config: Config, folder: Folder, step_ms: int = 0) -> AsyncIterator[Network]:
    """Start the network or go on where its folder ends; on leaving, settle and stop it.

    `step_ms` slows the nodes' tokens down. Raises ConfigError, NodeError, and FolderError if the folder does not fit the network.
    """
    entries = launched(config)
    async with AsyncExitStack() as stack:
        chain = Settlement(config, entries)
        stack.callback(chain.close)
        processes = await _start(entries, config, step_ms)
        stack.push_async_callback(_stop, processes)
        upstream = Upstream([process.url for process in processes])
        stack.push_async_callback(upstream.close)
        nexus, unsettled = await _recover(config, folder, chain)
        driver = Driver(nexus, upstream, chain)
        driver.start(len(processes), unsettled)
        stack.push_async_callback(driver.stop)
        yield Network(config, folder, processes, driver, chain)


async def _start(entries: Sequence[NodeEntry], config: Config, step_ms: int) -> list[NodeProcess]:
    """A process for each node; none is left if one does not start."""

    def start(entry: NodeEntry) -> asyncio.Task[NodeProcess]:
        p = entry.population
        model = config.models[p.models[0]]
        assert model.weights is not None  # the config was checked
        # A node answers one at a time: its other slots wait in its queue, and there is one more place for a probe.
        room = p.slots + p.queue
        work = start_node(p.models[0], seed=model.weights.seed, context=model.context_tok, queue=room, step_ms=step_ms)
        return asyncio.create_task(work)

    tasks = [start(entry) for entry in entries]
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


async def _recover(config: Config, folder: Folder, chain: Settlement) -> tuple[Nexus, list[Chunk]]:
    """The kernel and the chain as the journal left them, new ones if it is empty; and the batches whose fate it does not tell.

    The facts of the start come from the chain again, and the folder compares them, as every decision, with what it holds.
    """
    held = list(folder.events())
    nexus = Nexus(config, folder.journal, folder.decisions)
    facts = await chain.open()
    batches: dict[tuple[int, int], Chunk] = {}
    for fact in facts:
        nexus.handle(fact)
    for event in held[len(facts) :]:
        for command in nexus.handle(event):
            if isinstance(command, Submit):
                batches[command.batch.epoch, command.batch.chunk] = command.batch
        if isinstance(event, BatchConfirmed | BatchFailed):
            await _settle_again(event, batches, folder, chain)
    if folder.decisions.ahead:
        raise FolderError(f"{folder.decisions.path}: must hold what follows from the journal, and holds more")
    return nexus, list(batches.values())


async def _settle_again(event: Event, batches: dict[tuple[int, int], Chunk], folder: Folder, chain: Settlement) -> None:
    """What the chain settled once it settles again, in the same order and to the same effect."""
    assert isinstance(event, BatchConfirmed | BatchFailed)
    batch = batches.pop((event.epoch, event.chunk), None)
    if isinstance(event, BatchConfirmed):
        fact, failure = (None, "nothing was submitted") if batch is None else await chain.settle(batch)
        if fact is None or fact._replace(t_ns=event.t_ns) != event:
            raise FolderError(f"{folder.journal.path}: {event} must be what the chain says again, not {failure or fact}")
