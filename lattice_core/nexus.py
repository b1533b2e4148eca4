"""The Nexus kernel as its drivers see it: events in, commands out, no clock and no I/O.

A typed, journalled shell around the rules. It finds rows by id, keeps room in the tables, and turns what a rule left in
`outs` into commands; it decides nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lattice_core import batches, facts, nodes, requests, snapshot, transition
from lattice_core.batch import Chunk
from lattice_core.config import Config
from lattice_core.directory import Rows, aligned
from lattice_core.events import (
    AccountOpened,
    Arrive,
    Audit,
    Audited,
    BatchConfirmed,
    BatchFailed,
    BatchLapsed,
    Bonded,
    Cancel,
    CancelRequest,
    CloseEpoch,
    Command,
    Complete,
    Deposited,
    Dispatch,
    Event,
    Fail,
    FaucetGranted,
    FirstToken,
    NodeDown,
    NodeRegistered,
    NodesListed,
    NodeUp,
    OfferPosted,
    Probe,
    Probed,
    Proceed,
    Progress,
    Receipt,
    Status,
    Submit,
    Tick,
    VoucherCollected,
    VoucherPresented,
    WithdrawalRequested,
    Withdrawn,
)
from lattice_core.journal import decision_line, event_line, header_line
from lattice_core.reputation import quality_posteriors, reliabilities
from lattice_core.routing import Policy, find_group, load_policy
from lattice_core.state import (
    AUDIT,
    CANCEL,
    CLIENT_LEFT,
    DISPATCH,
    FREE,
    GROUP,
    KINDS,
    NONE,
    PARAMS,
    PROBE,
    REASONS,
    RECEIPT,
    STATUS,
    SUBMIT,
    WEIGHTS,
    State,
    lacks_room,
)
from lattice_core.streams import entity_key
from lattice_core.timers import next_timer_ns
from lattice_core.units import NANO, NEVER_NS

MAX_ROWS = 10_000_000
"""The highest index of a node or account that a chain fact may bring."""

type Sink = Callable[[str], object]


class Factor(NamedTuple):
    """One candidate of a decision as it was: why it was dropped, or what its score was made of."""

    leg: int
    offer: int
    node: int
    dropped: str
    chosen: bool
    score: float
    seen: dict[str, float]


class Nexus:
    """One Nexus. Picklable, sinks apart; two that were given the same events have the same digest."""

    def __init__(self, config: Config, journal: Sink | None = None, decisions: Sink | None = None, nexus: int = 0) -> None:
        """`journal` receives the header and each input event as a line, `decisions` each command; both may be None.

        ValueError if the routing policy cannot be loaded. There is room for the config's own nodes and users from the start;
        others find some.
        """
        self.config = config
        self.models = tuple(config.models)
        self.clusters = (None, *(cluster.name for cluster in config.clusters))
        self.policy = load_policy(config.routing.policy)
        self._score = self.policy.address
        self.state = _initial(config, self.policy, nexus)
        self._rows: dict[int, int] = {}
        self._events = 0
        self._journal, self._decisions = journal, decisions
        if journal is not None:
            journal(header_line(config.canonical()))

    def handle(self, event: Event) -> Sequence[Command]:
        """Take one event and say what is to be done.

        Total: whatever does not fit is counted in `ignored` and changes nothing.
        """
        if self._journal is not None:
            now_ns = self.count("now_ns")
            self._journal(event_line(event if event.t_ns >= now_ns else event._replace(t_ns=now_ns)))
        self._events += 1
        if lacks_room(self.state.handle):
            self.state.make_request_room()
        count = _RULES[type(event)](self, event)
        commands = self._commands(count) if count else ()
        if self._decisions is not None:
            for command in commands:
                self._decisions(decision_line(self._events, command))
        return commands

    def snapshot(self) -> bytes:
        """All that the kernel knows, to be restored later and elsewhere."""
        return snapshot.dump(self.state.tables(), self._events, self.config.sha256())

    @classmethod
    def restore(cls, config: Config, blob: bytes) -> Self:
        """The kernel of a snapshot, without sinks: it goes on as that one did.

        SnapshotError for a snapshot of another format, config or version of the rules, or one that was altered.
        """
        nexus = cls(config)
        dtypes = {name: table.dtype for name, table in nexus.state.tables().items()}
        tables, nexus._events = snapshot.load(blob, dtypes, config.sha256())
        if len(tables["memory"]) != nexus.policy.memory:
            raise snapshot.SnapshotError(
                f"snapshot: memory: must have {nexus.policy.memory} numbers, as {nexus.policy.name} declares, "
                f"not {len(tables['memory'])}"
            )
        for name, table in tables.items():
            nexus.state.put(name, aligned(table))
        requests = nexus.state.requests
        nexus._rows = {int(requests[row]["id"]): row for row in np.flatnonzero(requests["state"] != FREE).tolist()}
        return nexus

    def revise(self, config: Config) -> None:
        """Go on under a config that differs in its seed and its routing only: from here on these, for what was before those.

        ValueError if the routing policy cannot be loaded. A policy of another name begins without memory.
        """
        policy = load_policy(config.routing.policy)
        fresh = _initial(config, policy, int(self.state.params[0]["nexus"]))
        anew = ("params", "weights") if config.routing.policy == self.config.routing.policy else ("params", "weights", "memory")
        for name in anew:
            self.state.put(name, getattr(fresh, name))
        self.config, self.policy, self._score = config, policy, policy.address

    def record(self, journal: Sink, decisions: Sink) -> None:
        """From here on hand events and commands to these sinks; what was before, they have, or nobody wants."""
        self._journal, self._decisions = journal, decisions

    @property
    def is_recorded(self) -> bool:
        """Whether someone keeps its events or its commands."""
        return self._journal is not None or self._decisions is not None

    def next_timer_ns(self) -> int | None:
        """When the kernel wants a `Tick`, or None."""
        t_ns = next_timer_ns(self.state.handle)
        return None if t_ns == NEVER_NS else t_ns

    def explain(self, request: int) -> list[Factor]:
        """The candidates of a request's decisions, in the order in which they were considered; empty once forgotten."""
        rows = self.state.candidates
        newest = int(self.state.clock[0]["decisions"]) % len(rows)
        rows = np.roll(rows, -newest)
        return [
            Factor(
                leg=int(row["leg"]),
                offer=int(row["offer"]),
                node=int(self.state.offers[row["offer"]]["node"]),
                dropped=REASONS[row["reason"]],
                chosen=bool(row["chosen"]),
                score=float(row["score"]),
                seen={} if row["reason"] else {name: float(row["seen"][name]) for name in row["seen"].dtype.names},
            )
            for row in rows[(rows["request"] == request) & (rows["request"] > 0)]
        ]

    def digest(self) -> bytes:
        """Rolling hash of every decision and ledger entry so far: 16 bytes."""
        clock = self.state.clock[0]
        return b"".join(int(clock[lane]).to_bytes(8, "big") for lane in ("digest_a", "digest_b"))

    # What observers may read: copies, so that only the rules write.

    def table(self, name: str) -> Rows:
        """A copy of one table of the state: `nodes`, `offers`, `groups`, `accounts`, `legs`, `batches`, `clock` …"""
        return aligned(getattr(self.state, name))

    def count(self, name: str) -> int:
        """One counter of `state.CLOCK`, such as `arrived`."""
        return int(self.state.clock[name].item())

    @property
    def registered(self) -> int:
        """One more than the last node that is registered; on a chain of others' some before it may not be."""
        return int(np.flatnonzero(self.state.nodes["key"]).max(initial=-1)) + 1

    def reliabilities(self, t_ns: int) -> NDArray[np.float64]:
        """Share of the answers of nodes 0 to `registered` − 1 that succeed, as routing would see it at `t_ns`."""
        found: NDArray[np.float64] = reliabilities(self.state.handle, t_ns)[: self.registered]
        return found

    def qualities(self, t_ns: int) -> NDArray[np.float64]:
        """(α, β) of the posterior of each offer's audited quality at `t_ns`: (offers, 2)."""
        found: NDArray[np.float64] = quality_posteriors(self.state.handle, t_ns)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "policy": None, "_score": 0, "_journal": None, "_decisions": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.policy = load_policy(self.config.routing.policy)
        self._score = self.policy.address

    def _commands(self, count: int) -> list[Command]:
        commands: list[Command] = []
        for out in self.state.outs[:count].tolist():
            (
                kind, outcome, reason, request, leg, node, offer,
                account, from_tok, epoch, prompt_tok, output_tok, nlai, faucet_nlai, sent_ns, first_token_ns,
            ) = out  # fmt: skip
            if kind == DISPATCH:
                commands.append(Dispatch(request, leg, node, offer, nlai, from_tok))
            elif kind == STATUS:
                self._rows.pop(request, None)
                commands.append(Status(request, outcome, reason, node, output_tok, nlai, sent_ns, first_token_ns))
            elif kind == RECEIPT:
                commands.append(Receipt(request, leg, epoch, account, node, prompt_tok, output_tok, nlai, faucet_nlai))
            elif kind == CANCEL:
                commands.append(Cancel(request, leg, node))
            elif kind == PROBE:
                commands.append(Probe(node, leg))
            elif kind == AUDIT:
                commands.append(Audit(request, leg, node, offer, output_tok))
            elif kind == SUBMIT:
                commands.append(Submit(self._batch(row=request)))
        return commands

    def _batch(self, row: int) -> Chunk:
        """A pending batch as the chain takes it."""
        params, width = self.state.params[0], len(self.state.nodes)
        chunk, bucket = divmod(row, int(params["ring"]))
        first = chunk * int(params["chunk_users"])
        debits = self.state.unsettled[bucket :: int(params["ring"])][first : first + int(params["chunk_users"])]
        gross = self.state.unsettled_gross[row * width : (row + 1) * width]
        users = np.flatnonzero((debits["nlai"] > 0) | (debits["faucet_nlai"] > 0))
        nodes = np.flatnonzero((gross["nlai"] > 0) | (gross["faucet_nlai"] > 0))
        return Chunk(
            nexus=int(params["nexus"]),
            epoch=int(self.state.batches[row]["epoch"]),
            chunk=chunk,
            users=users + first,
            debit_purchased_nlai=debits["nlai"][users],
            debit_faucet_nlai=debits["faucet_nlai"][users],
            nodes=nodes,
            gross_purchased_nlai=gross["nlai"][nodes],
            gross_faucet_nlai=gross["faucet_nlai"][nodes],
        )

    # One line an event, where the rule needs no more.

    def _account_opened(self, e: AccountOpened) -> int:
        if not 0 <= e.account < MAX_ROWS or not 0 <= e.cluster < len(self.clusters):
            return self._ignore(e.t_ns)
        self.state.make_account_room(e.account)
        return facts.open_account(self.state.handle, e.account, e.key, e.cluster, e.t_ns)

    def _deposited(self, e: Deposited) -> int:
        return facts.deposit(self.state.handle, e.account, e.nlai, False, e.t_ns)

    def _faucet_granted(self, e: FaucetGranted) -> int:
        return facts.deposit(self.state.handle, e.account, e.nlai, True, e.t_ns)

    def _node_registered(self, e: NodeRegistered) -> int:
        if not 0 <= e.node < MAX_ROWS or not 0 <= e.kind < len(KINDS) or not 0 <= e.cluster < len(self.clusters):
            return self._ignore(e.t_ns)
        self.state.make_node_room(e.node)
        return facts.register_node(
            self.state.handle, e.node, e.key, e.kind, e.cluster, e.owner, e.slots, e.queue_room, e.t_ns
        )  # fmt: skip

    def _offer_posted(self, e: OfferPosted) -> int:
        nodes = self.state.nodes
        if not 0 <= e.node < len(nodes) or nodes[e.node]["key"] == 0 or not 0 <= e.model < len(self.models):
            return self._ignore(e.t_ns)
        node = nodes[e.node]
        group = find_group(self.state.handle, e.model, int(node["kind"]), int(node["cluster"]))
        if group == NONE:
            return self._ignore(e.t_ns)
        offer = self.count("offers")
        self.state.make_offer_room(offer, group)
        key = entity_key(self.models[e.model], int(node["key"]))
        return facts.post_offer(self.state.handle, offer, key, e.node, group, e.price_in, e.price_out, e.t_ns)

    def _bonded(self, e: Bonded) -> int:
        return facts.set_bond(self.state.handle, e.node, e.nlai, e.t_ns)

    def _batch_confirmed(self, e: BatchConfirmed) -> int:
        for account in e.skipped:
            batches.batch_skipped(self.state.handle, e.chunk, e.epoch, account, e.t_ns)
        return batches.batch_confirmed(self.state.handle, e.chunk, e.epoch, e.t_ns)

    def _batch_failed(self, e: BatchFailed) -> int:
        return batches.batch_failed(self.state.handle, e.chunk, e.epoch, e.t_ns)

    def _batch_lapsed(self, e: BatchLapsed) -> int:
        return batches.batch_lapsed(self.state.handle, e.chunk, e.epoch, e.t_ns)

    def _voucher_presented(self, e: VoucherPresented) -> int:
        return batches.voucher_presented(self.state.handle, e.account, e.nlai, e.t_ns)

    def _voucher_collected(self, e: VoucherCollected) -> int:
        return batches.voucher_collected(self.state.handle, e.epoch, e.account, e.node, e.nlai, e.faucet_nlai, e.t_ns)

    def _withdrawal_requested(self, e: WithdrawalRequested) -> int:
        return facts.request_withdrawal(self.state.handle, e.account, e.nlai, e.t_ns)

    def _withdrawn(self, e: Withdrawn) -> int:
        return facts.withdraw(self.state.handle, e.account, e.nlai, e.t_ns)

    def _node_up(self, e: NodeUp) -> int:
        return nodes.node_up(self.state.handle, e.node, e.t_ns)

    def _node_down(self, e: NodeDown) -> int:
        return nodes.node_down(self.state.handle, e.node, e.t_ns)

    def _nodes_listed(self, e: NodesListed) -> int:
        if e.list != self.count("lists") + 1 or not all(isinstance(node, int) and 0 <= node < MAX_ROWS for node in e.nodes):
            return self._ignore(e.t_ns)
        nodes = sorted(set(e.nodes))
        self.state.make_list_room(len(nodes))
        facts.open_list(self.state.handle, e.list, bool(e.allow), e.t_ns)
        for node in nodes:
            facts.add_to_list(self.state.handle, node)
        return 0

    def _arrive(self, e: Arrive) -> int:
        parent = self._rows.get(e.parent, NONE) if e.parent else NONE
        row = int(self.state.clock[0]["free_request"])
        count = requests.arrive(
            self.state.handle, e.request, e.parent, parent, e.account, e.principal, e.session, e.model, e.kind, e.cluster,
            e.privacy, e.prompt_tok, e.max_tok, e.max_fee_nlai, e.deadline_ns, e.prefix, e.held, e.prefer, e.nodes,
            e.t_ns, self._score,
        )  # fmt: skip
        if self.state.requests[row]["id"] == e.request:
            self._rows[e.request] = row
        return count

    def _proceed(self, e: Proceed) -> int:
        row = self._rows.get(e.request, NONE)
        return requests.proceed(self.state.handle, row, e.request, e.prompt_tok, e.t_ns, self._score)

    def _first_token(self, e: FirstToken) -> int:
        return requests.first_token(self.state.handle, e.leg, e.t_ns)

    def _progress(self, e: Progress) -> int:
        return requests.progress(self.state.handle, e.leg, e.upto_tok, e.t_ns)

    def _complete(self, e: Complete) -> int:
        return requests.complete(self.state.handle, e.leg, e.output_tok, e.t_ns)

    def _fail(self, e: Fail) -> int:
        return requests.fail(self.state.handle, e.leg, e.why, e.sent_tok, e.t_ns, self._score)

    def _cancel_request(self, e: CancelRequest) -> int:
        row = self._rows.get(e.request, NONE)
        return requests.cancel(self.state.handle, row, e.request, CLIENT_LEFT, e.t_ns)

    def _probed(self, e: Probed) -> int:
        return nodes.probed(self.state.handle, e.node, e.serial, bool(e.ok), e.t_ns)

    def _audited(self, e: Audited) -> int:
        return nodes.audited(self.state.handle, e.offer, bool(e.passed), float(e.weight), e.t_ns)

    def _tick(self, e: Tick) -> int:
        return requests.timer(self.state.handle, e.t_ns)

    def _close_epoch(self, e: CloseEpoch) -> int:
        return batches.close_epoch(self.state.handle, e.epoch, e.t_ns)

    def _ignore(self, t_ns: int) -> int:
        return transition.ignore(self.state.handle, t_ns)


