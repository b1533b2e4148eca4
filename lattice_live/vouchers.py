"""What becomes of an epoch's receipts: each payer signs a voucher for what it had from a node, and the node keeps it.

The Nexus holds its users' keys, and signs for them. A batch pays in the same epoch's grace, and the chain pays each payer's
epoch once; a node whose Nexus never sent one collects by itself (`collect`).
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

from lattice_core.census import users
from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.tokenomics import Tokenomics
from lattice_core.chain.deployment import Listing
from lattice_core.chain.keys import Key, key_of
from lattice_core.chain.port import Chain, Reverted
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.config import Config
from lattice_core.events import CloseEpoch, Command, Event, NodeUp, Receipt
from lattice_core.promises import ripened
from lattice_core.receipts import Receipts, Usage
from lattice_live.aside import aside
from lattice_live.node.purse import Held, Purse, handed
from lattice_live.settlement import HEAD_START_S
from lattice_live.upstream import NodeFailure

SPACE = "vouchers"
"""Where vouchers wait that their nodes do not have yet, by epoch and node."""

DONE = "vouchers-done"
"""Where the last epoch stands that has been signed for."""

BACK_LINES = 10_000
"""How many decisions are read at once, from the last on back, for the receipts of epochs that have not."""

STOP_S = 5.0
"""How long nodes may take, at the end, to keep what they are handed."""

AT_ONCE = 1_000
"""Vouchers in one message to a node."""

_IS_RECEIPT = re.compile(r'\[\d+, ?"Receipt"').match


class Documents(Protocol):
    """What of a storage is used here."""

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None: ...
    def drop(self, space: str, key: str) -> None: ...
    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]: ...


class Vouchers:
    """The Nexus's side: sees every event and command, signs at each epoch's end, and hands over until it is taken.

    `hand(node, body)` brings a node the body of `POST /v1/vouchers`; it raises NodeFailure.
    """

    def __init__(
        self,
        config: Config,
        listing: Listing,
        storage: Documents,
        hand: Callable[[int, Mapping[str, Any]], Awaitable[Any]],
        secret: bytes = b"",
    ) -> None:
        """`secret` is that of the users' keys."""
        self._keys = {entry.account: entry.key for entry in users(config)}
        self._tokenomics = listing.contracts[Tokenomics.NAME]
        self._domain = domain(listing.chain_id, self._tokenomics)
        self._keep_epochs = 2 * config.chain.grace_epochs + config.chain.collection_epochs
        self._secret = secret
        self._storage = storage
        self._hand = hand
        self._book = Receipts(keccak)
        self._closed: list[int] = []
        self._epoch = -1
        self._unread: Callable[[], None] | None = None
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def restore(self, decisions: Callable[[int], Iterator[str]], count: int, epoch: int) -> None:
        """Go on where an earlier process ended: `decisions(first)` are the lines from there on, of `count`; `epoch` is open.

        They are read on a thread of their own, once this has been started: an epoch may have many.
        """
        self._epoch = self._storage.items(DONE).get("epoch", {}).get("done", -1)
        self._closed = list(range(self._epoch + 1, epoch))
        self._unread = partial(self._read_back, decisions, count, self._epoch)

    def _read_back(self, decisions: Callable[[int], Iterator[str]], count: int, done: int) -> None:
        """Enter the receipts of epochs that have not been signed for."""
        first = count
        while first > 0:
            first, end = max(0, first - BACK_LINES), first
            lines = islice(decisions(first), end - first)
            receipts = [Receipt(*line[2:]) for line in map(json.loads, filter(_IS_RECEIPT, lines))]
            for receipt in receipts:
                if receipt.epoch > done:
                    self._book.add(receipt)
            if receipts and receipts[0].epoch <= done:
                break

    def see(self, event: Event, commands: Sequence[Command]) -> None:
        """Note an event that the kernel has just handled, and what it made of it."""
        for command in commands:
            if isinstance(command, Receipt):
                self._book.add(command)
        if isinstance(event, CloseEpoch):
            self._closed.append(event.epoch)
            self._due.set()
        elif isinstance(event, NodeUp):
            self._due.set()

    def start(self) -> asyncio.Task[None]:
        """Begin to hand over, in the task returned, which ends if something is wrong with the network itself."""
        self._due.set()
        self._task = asyncio.create_task(self._work())
        return self._task

    async def stop(self) -> None:
        """Hand over what can be, once more, and end; what cannot waits for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._turn()

    async def _work(self) -> None:
        if self._unread is not None:
            await asyncio.sleep(HEAD_START_S)
        while True:
            await self._due.wait()
            self._due.clear()
            await self._turn()

    async def _turn(self) -> None:
        if self._unread is not None:
            await aside(self._unread)
            self._unread = None
        while self._closed:
            epoch = self._closed[0]
            by_node: dict[int, list[Usage]] = {}
            for usage in await aside(self._book.usage, epoch):  # hashes every receipt
                by_node.setdefault(usage.node, []).append(usage)
            for node, usages in by_node.items():
                rows = [usage._replace(receipts_root=usage.receipts_root.hex()) for usage in usages]  # type: ignore[arg-type]
                self._storage.put(SPACE, f"{epoch}/{node}", {"usages": [list(row) for row in rows]})
            self._storage.put(DONE, "epoch", {"done": epoch})
            self._book.forget(epoch)
            self._epoch = epoch
            del self._closed[0]
        waiting = self._storage.items(SPACE).items()
        await asyncio.gather(*(self._deliver(key, kept["usages"]) for key, kept in waiting))

    async def _deliver(self, key: str, rows: Sequence[Any]) -> None:
        epoch, node = map(int, key.split("/"))
        usages = [Usage(e, payer, n, nlai, tokens, bytes.fromhex(root)) for e, payer, n, nlai, tokens, root in rows]
        try:
            for first in range(0, len(usages), AT_ONCE):
                await self._hand(node, await aside(self._signed, usages[first : first + AT_ONCE]))
        except NodeFailure:
            if epoch >= self._epoch - self._keep_epochs:
                return  # at the next epoch's end, or when a node comes, again
        self._storage.drop(SPACE, key)

    def _signed(self, usages: Sequence[Usage]) -> Mapping[str, Any]:
        promises = []
        for usage in usages:
            key = key_of(self._keys[usage.payer], self._secret)
            fields = (usage.epoch, usage.payer, usage.node, usage.nlai, usage.tokens, usage.receipts_root)
            promises.append((sign(Voucher(0, *fields), key, self._domain), key.address))
        return handed(self._tokenomics, promises)


class Step(NamedTuple):
    """What became of a voucher that was taken to the chain: `state` in words, `nlai` what it paid now."""

    held: Held
    state: str
    nlai: int
    done: bool
    """Nothing can come of it any more: paid, or void."""


def collect(chain: Chain, key: Key, purse: Purse) -> Iterator[Step]:
    """Take the vouchers of `purse` to the chain, in its order: present what no batch paid, collect what has waited.

    To be called again when what waits has waited; nothing is paid twice. `key` is the node's operator's, who pays for the gas.
    Raises ValueError for vouchers of another chain, Reverted if the contracts are not ours.
    """
    chain.add_key(key)
    networks: dict[str, Network] = {}
    for held in sorted(purse.held.values(), key=lambda one: one.key):
        if held.chain_id != chain.chain_id:
            raise ValueError(f"{purse.file}: holds vouchers for chain {held.chain_id}, and this is chain {chain.chain_id}")
        if held.tokenomics not in networks:
            book = Tokenomics(chain, bytes.fromhex(held.tokenomics)).book()
            networks[held.tokenomics] = Network(chain, book)
        yield _take(networks[held.tokenomics], key.address, held)


def claim(chain: Chain, key: Key, held: Held) -> int:
    """Have the node's operator paid what the node has earned; nanoLAI, 0 if there was nothing."""
    tokenomics = Tokenomics(chain, bytes.fromhex(held.tokenomics))
    earned_nlai = tokenomics.earned(held.node).operator_nlai
    if earned_nlai:
        tokenomics.claim(key.address, held.node).raise_for_revert()
    return earned_nlai


