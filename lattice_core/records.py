"""What a run leaves behind, as rows: filled by a driver while it runs, observed at the end of each epoch, read as columns.

`TABLES` is the schema of the run directory's Parquet files. An epoch's rows are kept together or not at all: a run stopped in
the middle leaves the epochs before it whole. Files, frames and pictures are made elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core import census
from lattice_core.config import Config
from lattice_core.nexus import Nexus
from lattice_core.settlement import Settlement
from lattice_core.split import Cuts, Parts
from lattice_core.state import FREE, NONE, OUTCOMES, REASONS, UP, Rows

type Columns = dict[str, NDArray[Any]]

MAX_REQUEST_ROWS = 1_000_000
"""Requests that are written whole; of more, every k-th is."""

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
class _Observed:
    """An epoch's rows, and the kernel as it was at its end."""

    epoch: dict[str, int | None]
    nodes: Columns
    requests: NDArray[np.int64]
    operations: Sequence[Operation]
    settled: Sequence[Settlement]
    in_flight: NDArray[np.int64]
    node_rows: Rows
    account_rows: Rows
    counts: dict[str, int]
    busy_slot_ns: NDArray[np.int64] | None
    digest: bytes


class Records:
    """The rows of one run."""

    def __init__(self, config: Config) -> None:
        """For the nodes and users of `config`, numbered as `census` numbers them."""
        self.requests: list[tuple[int, ...]] = []
        """A driver appends each request that ends: the columns of `requests` in order, with indices of `config.users` and
        `config.models` for `population` and `model`, codes of `state` for `outcome` and `reason`, and times as `Status` tells
        them."""
        names = [population.name for population in config.users]
        self._models = np.array(list(config.models), object)
        self._populations = np.array(names, object)
        self._nodes = np.array([entry.population.name for entry in census.nodes(config)], object)
        self._population_of = np.array([names.index(entry.population.name) for entry in census.users(config)], np.int64)
        self._user_of = np.array([entry.ordinal for entry in census.users(config)], np.int64)
        self._start_ns = 0
        self._founding: Sequence[Operation] = ()
        self._observed: list[_Observed] = []

    @property
    def epochs(self) -> int:
        """Epochs observed."""
        return len(self._observed)

    @property
    def digest(self) -> bytes:
        """The kernel's digest at the end of the last epoch observed; empty before."""
        return self._observed[-1].digest if self._observed else b""

    @property
    def arrived(self) -> int:
        """Requests that have arrived until then."""
        return self._observed[-1].counts["arrived"] if self._observed else 0

    @property
    def every(self) -> int:
        """k, if `requests` holds every k-th request; 1 if it holds them all."""
        return max(1, -(-self.arrived // MAX_REQUEST_ROWS))

    def begin(self, operations: Sequence[Operation], t_ns: int = 0) -> None:
        """The first epoch begins at `t_ns`, after the transactions that found the network."""
        self._start_ns, self._founding = t_ns, operations

    def observe(
        self,
        epoch: int,
        t_ns: int,
        nexus: Nexus,
        operations: Sequence[Operation],
        settled: Sequence[Settlement],
        busy_slot_ns: NDArray[np.int64] | None = None,
        bonus_nlai: int = 0,
    ) -> None:
        """Keep the epoch that has ended at `t_ns`, with its transactions, what was settled and what was paid as a bonus.

        `busy_slot_ns`: slots taken × time of each node since the start, from a driver that can tell.
        """
        last = self._observed[-1] if self._observed else None
        nodes, accounts = nexus.table("nodes"), nexus.table("accounts")
        nodes, accounts = nodes[nodes["key"] != 0], accounts[accounts["known"] == 1]
        counts = {name: nexus.count(name) for name in (*_ENDS, "in_flight")}
        up = nodes["status"] == UP
        start_ns = _int(last.epoch["end_ns"]) if last else self._start_ns
        slots_up = int(nodes["slots"][up].sum())
        slots_before = _int(last.epoch["slots_up"]) if last else slots_up
        flows = {name: _since(nodes[name], last.node_rows[name] if last else None) for name in _FLOWS}
        busy = None if busy_slot_ns is None else _since(busy_slot_ns, last.busy_slot_ns if last else None)
        arrived = {name: counts[name] - (last.counts[name] if last else 0) for name in _ENDS}
        self._observed.append(
            _Observed(
                epoch={
                    "epoch": epoch,
                    "start_ns": start_ns,
                    "end_ns": t_ns,
                    **arrived,
                    "in_flight": counts["in_flight"],
                    "output_tok": int(flows["output_tok"].sum()),
                    "gross_nlai": int(flows["gross_nlai"].sum()),
                    "nodes_up": int(up.sum()),
                    "slots_up": slots_up,
                    "busy_slot_ns": None if busy is None else int(busy.sum()),
                    "offered_slot_ns": (slots_before + slots_up) * (t_ns - start_ns) // 2,
                    **_sums(settled),
                    "bonus_nlai": bonus_nlai,
                },
                nodes={
                    "epoch": np.full(len(nodes), epoch, np.int64),
                    "node": np.arange(len(nodes)),
                    "population": self._nodes[: len(nodes)],
                    "up": up,
                    "slots": nodes["slots"],
                    "in_flight": nodes["in_flight"],
                    **_reputation(nexus, len(nodes), t_ns),
                    "bond_nlai": nodes["bond_nlai"],
                    **flows,
                    "busy_slot_ns": np.full(len(nodes), None, object) if busy is None else busy,
                },
                requests=_request_rows(self.requests),
                operations=operations,
                settled=settled,
                in_flight=self._under_way(nexus),
                node_rows=nodes,
                account_rows=accounts,
                counts=counts,
                busy_slot_ns=None if busy_slot_ns is None else busy_slot_ns.copy(),
                digest=nexus.digest(),
            )
        )
        self.requests.clear()

    def columns(self, table: str) -> Columns:
        """What the observed epochs left in a table of TABLES; None stands where the driver could not tell."""
        columns: Columns = getattr(self, f"_{table}_columns")()
        assert list(columns) == list(TABLES[table])
        return columns

    def _epochs_columns(self) -> Columns:
        return _stack([observed.epoch for observed in self._observed], "epochs")

    def _nodes_columns(self) -> Columns:
        if not self._observed:
            return _stack([], "nodes")
        return {name: np.concatenate([observed.nodes[name] for observed in self._observed]) for name in TABLES["nodes"]}

    def _users_columns(self) -> Columns:
        if not self._observed:
            return _stack([], "users")
        accounts = self._observed[-1].account_rows
        known = {
            "account": np.arange(len(accounts)),
            "population": self._populations[self._population_of[: len(accounts)]],
            "user": self._user_of[: len(accounts)],
        }
        return {name: known[name] if name in known else accounts[name] for name in TABLES["users"]}

    def _requests_columns(self) -> Columns:
        ended = [observed.requests for observed in self._observed]
        rows = np.concatenate([*ended, self._observed[-1].in_flight if self._observed else _request_rows([])])
        rows = rows[np.argsort(rows[:, 0], kind="stable")][:: self.every]
        columns: Columns = dict(zip(TABLES["requests"], rows.T.copy(), strict=True))
        columns["dispatch_ns"][columns["node"] == NONE] = NONE
        for name in ("first_token_ns", "end_ns"):
            columns[name][columns[name] == 0] = NONE
        columns["population"] = self._populations[columns["population"]]
        columns["model"] = self._models[columns["model"]]
        columns["outcome"] = np.array([IN_FLIGHT, *OUTCOMES[1:]], object)[columns["outcome"]]
        columns["reason"] = np.array(REASONS, object)[columns["reason"]]
        return columns

    def _settlements_columns(self) -> Columns:
        return _stack([settlement._asdict() for observed in self._observed for settlement in observed.settled], "settlements")

    def _transactions_columns(self) -> Columns:
        return _stack([{**row, "status": "ok" if row["ok"] else "reverted"} for row in self._transactions()], "transactions")

    def _gas_measured_columns(self) -> Columns:
        return _stack([row for row in self._transactions() if row["gas_used"] is not None], "gas_measured")

    def _transactions(self) -> list[dict[str, Any]]:
        founding = [(SETUP, operation) for operation in self._founding]
        later = [(_int(observed.epoch["epoch"]), operation) for observed in self._observed for operation in observed.operations]
        return [
            {"transaction": number, "epoch": epoch, **operation._asdict(), "operation": operation.name}
            for number, (epoch, operation) in enumerate(founding + later)
        ]

    def _under_way(self, nexus: Nexus) -> NDArray[np.int64]:
        """The requests in flight as rows: what the kernel knows of them, without an end."""
        requests, legs, offers = nexus.table("requests"), nexus.table("legs"), nexus.table("offers")
        requests = requests[requests["state"] != FREE]
        rows = np.zeros((len(requests), len(TABLES["requests"])), np.int64)
        column = dict(zip(TABLES["requests"], rows.T, strict=True))
        sent = requests["leg"] != NONE
        column["node"][:] = NONE
        column["node"][sent] = offers["node"][legs["offer"][requests["leg"][sent]]]
        column["population"][:] = self._population_of[requests["account"]]
        column["user"][:] = self._user_of[requests["account"]]
        for name, source in (
            ("request", "id"), ("model", "model"), ("prompt_tok", "prompt_tok"), ("arrival_ns", "arrival_ns"),
            ("dispatch_ns", "sent_ns"), ("first_token_ns", "first_token_ns"), ("fee_nlai", "charged_nlai"),
        ):  # fmt: skip
            column[name][:] = requests[source]
        return rows


def _request_rows(rows: list[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), len(TABLES["requests"]))


def _reputation(nexus: Nexus, nodes: int, t_ns: int) -> Columns:
    """Reliability of each node, and its quality: the posterior mean over all its offers."""
    offers = nexus.table("offers")[: nexus.count("offers")]
    posteriors = np.array([nexus.quality(offer, t_ns) for offer in range(len(offers))]).reshape(-1, 2)
    alpha, beta = (np.bincount(offers["node"], weights, minlength=nodes)[:nodes] for weights in posteriors.T)
    with np.errstate(invalid="ignore"):  # a node without an offer has no quality
        quality = alpha / (alpha + beta)
    return {"reliability": np.array([nexus.reliability(node, t_ns) for node in range(nodes)]), "quality": quality}


def _sums(settled: Sequence[Settlement]) -> dict[str, int]:
    """What an epoch's settlements took from users, by credit, and where it went."""
    debited = Parts(*(sum(part) for part in zip(Parts(0, 0), *(chunk.debited for chunk in settled), strict=True)))
    cuts = Cuts(*(sum(part) for part in zip(Cuts(0, 0, 0, 0, 0), *(chunk.cuts for chunk in settled), strict=True)))
    return {**debited._asdict(), **cuts._asdict(), "skipped": sum(chunk.skipped for chunk in settled)}


def _since(now: NDArray[Any], before: NDArray[Any] | None) -> NDArray[np.int64]:
    """What a counter has gained; entities may have come since."""
    gained = now.astype(np.int64)
    if before is not None:
        gained[: len(before)] -= before
    return gained


def _stack(rows: list[dict[str, Any]], table: str) -> Columns:
    kinds = {_INT: np.int64, _FLOAT: np.float64, _TEXT: object}
    columns: Columns = {}
    for name, kind in TABLES[table].items():
        values = [row[name] for row in rows]
        columns[name] = np.array(values, object if None in values else kinds[kind])
    return columns


def _int(value: int | None) -> int:
    assert value is not None
    return value