_RULES: dict[type, Callable[[Nexus, Any], int]] = {
    AccountOpened: Nexus._account_opened,
    Deposited: Nexus._deposited,
    FaucetGranted: Nexus._faucet_granted,
    NodeRegistered: Nexus._node_registered,
    OfferPosted: Nexus._offer_posted,
    Bonded: Nexus._bonded,
    BatchConfirmed: Nexus._batch_confirmed,
    BatchFailed: Nexus._batch_failed,
    BatchLapsed: Nexus._batch_lapsed,
    VoucherPresented: Nexus._voucher_presented,
    VoucherCollected: Nexus._voucher_collected,
    WithdrawalRequested: Nexus._withdrawal_requested,
    Withdrawn: Nexus._withdrawn,
    NodeUp: Nexus._node_up,
    NodeDown: Nexus._node_down,
    NodesListed: Nexus._nodes_listed,
    Arrive: Nexus._arrive,
    Proceed: Nexus._proceed,
    FirstToken: Nexus._first_token,
    Progress: Nexus._progress,
    Complete: Nexus._complete,
    Fail: Nexus._fail,
    CancelRequest: Nexus._cancel_request,
    Probed: Nexus._probed,
    Audited: Nexus._audited,
    Tick: Nexus._tick,
    CloseEpoch: Nexus._close_epoch,
}


