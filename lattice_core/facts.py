"""The rules for what the chain says of accounts, deposits, withdrawals, nodes, offers and bonds, and for lists of nodes."""

from lattice_core.directory import Handle
from lattice_core.jit import jit, rows, store
from lattice_core.ledger import fold, has_account
from lattice_core.reputation import bond_factor
from lattice_core.routing import activate
from lattice_core.state import (
    ABSENT,
    CLOSED,
    LISTED,
    NODES,
    NONE,
    UP,
    account_at,
    clock,
    group_at,
    list_at,
    node_at,
    offer_at,
    params,
)
from lattice_core.transition import begin, ignored
from lattice_core.units import MAX_PRICE_NLAI, MAX_SUPPLY_NLAI

MAX_INT32 = 2**31 - 1


@jit
def open_account(S: Handle, account: int, key: int, cluster: int, t_ns: int) -> int:
    """The chain has registered an account. Its row exists already."""
    begin(S, t_ns)
    a = account_at(S, account)
    if a.known:
        return ignored(S)
    a.known, a.key, a.cluster = 1, key, cluster
    return 0


@jit
def deposit(S: Handle, account: int, nlai: int, faucet: bool, t_ns: int) -> int:
    """LAI has reached the account's escrow: purchased, or granted by the faucet."""
    begin(S, t_ns)
    if not has_account(S, account) or nlai <= 0 or nlai > MAX_SUPPLY_NLAI:
        return ignored(S)
    a = account_at(S, account)
    if a.deposited_nlai + a.granted_nlai > MAX_SUPPLY_NLAI - nlai:
        return ignored(S)
    if faucet:
        a.granted_nlai += nlai
        a.faucet_free_nlai += nlai
    else:
        a.deposited_nlai += nlai
        a.free_nlai += nlai
    fold(S, account)
    fold(S, nlai)
    return 0


@jit
def request_withdrawal(S: Handle, account: int, nlai: int, t_ns: int) -> int:
    """The account wants `nlai` of its purchased credit out: new reservations leave that much free."""
    begin(S, t_ns)
    if not has_account(S, account) or nlai < 0 or nlai > MAX_SUPPLY_NLAI:
        return ignored(S)
    account_at(S, account).withdrawing_nlai = nlai
    fold(S, account)
    fold(S, nlai)
    return 0


@jit
def withdraw(S: Handle, account: int, nlai: int, t_ns: int) -> int:
    """LAI has left the escrow: what was free, and then what no voucher has claimed in time."""
    begin(S, t_ns)
    if not has_account(S, account) or nlai < 0 or nlai > MAX_SUPPLY_NLAI:
        return ignored(S)
    a = account_at(S, account)
    free = min(nlai, a.free_nlai)
    overdue = min(nlai - free, a.overdue_nlai)
    a.free_nlai -= free
    a.overdue_nlai -= overdue
    a.withdrawn_nlai += free + overdue
    a.withdrawing_nlai = 0
    fold(S, account)
    fold(S, -nlai)
    return 0


@jit
def register_node(
    S: Handle, node: int, key: int, kind: int, cluster: int, owner: int, slots: int, queue_room: int, t_ns: int
) -> int:
    """The chain has registered a node; it takes requests from `node_up` on. Its row exists already."""
    t = begin(S, t_ns)
    n = node_at(S, node)
    if n.key != 0 or key == 0 or not (0 < slots <= MAX_INT32 and 0 <= queue_room <= MAX_INT32 and NONE <= owner <= MAX_INT32):
        return ignored(S)
    n.key, n.kind, n.cluster, n.owner = key, kind, cluster, owner
    n.slots, n.queue_room, n.offer, n.observed_ns = slots, queue_room, NONE, t
    n.status, n.breaker = ABSENT, CLOSED
    history = params(S).history
    n.audits = int(history)
    n.audits_passed = int(history)
    return 0


@jit
def post_offer(S: Handle, offer: int, key: int, node: int, group: int, price_in: int, price_out: int, t_ns: int) -> int:
    """A registered node offers a model, once, at a price. Its row, and a place in the group, exist already."""
    t = begin(S, t_ns)
    if not (0 <= price_in <= MAX_PRICE_NLAI and 0 <= price_out <= MAX_PRICE_NLAI):
        return ignored(S)
    other = node_at(S, node).offer
    while other != NONE:  # a second place in the group would be a second chance to be drawn
        if offer_at(S, other).group == group:
            return ignored(S)
        other = offer_at(S, other).next_of_node
    clock(S).offers += 1
    p, o, g = params(S), offer_at(S, offer), group_at(S, group)
    o.key, o.node, o.model, o.group = key, node, g.model, group
    o.position, o.rare_position = NONE, NONE
    o.price_in, o.price_out = price_in, price_out
    o.ttft_s, o.itl_s, o.ttft_ns, o.itl_ns = g.ttft_s, g.itl_s, t, t
    o.alpha, o.beta = p.quality_alpha + p.history, p.quality_beta
    o.audited_ns, o.quality_tick, o.results = t, 0, int(p.history)
    o.next_of_node = node_at(S, node).offer
    node_at(S, node).offer = offer
    g.size += 1
    if node_at(S, node).status == UP:
        activate(S, offer)
    return 0


@jit
def set_bond(S: Handle, node: int, nlai: int, t_ns: int) -> int:
    """The chain's record of a node's bond."""
    begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).key == 0 or nlai < 0 or nlai > MAX_SUPPLY_NLAI:
        return ignored(S)
    n = node_at(S, node)
    n.bond_nlai, n.bond_factor = nlai, bond_factor(S, nlai)
    fold(S, node)
    fold(S, nlai)
    return 0


@jit
def open_list(S: Handle, nodes: int, allow: bool, t_ns: int) -> int:
    """A new list without nodes. Its row exists already; its id is one more than that of the list before."""
    begin(S, t_ns)
    c = clock(S)
    if nodes != c.lists + 1:
        return ignored(S)
    li = list_at(S, c.lists)
    li.start, li.count, li.allow = c.listed, 0, 1 if allow else 0
    c.lists += 1
    fold(S, nodes if allow else -nodes)
    return 0


@jit
def add_to_list(S: Handle, node: int) -> None:
    """One more node on the newest list, with a higher index than those before. Its place exists already."""
    c = clock(S)
    store(S, LISTED, c.listed, node)
    c.listed += 1
    list_at(S, c.lists - 1).count += 1
    fold(S, node)
