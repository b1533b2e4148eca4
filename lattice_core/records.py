"""What a run leaves behind, as rows: filled by a driver while it runs, observed at the end of each epoch, read as columns.

`TABLES` is the schema of the run directory's Parquet files. An epoch's rows are kept together or not at all: a run stopped in
the middle leaves the epochs before it whole. Files, frames and pictures are made elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core import census, wide
from lattice_core.config import Config
from lattice_core.directory import Rows
from lattice_core.nexus import Nexus
from lattice_core.request_log import BINS, DELAYS, ROW, bin_of, bounds_ns, new_request_log
from lattice_core.rewards import NO_BONUS, Sources
from lattice_core.settlement import Settlement
from lattice_core.split import Cuts, Parts
from lattice_core.state import ACCOUNT, FREE, NODE, NONE, OUTCOMES, REASONS, UP

type Columns = dict[str, NDArray[Any]]

_INT, _FLOAT, _TEXT = "int64", "float64", "string"

TABLES: dict[str, dict[str, str]] = {
    "epochs": {
        "epoch": _INT,
        "start_ns": _INT,
        "end_ns": _INT,
        "arrived": _INT,
        "completed": _INT,
        "failed": _INT,
        "rejected": _INT,
        "in_flight": _INT,
        "mean_in_flight": _FLOAT,
        "littles_law_gap_ns": _INT,
        "output_tok": _INT,
        "gross_nlai": _INT,
        "nodes_up": _INT,
        "slots_up": _INT,
        "busy_slot_ns": _INT,
        "offered_slot_ns": _INT,
        "purchased_nlai": _INT,
        "faucet_nlai": _INT,
        "burned_nlai": _INT,
        "treasury_nlai": _INT,
        "auditors_nlai": _INT,
        "delegators_nlai": _INT,
        "operators_nlai": _INT,
        "skipped": _INT,
        "bonus_nlai": _INT,
        "bonus_minted_nlai": _INT,
        "treasury_balance_nlai": _INT,
    },
    "nodes": {
        "epoch": _INT,
        "node": _INT,
        "population": _TEXT,
        "up": _INT,
        "slots": _INT,
        "in_flight": _INT,
        "reliability": _FLOAT,
        "quality": _FLOAT,
        "bond_nlai": _INT,
        "probes": _INT,
        "probes_ok": _INT,
        "audits": _INT,
        "audits_passed": _INT,
        "legs": _INT,
        "legs_done": _INT,
        "legs_lost": _INT,
        "legs_cancelled": _INT,
        "output_tok": _INT,
        "gross_nlai": _INT,
        "settled_nlai": _INT,
        "settled_faucet_nlai": _INT,
        "busy_slot_ns": _INT,
    },
    "users": {
        "account": _INT,
        "population": _TEXT,
        "user": _INT,
        "arrived": _INT,
        "completed": _INT,
        "failed": _INT,
        "rejected": _INT,
        "in_flight": _INT,
        "deposited_nlai": _INT,
        "free_nlai": _INT,
        "held_nlai": _INT,
        "debit_nlai": _INT,
        "unsettled_nlai": _INT,
        "overdue_nlai": _INT,
        "spent_nlai": _INT,
        "withdrawn_nlai": _INT,
        "granted_nlai": _INT,
        "faucet_free_nlai": _INT,
        "faucet_held_nlai": _INT,
        "faucet_debit_nlai": _INT,
        "faucet_unsettled_nlai": _INT,
        "faucet_overdue_nlai": _INT,
        "faucet_spent_nlai": _INT,
    },
    "requests": {
        "request": _INT,
        "population": _TEXT,
        "user": _INT,
        "node": _INT,
        "model": _TEXT,
        "prompt_tok": _INT,
        "output_tok": _INT,
        "arrival_ns": _INT,
        "dispatch_ns": _INT,
        "first_token_ns": _INT,
        "end_ns": _INT,
        "outcome": _TEXT,
        "reason": _TEXT,
        "fee_nlai": _INT,
    },
    "latencies": {
        "metric": _TEXT,
        "low_ns": _INT,
        "high_ns": _INT,
        "count": _INT,
    },
    "settlements": dict.fromkeys(Settlement._fields, _INT),
    "transactions": {
        "transaction": _INT,
        "epoch": _INT,
        "operation": _TEXT,
        "entries": _INT,
        "nodes": _INT,
        "gas": _INT,
        "status": _TEXT,
    },
    "gas_measured": {
        "transaction": _INT,
        "epoch": _INT,
        "operation": _TEXT,
        "entries": _INT,
        "nodes": _INT,
        "gas_used": _INT,
    },
}
"""Column → type of each table; docs/metrics.md says what each one means."""

_FLOWS = (
    "probes", "probes_ok", "audits", "audits_passed", "legs", "legs_done", "legs_lost", "legs_cancelled",
    "output_tok", "gross_nlai", "settled_nlai", "settled_faucet_nlai",
)  # fmt: skip
"""Of a node: counted by the kernel since the start, written per epoch."""

_ENDS = ("arrived", "completed", "failed", "rejected")

IN_FLIGHT = "in_flight"
"""Outcome of a request that had not ended when the last epoch did."""

SETUP = -1
"""Epoch of the transactions that found the network."""


class Operation(NamedTuple):
    """A transaction: what it did, with how many entries (users or nodes that it is about) and, of a settlement, nodes besides.

    `gas` is what such a transaction costs on every chain, `gas_used` what this one did, or None where the chain cannot tell.
    """

    name: str
    entries: int
    nodes: int
    ok: bool
    gas: int
    gas_used: int | None


@dataclass(frozen=True, slots=True)
class _Epoch:
    """An epoch's rows."""

    row: dict[str, int | float | None]
    nodes: Columns
    operations: Sequence[Operation]
    settled: Sequence[Settlement]


