"""A live network: node processes, a chain, a Nexus and its folder, put together and taken apart."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lattice_core.batch import Chunk
from lattice_core.census import NodeEntry, nodes
from lattice_core.chain.keys import key_of
from lattice_core.config import Config, ConfigError
from lattice_core.events import EVENTS, BatchConfirmed, BatchFailed, BatchLapsed, Submit
from lattice_core.nexus import Nexus
from lattice_core.standing import Standing, standing
from lattice_live.driver import Driver
from lattice_live.folder import Folder, FolderError
from lattice_live.history import History
from lattice_live.launcher import NodeError, NodeProcess, start_node
from lattice_live.models import ModelError, store
from lattice_live.models.folder import ModelFolder
from lattice_live.models.store import Progress, silent
from lattice_live.models.text import Text
from lattice_live.node.identity import save_key
from lattice_live.settlement import Settlement
from lattice_live.upstream import NodeFailure, Peer, Realm, Upstream


class Network(NamedTuple):
    """A network that serves. `processes[i]` runs the kernel's node i, `texts` are by model."""

    config: Config
    folder: Folder
    processes: list[NodeProcess]
    settlement: Settlement
    history: History
    driver: Driver
    texts: dict[str, Text]


def launched(config: Config) -> Config:
    """`config` with the nodes of `live.launch` only. Raises ConfigError."""
    if config.chain.backend == "rpc":
        raise ConfigError(f"{config.name}: chain.backend: must be py-evm or revm in live mode, not rpc")
    if config.economics.bonus.per_day_nlai:
        raise ConfigError(f"{config.name}: economics.bonus.per_day: must be 0 in live mode, which does not weigh nodes")
    populations = []
    for population in config.nodes:
        count = config.live.launch.get(population.name, 0)
        if count:
            populations.append(population.model_copy(update={"count": count}))
    if not populations:
        raise ConfigError(f"{config.name}: live.launch: must start at least one node")
    return config.model_copy(update={"nodes": populations})


def models(config: Config, progress: Callable[[str], Progress] = lambda name: silent) -> dict[str, ModelFolder]:
    """The folders of the models that the launched nodes serve, by name; what is missing is pulled and converted.

    `progress` is asked for each model's own. Raises ConfigError.
    """
    wanted = dict.fromkeys(name for population in launched(config).nodes for name in population.models)
    return {name: _model(config, name, progress(name)) for name in wanted}


def _model(config: Config, name: str, progress: Progress) -> ModelFolder:
    weights, context_tok = config.models[name].weights, config.models[name].context_tok
    assert weights is not None  # the config was checked
    try:
        if weights.seed is not None:
            folder = store.resolve_random(weights.seed)
        elif weights.pull is not None:
            folder = store.resolve(weights.pull, weights.variant, progress)
        elif weights.gguf is not None:
            folder = store.resolve_gguf(Path(weights.gguf), weights.variant, progress)
        else:
            folder = ModelFolder.open(weights.folder or "")
    except ModelError as error:
        raise ConfigError(f"{config.name}: models.{name}.weights: {error}") from error
    if context_tok > folder.manifest.context:
        most = folder.manifest.context
        raise ConfigError(f"{config.name}: models.{name}.context: must be at most {most}, the model's own, not {context_tok}")
    return folder


@asynccontextmanager
async def running(
    config: Config, folder: Folder, step_ms: int = 0, folders: Mapping[str, ModelFolder] | None = None
) -> AsyncIterator[Network]:
    """Start the network, or go on where its folder ends; on leaving, settle and stop it.

    `step_ms` is the least time of a node's token, `folders` what `models` gives. Raises ConfigError, NodeError, and FolderError
    if the folder does not fit.
    """
    live = launched(config)
    folders = folders if folders is not None else models(config)
    async with AsyncExitStack() as stack:
        settlement = Settlement(live)
        stack.callback(settlement.close)
        entries = nodes(live)
        processes = await _start(entries, live, folder, folders, step_ms)
        stack.push_async_callback(_stop, processes)
        _compile_rules(config)
        nexus, history, unsettled = await _recover(config, folder, settlement, live)
        upstream = Upstream(
            [Peer(process.url, key_of(entry.key).address) for process, entry in zip(processes, entries, strict=True)],
            await settlement.read(lambda bridge: Realm(bridge.nexus, bridge.chain.chain_id, bridge.network.nodes.address)),
            {name: model.manifest.vocabulary for name, model in folders.items()},
        )
        stack.push_async_callback(upstream.close)
        await _join(upstream, processes)
        driver = Driver(nexus, upstream, settlement, history)
        driver.start(len(processes), unsettled)
        stack.push_async_callback(driver.stop)
        texts = {name: model.text for name, model in folders.items()}
        yield Network(config, folder, processes, settlement, history, driver, texts)


async def _start(
    entries: Sequence[NodeEntry], live: Config, folder: Folder, folders: Mapping[str, ModelFolder], step_ms: int
) -> list[NodeProcess]:
    """A process for each node, with the key that the chain knows it by; none is left if one does not start."""
    keys = folder.path / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // len(entries))

    async def start(entry: NodeEntry) -> NodeProcess:
        population = entry.population
        key = keys / f"node-{entry.node}.key"
        save_key(key, key_of(entry.key))
        return await start_node(
            {name: folders[name].path for name in population.models},
            slots=population.slots,
            queue=population.queue + 1,  # the probe's place
            context=max(live.models[name].context_tok for name in population.models),
            threads=threads,
            step_ms=step_ms,
            key=key,
        )

    tasks = [asyncio.create_task(start(entry)) for entry in entries]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await _stop([process for process in ended if isinstance(process, NodeProcess)])
        raise


async def _join(upstream: Upstream, processes: Sequence[NodeProcess]) -> None:
    """Let each node prove that it holds the key of its entry in the registry."""
    for node in range(len(processes)):
        try:
            await upstream.join(node)
        except NodeFailure as failure:
            raise NodeError(f"node {node} did not join: {failure}") from failure


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
