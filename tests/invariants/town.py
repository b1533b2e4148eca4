"""A small network for the kernel's tests: two models, one private cluster, and short words for what happens in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from lattice_core.config import Config, parse, revise
from lattice_core.events import (
    AccountOpened,
    Arrive,
    Bonded,
    Command,
    Complete,
    Deposited,
    Dispatch,
    Event,
    Fail,
    FaucetGranted,
    FirstToken,
    NodeRegistered,
    NodeUp,
    OfferPosted,
    Status,
    Tick,
)
from lattice_core.nexus import Nexus
from lattice_core.state import KNOWLEDGE, LLM, NODE_LOST, REASONS, Rows
from lattice_core.streams import entity_key
from lattice_core.units import NANO, to_nlai, to_ns
from tests.invariants import checks

CHAT, FACTS = 0, 1
"""Models, in the order of their names."""

CONFIG = parse(
    """
version: 1
name: town
seed: 7
models:
  chat:
    kind: llm
    context: 4096
    reference: {ttft: 1s, itl: 30ms, prefill_tok_s: 1000, output_tok: 300, price_input: 0.2, price_output: 1}
  facts:
    kind: knowledge
    context: 512
    reference: {ttft: 100ms, itl: 1ms, prefill_tok_s: 10000, output_tok: 100, price_input: 0.1, price_output: 0.1}
nodes:
  - name: lab
    count: 1
    models: [chat]
    hardware: {a: 7ms, b: 1ms, prefill_tok_s: 1000}
    slots: 2
    price: {input: 0.2, output: 1}
    bond: 200
users:
  - name: people
    count: 1
    model: chat
    workload: {poisson: {requests_per_day: 1000}}
    tokens: {prompt: 100, output: 100, max_tokens: 500}
    budget: {deposit: 1}
clusters:
  - name: clinic
""",
    "town.yaml",
)


def config(changes: Mapping[str, Any] | None = None) -> Config:
    """The town's config, revised."""
    return revise(CONFIG, changes or {})


def only[C](kind: type[C], commands: Iterable[Command]) -> C:
    """The one command of its kind."""
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


class Town:
    """A Nexus under test. `t_ns` is the time of what happens next."""

    built: ClassVar[list["Town"]] = []

    def __init__(self, changes: Mapping[str, Any] | None = None, journal: Callable[[str], object] | None = None) -> None:
        self.decisions: list[str] = []
        self.nexus = Nexus(config(changes), journal, self.decisions.append)
        self.t_ns = 0
        self.requests = 0
        Town.built.append(self)

    def handle(self, event: Event) -> list[Command]:
        return list(self.nexus.handle(event))

    def wait(self, seconds: float) -> list[Command]:
        """Let time pass and the kernel's timers fire."""
        end_ns = self.t_ns + to_ns(seconds)
        commands: list[Command] = []
        while (next_ns := self.nexus.next_timer_ns()) is not None and next_ns <= end_ns:
            commands += self.handle(Tick(next_ns))
        self.t_ns = end_ns
        return commands

    def row(self, table: str, at: int = 0) -> Any:
        """One row of a table of the state."""
        return self.nexus.table(table)[at]

    def rows(self, table: str) -> Rows:
        return self.nexus.table(table)

    def user(self, account: int = 0, deposit: float = 100, faucet: float = 0, cluster: int = 0) -> int:
        """Open an account with this much LAI."""
        self.handle(AccountOpened(self.t_ns, account, entity_key("user", account), cluster))
        if deposit:
            self.handle(Deposited(self.t_ns, account, to_nlai(deposit)))
        if faucet:
            self.handle(FaucetGranted(self.t_ns, account, to_nlai(faucet)))
        return account

    def node(
        self,
        node: int = 0,
        model: int = CHAT,
        slots: int = 2,
        queue: int = 4,
        price: tuple[float, float] = (0.2, 1),
        bond: float = 500,
        cluster: int = 0,
        owner: int = -1,
        up: bool = True,
    ) -> int:
        """Register a node with one offer; prices in LAI per million tokens."""
        kind = KNOWLEDGE if model == FACTS else LLM
        self.handle(NodeRegistered(self.t_ns, node, entity_key("node", node), kind, cluster, owner, slots, queue))
        self.handle(OfferPosted(self.t_ns, node, model, to_nlai(price[0]), to_nlai(price[1])))
        self.handle(Bonded(self.t_ns, node, to_nlai(bond)))
        if up:
            self.handle(NodeUp(self.t_ns, node))
        return node

    def nodes(self, count: int, **details: Any) -> None:
        for node in range(count):
            self.node(node, **details)

    def ask(self, account: int = 0, model: int = CHAT, prompt: int = 100, most: int = 200, **details: Any) -> list[Command]:
        """A request arrives; its id is `requests` afterwards."""
        self.requests += 1
        kind = KNOWLEDGE if model == FACTS else LLM
        return self.handle(Arrive(self.t_ns, self.requests, account, model, prompt, most, kind, **details))

    def sent(self, **details: Any) -> Dispatch:
        """A request arrives and is dispatched."""
        return only(Dispatch, self.ask(**details))

    def answer(self, leg: int, tokens: int, first_s: float = 0.5, rest_s: float = 1.0) -> Status:
        """A leg's node answers it whole."""
        self.t_ns += int(first_s * NANO)
        self.handle(FirstToken(self.t_ns, leg))
        self.t_ns += int(rest_s * NANO)
        return only(Status, self.handle(Complete(self.t_ns, leg, tokens)))

    def fail(self, leg: int, why: int = NODE_LOST, sent: int = 0) -> list[Command]:
        return self.handle(Fail(self.t_ns, leg, why, sent))

    def refused(self, **details: Any) -> str:
        """A request arrives and is turned away: for this reason."""
        return REASONS[only(Status, self.ask(**details)).reason]


@pytest.fixture(autouse=True)
def every_town_is_whole() -> Iterator[None]:
    """Whatever a test's story does, it leaves each kernel's tables whole."""
    Town.built.clear()
    yield
    for town in Town.built:
        checks.everything(town.nexus)