@dataclass(frozen=True, slots=True)
class _Observed:
    """Everything until the end of an epoch: the rows of all epochs, and counts and tables as they were then."""

    end_ns: int = 0
    epochs: tuple[_Epoch, ...] = ()
    slots_up: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*_ENDS, "in_flight"), 0))
    nodes: Rows = field(default_factory=lambda: np.zeros(0, NODE))
    accounts: Rows = field(default_factory=lambda: np.zeros(0, ACCOUNT))
    busy_slot_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    under_way: Rows = field(default_factory=lambda: np.zeros(0, ROW))
    reasons: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(REASONS), np.int64))
    delays: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(DELAYS) * BINS, np.int64))
    in_flight_ns: int = 0  # ∫ N dt, by the kernel's count of requests in flight
    spent_ns: int = 0  # Σ over requests of the time from arrival to end, or to this end, by the log and the kernel's table
    digest: bytes = b""


JOINED = "joined"
"""The population of nodes that no config names."""


class Records:
    """The rows of one run. Picklable, with what a run needs to go on."""

    def __init__(self, config: Config) -> None:
        """For the nodes and users of `config`, numbered as `census` numbers them."""
        self.log = new_request_log(config.seed)
        """A driver adds each request that ends."""
        self._models = np.array(list(config.models), object)
        self._populations = np.array([population.name for population in config.users], object)
        self._nodes = np.array([entry.population.name for entry in census.nodes(config)], object)
        self._population_of, self._user_of = census.members(config)
        self._founding: Sequence[Operation] = ()
        self._observed = _Observed()

    @property
    def epochs(self) -> int:
        """Epochs observed."""
        return len(self._observed.epochs)

    @property
    def digest(self) -> bytes:
        """The kernel's digest at the end of the last epoch observed; empty before."""
        return self._observed.digest

    @property
    def arrived(self) -> int:
        """Requests that have arrived until then."""
        return self._observed.counts["arrived"]

    @property
    def reasons(self) -> dict[str, int]:
        """Requests that have failed or were rejected until then, by reason."""
        return {reason: int(count) for reason, count in zip(REASONS, self._observed.reasons, strict=True) if reason and count}

    def save(self) -> Any:
        """A copy of all rows so far, as plain data, for `load`."""
        return self.log.copy(), self._founding, self._observed

    def load(self, saved: Any) -> None:
        """Go on after the rows that records of the same nodes and users saved; the log keeps its sample."""
        log, self._founding, self._observed = saved
        self.log = log.copy()

    def begin(self, operations: Sequence[Operation], t_ns: int = 0) -> None:
        """The first epoch begins at `t_ns`, after the transactions that found the network."""
        self._founding, self._observed = operations, _Observed(t_ns)

    def observe(
        self,
        epoch: int,
        t_ns: int,
        nexus: Nexus,
        operations: Sequence[Operation],
        settled: Sequence[Settlement],
        busy_slot_ns: NDArray[np.int64] | None = None,
        bonus: Sources = NO_BONUS,
        treasury_balance_nlai: int | None = None,
    ) -> None:
        """Keep the epoch that has ended at `t_ns`, with its transactions, what was settled and what was paid as a bonus.

        `busy_slot_ns`: slots taken × time of each node since the start, and `treasury_balance_nlai` what the treasury may claim
        now, from a driver that can tell. Nothing happens in the kernel between its last event and `t_ns`.
        """
        last = self._observed
        nodes, accounts = nexus.table("nodes"), nexus.table("accounts")
        nodes, accounts = nodes[: nexus.registered], accounts[accounts["known"] == 1]
        joined = np.full(max(0, len(nodes) - len(self._nodes)), JOINED, object)
        counts = {name: nexus.count(name) for name in last.counts}
        up = nodes["status"] == UP
        slots_up = int(nodes["slots"][up].sum())
        slots_before = slots_up if last.slots_up is None else last.slots_up
        flows = {name: _since(nodes[name], last.nodes[name]) for name in _FLOWS}
        busy = None if busy_slot_ns is None else _since(busy_slot_ns, last.busy_slot_ns)
        under_way = self._under_way(nexus)
        in_flight_ns = wide.total(nexus.count("in_flight_high"), nexus.count("in_flight_low"))
        in_flight_ns += counts["in_flight"] * (t_ns - nexus.count("now_ns"))
        spent_ns = self.log.sojourn_ns + sum((t_ns - under_way["arrival_ns"]).tolist())
        area_ns, length_ns = in_flight_ns - last.in_flight_ns, t_ns - last.end_ns
        row = {
            "epoch": epoch,
            "start_ns": last.end_ns,
            "end_ns": t_ns,
            **{name: counts[name] - last.counts[name] for name in _ENDS},
            "in_flight": counts["in_flight"],
            "mean_in_flight": area_ns / length_ns if length_ns else float(counts["in_flight"]),
            "littles_law_gap_ns": area_ns - (spent_ns - last.spent_ns),
            "output_tok": int(flows["output_tok"].sum()),
            "gross_nlai": int(flows["gross_nlai"].sum()),
            "nodes_up": int(up.sum()),
            "slots_up": slots_up,
            "busy_slot_ns": None if busy is None else int(busy.sum()),
            "offered_slot_ns": (slots_before + slots_up) * length_ns // 2,
            **_sums(settled),
            "bonus_nlai": sum(bonus),
            "bonus_minted_nlai": bonus.minted_nlai,
            "treasury_balance_nlai": treasury_balance_nlai,
        }
        columns = {
            "epoch": np.full(len(nodes), epoch, np.int64),
            "node": np.arange(len(nodes)),
            "population": np.concatenate([self._nodes, joined])[: len(nodes)],
            "up": up,
            "slots": nodes["slots"].copy(),
            "in_flight": nodes["in_flight"].copy(),
            **_reputation(nexus, len(nodes), t_ns),
            "bond_nlai": nodes["bond_nlai"].copy(),
            **flows,
            "busy_slot_ns": np.full(len(nodes), None, object) if busy is None else busy,
        }
        self.log.mark(self.epochs + 1)
        self._observed = _Observed(  # from here on the epoch is observed
            end_ns=t_ns,
            epochs=(*last.epochs, _Epoch(row, columns, operations, settled)),
            slots_up=slots_up,
            counts=counts,
            nodes=nodes,
            accounts=accounts,
            busy_slot_ns=last.busy_slot_ns if busy_slot_ns is None else busy_slot_ns.copy(),
            under_way=under_way,
            reasons=self.log.reasons.copy(),
            delays=self.log.delays.copy(),
            in_flight_ns=in_flight_ns,
            spent_ns=spent_ns,
            digest=nexus.digest(),
        )

    def columns(self, table: str) -> Columns:
        """What the observed epochs left in a table of TABLES; None stands where the driver could not tell."""
        columns: Columns = getattr(self, f"_{table}_columns")()
        assert list(columns) == list(TABLES[table])
        return columns

    def _epochs_columns(self) -> Columns:
        return _stack([epoch.row for epoch in self._observed.epochs], "epochs")

    def _nodes_columns(self) -> Columns:
        epochs = self._observed.epochs
        if not epochs:
            return _stack([], "nodes")
        return {name: np.concatenate([epoch.nodes[name] for epoch in epochs]) for name in TABLES["nodes"]}

    def _users_columns(self) -> Columns:
        accounts = self._observed.accounts
        known = {
            "account": np.arange(len(accounts)),
            "population": self._populations[self._population_of[: len(accounts)]],
            "user": self._user_of[: len(accounts)],
        }
        return {name: known[name] if name in known else accounts[name] for name in TABLES["users"]}

    def _requests_columns(self) -> Columns:
        under_way = self._observed.under_way
        rows = np.concatenate([self.log.marked(self.epochs), under_way[self.log.keeps(under_way["request"])]])
        order = np.argsort(rows["request"], kind="stable")
        columns: Columns = {name: rows[name][order] for name in TABLES["requests"]}
        columns["dispatch_ns"][columns["node"] == NONE] = NONE
        columns["first_token_ns"][columns["first_token_ns"] == 0] = NONE
        columns["end_ns"][columns["outcome"] == 0] = NONE
        columns["population"] = self._populations[columns["population"]]
        columns["model"] = self._models[columns["model"]]
        columns["outcome"] = np.array([IN_FLIGHT, *OUTCOMES[1:]], object)[columns["outcome"]]
        columns["reason"] = np.array(REASONS, object)[columns["reason"]]
        return columns

    def _latencies_columns(self) -> Columns:
        counts, under_way = self._observed.delays.reshape(len(DELAYS), BINS).copy(), self._observed.under_way
        begun = under_way[under_way["first_token_ns"] > 0]
        for ns in (begun["first_token_ns"] - begun["arrival_ns"]).tolist():
            counts[DELAYS.index("ttft"), bin_of(ns)] += 1
        delays, bins = np.nonzero(counts)
        low_ns, high_ns = bounds_ns(bins)
        return {
            "metric": np.array(DELAYS, object)[delays],
            "low_ns": low_ns,
            "high_ns": high_ns,
            "count": counts[delays, bins],
        }

    def _settlements_columns(self) -> Columns:
        return _stack([settlement._asdict() for epoch in self._observed.epochs for settlement in epoch.settled], "settlements")

    def _transactions_columns(self) -> Columns:
        return _stack([{**row, "status": "ok" if row["ok"] else "reverted"} for row in self._transactions()], "transactions")

    def _gas_measured_columns(self) -> Columns:
        return _stack([row for row in self._transactions() if row["gas_used"] is not None], "gas_measured")

    def _transactions(self) -> list[dict[str, Any]]:
        founding = [(SETUP, operation) for operation in self._founding]
        later = [(epoch.row["epoch"], operation) for epoch in self._observed.epochs for operation in epoch.operations]
        return [
            {"transaction": number, "epoch": epoch, **operation._asdict(), "operation": operation.name}
            for number, (epoch, operation) in enumerate(founding + later)
        ]

    def _under_way(self, nexus: Nexus) -> Rows:
        """The requests in flight as rows of the log: what the kernel knows of them, without an end."""
        requests, legs, offers = nexus.table("requests"), nexus.table("legs"), nexus.table("offers")
        requests = requests[requests["state"] != FREE]
        rows = np.zeros(len(requests), ROW)
        sent = requests["leg"] != NONE
        rows["node"] = NONE
        rows["node"][sent] = offers["node"][legs["offer"][requests["leg"][sent]]]
        rows["population"] = self._population_of[requests["account"]]
        rows["user"] = self._user_of[requests["account"]]
        for name, source in (
            ("request", "id"), ("model", "model"), ("prompt_tok", "prompt_tok"), ("output_tok", "from_tok"),
            ("arrival_ns", "arrival_ns"), ("dispatch_ns", "sent_ns"), ("first_token_ns", "first_token_ns"),
            ("fee_nlai", "charged_nlai"),
        ):  # fmt: skip
            rows[name] = requests[source]
        return rows


