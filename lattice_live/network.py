"""A live network: node processes, a chain, a Nexus and its folder, put together and taken apart."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lattice_core.census import NodeEntry, nodes
from lattice_core.chain.genesis import role_key
from lattice_core.chain.keys import key_of
from lattice_core.config import Config, ConfigError
from lattice_core.events import EVENTS, Command, Status
from lattice_core.nexus import Nexus
from lattice_live.driver import Driver
from lattice_live.folder import Folder
from lattice_live.history import History
from lattice_live.launcher import NodeError, NodeProcess, start_node
from lattice_live.membership import Members
from lattice_live.models import ModelError, store
from lattice_live.models.folder import ModelFolder
from lattice_live.models.store import Progress, silent
from lattice_live.models.text import Text
from lattice_live.node.identity import open_key, save_key
from lattice_live.recovery import Snapshots, find_start, recover
from lattice_live.settlement import Settlement
from lattice_live.sqlite import Reader, Sqlite
from lattice_live.upstream import NodeFailure, Peer, Realm, Upstream
from lattice_live.vouchers import Vouchers

GIVE_UP_S = 20.0
"""How long a chain may take, at the end, to settle what is left; what it has not is sent at the next start."""


class Network(NamedTuple):
    """A network that serves. `processes[i]` runs the kernel's node i, `texts` are by model."""

    config: Config
    folder: Folder
    storage: Sqlite
    processes: list[NodeProcess]
    settlement: Settlement
    history: History
    driver: Driver
    members: Members
    vouchers: Vouchers
    texts: dict[str, Text]
    fees_nlai: Mapping[int, int]
    """What requests of an earlier process cost that ended when it was killed, or shortly before."""


def launched(config: Config) -> Config:
    """`config` with the nodes of `live.launch` only. Raises ConfigError."""
    if config.economics.bonus.per_day_nlai:
        raise ConfigError(f"{config.name}: economics.bonus.per_day: must be 0 in live mode, which does not weigh nodes")
    populations = []
    for population in config.nodes:
        count = config.live.launch.get(population.name, 0)
        if count:
            populations.append(population.model_copy(update={"count": count}))
    return config.model_copy(update={"nodes": populations})


def models(config: Config, progress: Callable[[str], Progress] = lambda name: silent) -> dict[str, ModelFolder]:
    """The folders of the models that the network serves, by name; what is missing is pulled and converted.

    Without launched nodes, where others bring them, these are all that have weights. `progress` is asked for each model's own.
    Raises ConfigError.
    """
    populations = launched(config).nodes or config.nodes
    wanted = dict.fromkeys(name for population in populations for name in population.models if config.models[name].weights)
    if not wanted:
        raise ConfigError(f"{config.name}: models: must have weights, at least one, for a live network")
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
    config: Config,
    folder: Folder,
    step_ms: int = 0,
    folders: Mapping[str, ModelFolder] | None = None,
    urls: Sequence[str] | None = None,
) -> AsyncIterator[Network]:
    """Start the network, or go on where its folder ends; on leaving, settle and stop it.

    `step_ms` is the least time of a node's token, `folders` what `models` gives. With `urls` no processes are started: the
    nodes run already, node i at the i-th. Raises ConfigError, NodeError, and FolderError if the folder does not fit.
    """
    live = launched(config)
    folders = folders if folders is not None else models(config)
    async with AsyncExitStack() as stack:
        storage = Sqlite(folder.storage)
        stack.push_async_callback(storage.close)
        secret = _secret(config, folder)
        entries = nodes(live)
        launching = [] if urls is not None else entries
        starting = asyncio.create_task(_start(launching, live, folder, folders, secret, step_ms))
        stack.push_async_callback(_stop, starting)
        start = await asyncio.to_thread(find_start, config, storage.reader)  # the nodes start meanwhile
        settlement = Settlement(live, folder.book, None if start is None else start.chain, secret)
        stack.callback(settlement.close)
        opened = await settlement.open()
        _compile_rules(config)
        nexus, history, recorder, unsettled, fees_nlai = await recover(start, config, live, opened, settlement, storage)
        processes = await starting
        settlement.closed = lambda: nexus.count("epoch") - 1
        listing = settlement.listing
        places = [process.url for process in processes] if urls is None else urls
        peers = {entry.node: Peer(url, key_of(entry.key, secret).address) for url, entry in zip(places, entries, strict=True)}
        served = {name: model.manifest for name, model in folders.items()}
        realm = Realm(0, listing.chain_id, listing.contracts["NodeRegistry"])
        upstream = Upstream(peers, realm, served, config.live.timeouts, _certificate(config, folder))
        stack.push_async_callback(upstream.close)
        await _join(upstream, len(entries))
        snapshots = Snapshots(nexus, history, settlement, storage, recorder)
        stack.push_async_callback(snapshots.take)
        driver = Driver(nexus, upstream, settlement, history, storage)
        members = Members(config, nexus, settlement, upstream, peers, storage, driver.tell, driver.now_ns)
        vouchers = Vouchers(config, listing, storage, upstream.hand, secret)
        vouchers.restore(partial(_decisions, folder.storage), recorder.decisions, nexus.count("epoch"))
        driver.observers += [lambda event, commands: recorder.keep(event, settlement), vouchers.see]
        catching_up = asyncio.create_task(settlement.catch_up())
        catching_up.add_done_callback(lambda task: _notice(task, driver.broken))
        stack.callback(catching_up.cancel)
        driver.observers.append(note := lambda event, commands: fees_nlai.update(_fees_nlai(commands)))
        driver.start(len(entries), unsettled)
        driver.observers.remove(note)
        stack.push_async_callback(vouchers.stop)
        stack.push_async_callback(driver.stop)
        vouchers.start().add_done_callback(lambda task: _notice(task, driver.broken))
        stack.callback(settlement.give_up, GIVE_UP_S)
        await members.resume()
        stack.push_async_callback(members.close)
        keeping = asyncio.create_task(snapshots.keep())
        stack.callback(keeping.cancel)
        texts = {name: model.text for name, model in folders.items()}
        yield Network(config, folder, storage, processes, settlement, history, driver, members, vouchers, texts, fees_nlai)


