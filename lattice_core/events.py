"""What enters the kernel and what leaves it, as tuples with names.

An event carries its own time. Ids of requests grow within a Nexus; ids of legs, and serials of probes, are the kernel's own
and come back as they were sent. Nodes, accounts and offers are dense indices: on the chain a user id is an account, a node id
a node.
"""

from typing import NamedTuple

from lattice_core.batch import Chunk


class AccountOpened(NamedTuple):
    """Chain fact: an account exists. `key` is its entity key, `cluster` its private cluster (0: none)."""

    t_ns: int
    account: int
    key: int
    cluster: int = 0


class Deposited(NamedTuple):
    """Chain fact: purchased LAI reached the account's escrow."""

    t_ns: int
    account: int
    nlai: int


class FaucetGranted(NamedTuple):
    """Chain fact: the account was granted spend-only credit."""

    t_ns: int
    account: int
    nlai: int


class NodeRegistered(NamedTuple):
    """Chain fact: a node exists. `kind` is an index of `state.KINDS`, `owner` an account or −1."""

    t_ns: int
    node: int
    key: int
    kind: int
    cluster: int
    owner: int
    slots: int
    queue_room: int


class OfferPosted(NamedTuple):
    """Chain fact: a registered node serves `model` (index) at these prices, nanoLAI per million tokens."""

    t_ns: int
    node: int
    model: int
    price_in: int
    price_out: int


class Bonded(NamedTuple):
    """Chain fact: a node's bond is now `nlai`."""

    t_ns: int
    node: int
    nlai: int


class BatchConfirmed(NamedTuple):
    """Chain fact: the batch (epoch, chunk) is settled, but for the accounts that it skipped."""

    t_ns: int
    epoch: int
    chunk: int
    skipped: tuple[int, ...] = ()


class BatchFailed(NamedTuple):
    """Chain fact: the batch (epoch, chunk) did not go through; it is sent again when the next epoch closes."""

    t_ns: int
    epoch: int
    chunk: int


class BatchLapsed(NamedTuple):
    """Chain fact: the batch (epoch, chunk) will never be taken, for its grace has passed; the vouchers pay."""

    t_ns: int
    epoch: int
    chunk: int


class VoucherPresented(NamedTuple):
    """Chain fact: a voucher promises a node `nlai` more of the account's credit than before, and waits to be collected."""

    t_ns: int
    account: int
    nlai: int


class VoucherCollected(NamedTuple):
    """Chain fact: a node collected this much of what an account owed it for `epoch`, by voucher."""

    t_ns: int
    epoch: int
    account: int
    node: int
    nlai: int
    faucet_nlai: int


class WithdrawalRequested(NamedTuple):
    """Chain fact: the account wants `nlai` of purchased credit out, in all; 0 wants nothing out any more."""

    t_ns: int
    account: int
    nlai: int


class Withdrawn(NamedTuple):
    """Chain fact: `nlai` of purchased credit has left the account's escrow, and its request is done."""

    t_ns: int
    account: int
    nlai: int


class NodeUp(NamedTuple):
    """A registered node takes requests from now on."""

    t_ns: int
    node: int


class NodeDown(NamedTuple):
    """A node takes no more requests and finishes what it has."""

    t_ns: int
    node: int


class NodesListed(NamedTuple):
    """A list of nodes for requests to name: with `allow` nobody else may serve them, else none of these.

    Lists are numbered from 1, one after another; a node that does not exist yet may stand on one.
    """

    t_ns: int
    list: int
    allow: bool
    nodes: tuple[int, ...]


class Arrive(NamedTuple):
    """A request. `held`: reserve `max_fee_nlai` and wait for `Proceed`; `parent`: the request that pays and of which this is
    a part.

    `kind`, `privacy` and `prefer` are indices of `state.KINDS`, `PRIVACY` and `PREFERENCES`; `max_fee_nlai` 0 means no cap,
    `deadline_ns` 0 none, `nodes` 0 any node; else it is the list of those that may serve it, or may not.
    """

    t_ns: int
    request: int
    account: int
    model: int
    prompt_tok: int
    max_tok: int
    kind: int = 0
    max_fee_nlai: int = 0
    deadline_ns: int = 0
    principal: int = 0
    session: int = 0
    cluster: int = 0
    privacy: int = 0
    prefix: int = 0
    parent: int = 0
    held: bool = False
    prefer: int = 0
    nodes: int = 0