def _reputation(nexus: Nexus, nodes: int, t_ns: int) -> Columns:
    """Reliability of each node, and its quality: the posterior mean over all its offers."""
    offers = nexus.table("offers")[: nexus.count("offers")]
    alpha, beta = (np.bincount(offers["node"], weights, minlength=nodes)[:nodes] for weights in nexus.qualities(t_ns).T)
    with np.errstate(invalid="ignore"):  # a node without an offer has no quality
        quality = alpha / (alpha + beta)
    return {"reliability": nexus.reliabilities(t_ns), "quality": quality}


def _sums(settled: Sequence[Settlement]) -> dict[str, int]:
    """What an epoch's settlements took from users, by credit, and where it went."""
    debited = Parts(*(sum(part) for part in zip(Parts(0, 0), *(chunk.debited for chunk in settled), strict=True)))
    cuts = Cuts(*(sum(part) for part in zip(Cuts(0, 0, 0, 0, 0), *(chunk.cuts for chunk in settled), strict=True)))
    return {**debited._asdict(), **cuts._asdict(), "skipped": sum(chunk.skipped for chunk in settled)}


def _since(now: NDArray[Any], before: NDArray[Any]) -> NDArray[np.int64]:
    """What a counter has gained; entities may have come since."""
    gained = now.astype(np.int64)
    gained[: len(before)] -= before
    return gained


def _stack(rows: list[dict[str, Any]], table: str) -> Columns:
    kinds = {_INT: np.int64, _FLOAT: np.float64, _TEXT: object}
    columns: Columns = {}
    for name, kind in TABLES[table].items():
        values = [row[name] for row in rows]
        columns[name] = np.array(values, object if None in values else kinds[kind])
    return columns
