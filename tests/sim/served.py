"""Networks under an engine for the tests: founded without a chain, with a kernel that remembers what it was told."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lattice_core.config import Config, parse, revise
from lattice_core.events import Cancel, Command, Complete, Dispatch, Event, Fail
from lattice_core.founding import founding
from lattice_core.nexus import Nexus
from lattice_core.records import Records
from lattice_core.units import NEVER_NS
from lattice_sim.reference import ReferenceEngine
from lattice_sim.workload import Requests

PLAIN = parse(
    """
version: 1
name: plain
seed: 7
models:
  chat:
    kind: llm
    context: 100000
    reference: {ttft: 1s, itl: 10ms, prefill_tok_s: 1000, output_tok: 100, price_input: 0.2, price_output: 1}
nodes:
  - name: node
    count: 1
    models: [chat]
    hardware: {a: 7ms, b: 1ms, prefill_tok_s: 1000}
    slots: 2
    queue: 2
    price: {input: 0.2, output: 1}
    bond: 200
    network_delay: 0
users:
  - name: people
    count: 5
    model: chat
    workload: {poisson: {requests_per_day: 20000}}
    tokens: {prompt: 100, output: {median: 100, sigma: 0.5}, max_tokens: 500}
    budget: {deposit: 1000}
routing: {newcomer_cap: 0}
""",
    "plain.yaml",
)
"""One small node and a few users."""


class Planned:
    """A workload of these very requests; put it in the place of one of an engine's `_workloads`."""

    def __init__(self, requests: Requests) -> None:
        self._requests, self._arrived = requests, 0

    def block(self, t_ns: int, most: int) -> Requests:
        first = self._arrived
        self._arrived = min(first + most, int(np.searchsorted(self._requests.t_ns, t_ns)))
        return Requests(*(np.ascontiguousarray(column[first : self._arrived]) for column in self._requests))

    def until(self, t_ns: int) -> Requests:
        return self.block(t_ns, self.remaining())

    def remaining(self) -> int:
        return len(self._requests.t_ns) - self._arrived


def asked(t_ns: NDArray[np.int64], prompt_tok: NDArray[np.int64], output_tok: NDArray[np.int64]) -> Requests:
    """Patient requests of the first user for the first model, each for no more than it gets."""
    none = np.zeros_like(t_ns)
    return Requests(t_ns, none, none, prompt_tok, output_tok, output_tok, np.full_like(t_ns, NEVER_NS), none, none)


class Witness(Nexus):
    """A kernel that remembers each event as it was told, with its commands, and integrates its requests in flight."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[tuple[Event, Sequence[Command]]] = []
        self.area_ns = 0

    def handle(self, event: Event) -> Sequence[Command]:
        self.area_ns += self.count("in_flight") * (event.t_ns - self.count("now_ns"))
        commands = super().handle(event)
        self.told.append((event, commands))
        return commands

    def commands[C](self, kind: type[C]) -> Iterator[tuple[int, C]]:
        """When the kernel asked for what, of one kind."""
        return ((event.t_ns, command) for event, commands in self.told for command in commands if isinstance(command, kind))


@dataclass
class Leg:
    """What the kernel sent, and when it ended there; `end_ns` is None while it has not."""

    request: int
    node: int
    sent_ns: int
    end_ns: int | None = None


def legs(nexus: Witness) -> dict[int, Leg]:
    """Every leg by its id."""
    found: dict[int, Leg] = {}
    for event, commands in nexus.told:
        ended = [event.leg] if isinstance(event, Complete | Fail) else []
        for leg in ended + [command.leg for command in commands if isinstance(command, Cancel)]:
            assert found[leg].end_ns is None
            found[leg].end_ns = event.t_ns
        for command in commands:
            if isinstance(command, Dispatch):
                found[command.leg] = Leg(command.request, command.node, event.t_ns)
    return found


def plain(changes: Mapping[str, Any]) -> Config:
    """The plain network with other values; `node.…` and `people.…` are short for its two populations."""
    short = {"node": "nodes.node", "people": "users.people"}
    paths = ((path.partition("."), value) for path, value in changes.items())
    return revise(PLAIN, {f"{short.get(head, head)}{dot}{rest}": value for (head, dot, rest), value in paths})


def start(config: Config, kind: type[Any] = ReferenceEngine) -> tuple[Any, Witness]:
    """The network of `config` at t = 0 under an engine of that kind. What the compiled one serves, no witness sees."""
    nexus = Witness(config)
    engine = kind(config, nexus, Records(config))
    for fact in founding(config):
        engine.tell(fact)
    return engine, nexus


def serve(config: Config, until_ns: int, kind: type[Any] = ReferenceEngine) -> tuple[Any, Witness, pd.DataFrame]:
    """The network of `config` at `until_ns`, and its requests."""
    engine, nexus = start(config, kind)
    engine.run_until(until_ns)
    return engine, nexus, requests(engine)


def requests(engine: Any) -> pd.DataFrame:
    """All requests that have arrived, by id, as a run would write them now; the epoch ends here."""
    engine.records.observe(0, engine.now_ns, engine.nexus, [], [], engine.busy_ns())
    return pd.DataFrame(engine.records.columns("requests"))


def after_each_step(engine: ReferenceEngine, look: Callable[[], object]) -> None:
    """Have `look` called after everything that happens."""
    step = engine.clock.step

    def watched() -> None:
        step()
        look()

    engine.clock.step = watched  # type: ignore[method-assign]


def write_trace(folder: Path, t_ns: NDArray[np.int64], prompt_tok: Iterable[int], output_tok: Iterable[int]) -> str:
    """A trace file of these requests; it begins at the first of them."""
    times = np.datetime_as_string(np.datetime64("2024-01-01", "ns") + t_ns.astype("timedelta64[ns]"))
    lines = [f"{row[0]},{row[1]},{row[2]}\n" for row in zip(times, prompt_tok, output_tok, strict=True)]
    path = folder / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(lines), encoding="utf-8")
    return str(path)