class Proceed(NamedTuple):
    """Dispatch a held request, with the prompt that its sub-requests have made of it."""

    t_ns: int
    request: int
    prompt_tok: int


class FirstToken(NamedTuple):
    """A leg's node has begun to answer."""

    t_ns: int
    leg: int


class Progress(NamedTuple):
    """Cumulative receipt: the leg has delivered up to token `upto_tok` of the whole answer."""

    t_ns: int
    leg: int
    upto_tok: int


class Complete(NamedTuple):
    """The leg has delivered the end of the answer, which has `output_tok` tokens in all."""

    t_ns: int
    leg: int
    output_tok: int


class Fail(NamedTuple):
    """The leg has failed: `why` is `state.NODE_LOST`, `NODE_REFUSED`, `NODE_TIMEOUT` or `BAD_ANSWER`.

    The first `sent_tok` tokens of the whole answer have reached the user, or all that are receipted, if these are more.
    """

    t_ns: int
    leg: int
    why: int
    sent_tok: int = 0


class CancelRequest(NamedTuple):
    """The client has left."""

    t_ns: int
    request: int


class Probed(NamedTuple):
    """A probe's answer, or that none came."""

    t_ns: int
    node: int
    serial: int
    ok: bool


class Audited(NamedTuple):
    """An auditor's verdict on one answer of an offer, worth `weight` observations."""

    t_ns: int
    offer: int
    passed: bool
    weight: float = 1.0


class Tick(NamedTuple):
    """Time has reached the kernel's next timer."""

    t_ns: int


class CloseEpoch(NamedTuple):
    """The epoch has ended: batches go to the chain."""

    t_ns: int
    epoch: int


type Event = (
    AccountOpened
    | Deposited
    | FaucetGranted
    | NodeRegistered
    | OfferPosted
    | Bonded
    | BatchConfirmed
    | BatchFailed
    | BatchLapsed
    | VoucherPresented
    | VoucherCollected
    | WithdrawalRequested
    | Withdrawn
    | NodeUp
    | NodeDown
    | NodesListed
    | Arrive
    | Proceed
    | FirstToken
    | Progress
    | Complete
    | Fail
    | CancelRequest
    | Probed
    | Audited
    | Tick
    | CloseEpoch
)

EVENTS: tuple[type[Event], ...] = Event.__value__.__args__
"""Every kind of event, in the order of the union."""


class Dispatch(NamedTuple):
    """Send the request to `node` as leg `leg`, to go on behind the first `from_tok` tokens of its answer; at most `quote_nlai`
    will be charged for it.
    """

    request: int
    leg: int
    node: int
    offer: int
    quote_nlai: int
    from_tok: int = 0


class Cancel(NamedTuple):
    """Tell `node` to stop working on `leg`."""

    request: int
    leg: int
    node: int


class Probe(NamedTuple):
    """Send `node` a health probe and answer with `Probed` and this serial."""

    node: int
    serial: int


class Audit(NamedTuple):
    """Have the answer of `output_tok` tokens audited that this leg has ended; the answer is already committed."""

    request: int
    leg: int
    node: int
    offer: int
    output_tok: int


class Status(NamedTuple):
    """A request has ended. `outcome` and `reason` index `state.OUTCOMES` and `state.REASONS`; times are 0 where there was none.

    `sent_ns` is of the leg that began the answer, or else of the last. `node` is the last that served it (−1: none),
    `output_tok` what of the whole answer has reached the user, `fee_nlai` the request's whole fee.
    """

    request: int
    outcome: int
    reason: int
    node: int
    output_tok: int
    fee_nlai: int
    sent_ns: int
    first_token_ns: int


class Submit(NamedTuple):
    """Send this batch to the chain and answer with `BatchConfirmed`, `BatchFailed` or `BatchLapsed`."""

    batch: Chunk


class Receipt(NamedTuple):
    """For a leg `account` owes `node` `nlai` of purchased and `faucet_nlai` of faucet credit; the batch of `epoch` claims it.

    `request` is what the leg served, a sub-request maybe. `prompt_tok` and `output_tok` are what is paid for: the prompt, 0 if
    a leg before is paid for it, and what this leg delivered.
    """

    request: int
    leg: int
    epoch: int
    account: int
    node: int
    prompt_tok: int
    output_tok: int
    nlai: int
    faucet_nlai: int


type Command = Dispatch | Cancel | Probe | Audit | Status | Submit | Receipt