def _fees_nlai(commands: Sequence[Command]) -> dict[int, int]:
    """Of requests that have just ended."""
    return {command.request: command.fee_nlai for command in commands if isinstance(command, Status)}


def _decisions(file: Path, first: int) -> Iterator[str]:
    """Lines of the decisions, by a reader of their own."""
    with closing(Reader(file)) as reader:
        yield from reader.lines("decisions", first)


def _notice(task: asyncio.Task[None], broken: asyncio.Future[None]) -> None:
    """Let what a task of the network's own ends with break the driver."""
    if not task.cancelled() and (error := task.exception()) is not None and not broken.done():
        broken.set_exception(error)


def _secret(config: Config, folder: Folder) -> bytes:
    """What all keys of a network on a node's chain derive from, made at its first start; empty for a chain in this process."""
    folder.keys.mkdir(mode=0o700, exist_ok=True)
    return open_key(folder.keys / "secret").secret if config.chain.backend == "rpc" else b""


def _certificate(config: Config, folder: Folder) -> Path | None:
    """The Nexus's, which its own chain key vouches for; None if it needs none."""
    if not config.live.tls:
        return None
    from lattice_live.node.tls import open_certificate

    return open_certificate(role_key("oracle"), folder.keys / "nexus.pem")


async def _start(
    entries: Sequence[NodeEntry],
    live: Config,
    folder: Folder,
    folders: Mapping[str, ModelFolder],
    secret: bytes,
    step_ms: int,
) -> list[NodeProcess]:
    """A process for each node, with the key that the chain knows it by; none is left if one does not start."""
    folder.keys.mkdir(mode=0o700, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // max(1, len(entries)))

    async def start(entry: NodeEntry) -> NodeProcess:
        population = entry.population
        key = folder.keys / f"node-{entry.node}.key"
        save_key(key, key_of(entry.key, secret))
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
        await _end([process for process in ended if isinstance(process, NodeProcess)])
        raise


async def _join(upstream: Upstream, nodes: int) -> None:
    """Let each node prove that it holds the key of its entry in the registry."""
    for node in range(nodes):
        try:
            await upstream.join(node)
        except NodeFailure as failure:
            raise NodeError(f"node {node} did not join: {failure}") from failure


async def _stop(starting: asyncio.Task[list[NodeProcess]]) -> None:
    starting.cancel()
    with suppress(asyncio.CancelledError, NodeError):
        await _end(await starting)


async def _end(processes: Sequence[NodeProcess]) -> None:
    await asyncio.gather(*(process.stop() for process in processes))


def _compile_rules(config: Config) -> None:
    """Show a Nexus that nobody uses one empty event of each kind, so that no user waits while a rule is compiled."""
    nexus = Nexus(config)
    for kind in EVENTS:
        zeros: list[Any] = [0] * (len(kind._fields) - len(kind._field_defaults))
        nexus.handle(kind(*zeros))
