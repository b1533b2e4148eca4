"""A live network's rows, gathered from its events and commands, whether they happen or are replayed."""

from collections.abc import Sequence
from typing import Any

from lattice_core import request_log
from lattice_core.census import users
from lattice_core.chain.bridge import Operation
from lattice_core.config import Config
from lattice_core.events import Arrive, BatchConfirmed, BatchFailed, BatchLapsed, CloseEpoch, Command, Event, Status, Submit
from lattice_core.invariants import check
from lattice_core.nexus import Nexus
from lattice_core.records import Records
from lattice_core.settlement import Settlement


class History:
    """A row of each request, and of each epoch once the chain has answered for it; then the kernel's invariants are checked."""

    def __init__(self, config: Config, nexus: Nexus, founding: Sequence[Operation] = ()) -> None:
        """`founding` are the transactions of the start."""
        self.records = Records(config)
        self.records.begin(founding)
        self._nexus = nexus
        self._users = users(config)
        self._populations = [population.name for population in config.users]
        self._arrived: dict[int, Arrive] = {}
        self._closing: int | None = None
        self._awaited = 0
        self._settled: list[Settlement] = []
        self._operations: list[Operation] = []

    @property
    def is_settled(self) -> bool:
        """Whether the chain has answered for every batch."""
        return self._awaited == 0

    def save(self) -> Any:
        """A copy of all of it, as plain data, for `load`; only while it `is_settled`."""
        assert self.is_settled
        return self.records.save(), list(self._arrived.values())

    def load(self, saved: Any) -> None:
        """Go on after what a history of the same config saved."""
        records, arrived = saved
        self.records.load(records)
        self._arrived = {arrive.request: arrive for arrive in arrived}

    def settle(self, settled: Settlement | None, operations: Sequence[Operation]) -> None:
        """What the chain did; to be told before the event that follows from it."""
        self._settled += [] if settled is None else [settled]
        self._operations += operations

    def see(self, event: Event, commands: Sequence[Command]) -> None:
        """Note an event that the kernel has just handled, and what it made of it. Raises InvariantError."""
        t_ns = self._nexus.count("now_ns")  # an event from the past happens now
        if isinstance(event, Arrive):
            self._arrived[event.request] = event._replace(t_ns=t_ns)
        for command in commands:
            if isinstance(command, Status):
                self._end(command, t_ns)
        if isinstance(event, CloseEpoch):
            self._observe(t_ns)  # an epoch whose batches are still under way waits no longer
            self._closing = event.epoch
            self._awaited += sum(isinstance(command, Submit) for command in commands)
        elif isinstance(event, BatchConfirmed | BatchFailed | BatchLapsed):
            self._awaited -= 1
        if self._awaited == 0:
            self._observe(t_ns)

    def _end(self, status: Status, t_ns: int) -> None:
        arrive = self._arrived.pop(status.request)
        user = self._users[arrive.account]
        request_log.add(
            self.records.log.handle,
            status.request,
            self._populations.index(user.population.name),
            user.ordinal,
            status.node,
            arrive.model,
            arrive.prompt_tok,
            status.output_tok,
            arrive.t_ns,
            status.sent_ns,
            status.first_token_ns,
            t_ns,
            status.outcome,
            status.reason,
            status.fee_nlai,
        )

    def _observe(self, t_ns: int) -> None:
        if self._closing is not None:
            self.records.observe(self._closing, t_ns, self._nexus, self._operations, self._settled)
            self._closing, self._settled, self._operations = None, [], []
            check(self._nexus)