def _take(network: Network, sender: bytes, held: Held) -> Step:
    tokenomics, clock = network.tokenomics, network.clock
    epochs = clock.epochs()
    now_s = network.chain.block().timestamp_s
    if network.users.is_settled(held.payer, held.epoch):
        return Step(held, "paid by batch", 0, True)
    if now_s < epochs.lapse_s(held.epoch):
        return Step(held, f"may be paid by batch until {_utc(epochs.lapse_s(held.epoch))}", 0, False)
    promise = tokenomics.presented(*held.key)
    if promise.value_nlai < held.value_nlai:
        if now_s >= epochs.lapse_s(held.epoch) + epochs.collection * epochs.length_s:
            return Step(held, "void: its collection is over", 0, True)
        try:
            tokenomics.present(sender, held.signed).raise_for_revert()
        except Reverted as failure:
            return Step(held, f"refused: {failure}", 0, False)
        promise = tokenomics.presented(*held.key)
    lapsed = clock.lapsed
    due_nlai = ripened(promise, lapsed).ripe_nlai - promise.paid_nlai
    if due_nlai == 0:
        if promise.paid_nlai == promise.value_nlai:
            return Step(held, "paid by voucher", 0, True)
        return Step(held, f"presented; waits until {_utc(epochs.lapse_s(promise.since))}", 0, False)
    receipt = tokenomics.collect(sender, *held.key)
    if not receipt.ok:
        return Step(held, f"refused: {Reverted(receipt.output)}", 0, False)
    paid_nlai = sum(network.collected(receipt).paid)
    done = promise.paid_nlai + paid_nlai >= held.value_nlai
    return Step(held, "collected" if done else "collected in part: the payer has no more now", paid_nlai, done)


def _utc(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