def _initial(config: Config, policy: Policy, nexus: int) -> State:
    """The state before the first event: parameters, and one empty group for each model and cluster."""
    routing, reputation, breaker = config.routing, config.reputation, config.routing.breaker
    params = np.zeros(1, PARAMS)
    values = {
        "seed": config.seed,
        "nexus": nexus,
        "models": len(config.models),
        "sampling": policy.sampling,
        "candidates": routing.candidates or policy.candidates,
        "explore": routing.explore if policy.explores else 0.0,
        "under_observed": routing.under_observed,
        "retries": routing.retries,
        "resume": routing.resume,
        "newcomer_cap": routing.newcomer_cap,
        "newcomer_verified": routing.newcomer_verified,
        "refresh_ns": routing.refresh_ns,
        "tau_ns": routing.latency_tau_ns,
        "reservation_ns": routing.reservation_ns,
        "bond_minimum_nlai": config.economics.bonds.minimum_nlai,
        "bond_reference_nlai": config.economics.bonds.reference_nlai,
        "breaker_failures": breaker.failures,
        "breaker_successes": breaker.successes,
        "breaker_open_ns": breaker.open_ns,
        "breaker_ejected": breaker.max_ejected,
        "fast_half_life_ns": reputation.fast_half_life_ns,
        "slow_half_life_ns": reputation.slow_half_life_ns,
        "fast_weight": reputation.fast_weight,
        "prior_reliability": reputation.prior_reliability,
        "prior_count": reputation.prior_count,
        "quality_alpha": reputation.quality_mean * reputation.quality_weight,
        "quality_beta": (1.0 - reputation.quality_mean) * reputation.quality_weight,
        "quality_half_life_ns": reputation.quality_half_life_ns,
        "history": reputation.history,
        "probe_interval_ns": reputation.probe_interval_ns,
        "audit_rate": reputation.audit_rate,
        "chunk_users": config.chain.chunk_users,
        "ring": config.chain.grace_epochs + 1,
    }
    assert set(values) == set(PARAMS.names or ())
    for name, value in values.items():
        params[0][name] = value
    weights = np.zeros(1, WEIGHTS)
    for name in WEIGHTS.names or ():
        weights[0][name] = getattr(routing.weights, name)
    groups = np.zeros(len(config.models) * (1 + len(config.clusters)), GROUP)
    places = [(model, cluster) for cluster in range(1 + len(config.clusters)) for model in range(len(config.models))]
    clusters = (None, *(cluster.name for cluster in config.clusters))
    for row, (model, cluster) in zip(groups, places, strict=True):
        name, spec = tuple(config.models.items())[model]
        reference = spec.reference
        row["model"], row["kind"], row["cluster"] = model, KINDS.index(spec.kind), cluster
        row["context_tok"] = spec.context_tok
        row["capacity"] = sum(
            nodes.count
            for nodes in config.nodes
            if (nodes.kind, clusters.index(nodes.cluster)) == (spec.kind, cluster) and name in nodes.models
        )
        row["price_in"], row["price_out"] = reference.price_input_nlai, reference.price_output_nlai
        row["ttft_s"], row["itl_s"] = reference.ttft_ns / NANO, reference.itl_ns / NANO
        row["prefill_s"] = 1.0 / reference.prefill_tok_s
        row["output_tok"], row["knee_s"] = reference.output_tok, reference.knee_ns / NANO
    groups["start"][1:] = np.cumsum(groups["capacity"])[:-1]
    state = State(params, weights, groups, policy.memory)
    state.make_node_room(sum(nodes.count for nodes in config.nodes) - 1)
    state.make_account_room(sum(users.count for users in config.users) - 1)
    return state
