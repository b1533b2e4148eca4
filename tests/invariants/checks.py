"""What must hold of a kernel's tables after every event, as plain sums over copies of them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from lattice_core.agenda import new_agenda
from lattice_core.agenda import times as due_ns
from lattice_core.invariants import check_money, check_requests
from lattice_core.nexus import Nexus
from lattice_core.state import FREE, HELD, NONE, OPEN, RUNNING, UP
from lattice_core.units import NEVER_NS


def money(nexus: Nexus) -> None:
    """INV-1 inside the kernel: every nanoLAI that came in is in exactly one place, and no place holds less than nothing."""
    check_money(nexus)
    accounts, requests, legs, nodes = (nexus.table(name) for name in ("accounts", "requests", "legs", "nodes"))
    open_requests, open_legs = requests[requests["state"] != FREE], legs[legs["id"] != 0]
    for faucet in ("", "faucet_"):
        held = sums(range(len(accounts)), accounts[f"{faucet}held_nlai"])
        assert held == sums(open_requests["account"], open_requests[f"hold_{faucet}nlai"]), "what is held is reserved"

    above = requests["parent"][open_legs["request"]]
    roots = np.where(above == NONE, open_legs["request"], above)
    committed = sums(np.flatnonzero(requests["state"] != FREE), open_requests["committed_nlai"])
    assert committed == sums(roots, open_legs["reserved_nlai"]), "a root's commitment is what its open legs have reserved"
    assert (open_requests["hold_nlai"] + open_requests["hold_faucet_nlai"] >= open_requests["committed_nlai"]).all()
    for name in ("hold_nlai", "hold_faucet_nlai", "charged_nlai"):
        assert (open_requests[name] >= 0).all(), name

    gross, batches = nexus.table("gross"), nexus.table("batches")
    claimed = nexus.table("unsettled_gross").reshape(-1, len(nodes))
    for name in ("nlai", "faucet_nlai"):
        assert (gross[name] >= 0).all(), name
        assert (claimed[name] >= 0).all(), name
        assert not claimed[name][batches["pending"] == 0].any(), "what is not pending claims nothing"
    assert (batches["failed"] <= batches["pending"]).all()
    assert (accounts["withdrawing_nlai"] >= 0).all()


def requests(nexus: Nexus) -> None:
    """INV-2: whatever arrived has ended in one way or is in flight: in all, for each account and for each node."""
    check_requests(nexus)
    accounts, nodes, rows, legs = (nexus.table(name) for name in ("accounts", "nodes", "requests", "legs"))
    open_requests, open_legs = rows[rows["state"] != FREE], legs[legs["id"] != 0]
    assert accounts["in_flight"].tolist() == count(open_requests["account"], len(accounts))
    serving = nexus.table("offers")["node"][open_legs["offer"]] if len(open_legs) else open_legs["offer"]
    assert nodes["in_flight"].tolist() == count(serving, len(nodes))


def times(nexus: Nexus) -> None:
    """INV-3: nothing has happened before what caused it, nor after now."""
    now_ns = nexus.count("now_ns")
    requests, legs = nexus.table("requests"), nexus.table("legs")
    for request in requests[requests["state"] == RUNNING]:
        assert request["arrival_ns"] <= request["sent_ns"] <= now_ns
    for leg in legs[legs["id"] != 0]:
        request = requests[leg["request"]]
        assert request["arrival_ns"] <= leg["sent_ns"] <= now_ns
        assert leg["first_token_ns"] == 0 or leg["sent_ns"] <= leg["first_token_ns"] <= now_ns


def tables(nexus: Nexus) -> None:
    """Free lists, the tree of requests, the timers and the groups' members are whole."""
    clock, requests, legs = nexus.table("clock")[0], nexus.table("requests"), nexus.table("legs")
    assert free_rows(requests, int(clock["free_request"])) == set((requests["state"] == FREE).nonzero()[0].tolist())
    assert free_rows(legs, int(clock["free_leg"])) == set((legs["id"] == 0).nonzero()[0].tolist())
    for row in np.flatnonzero(requests["state"] != FREE):
        request = requests[row]
        assert (request["state"] == HELD) == (request["leg"] == NONE)
        if request["leg"] != NONE:
            assert legs[request["leg"]]["request"] == row
        children, child = [], int(request["child"])
        while child != NONE:
            children.append(child)
            assert requests[child]["state"] != FREE
            assert requests[child]["parent"] == row
            child = int(requests[child]["sibling"])
        assert len(children) == (requests["parent"][requests["state"] != FREE] == row).sum()
    timers(nexus)
    members(nexus)


def timers(nexus: Nexus) -> None:
    """Each timer's agenda has its minima right, and just those have a time that are waited for."""
    requests, nodes = nexus.table("requests"), nexus.table("nodes")
    waiting = {
        "breaker_timers": nodes["breaker"] == OPEN,
        "request_timers": requests["state"] != FREE,
        "probe_timers": nodes["status"] == UP,
    }
    for name, rows in waiting.items():
        agenda = nexus.table(name)
        np.testing.assert_array_equal(agenda, new_agenda(len(due_ns(agenda)), agenda))
        due = due_ns(agenda) != NEVER_NS
        np.testing.assert_array_equal(due[: len(rows)], rows)
        assert not due[len(rows) :].any()
    ends = due_ns(nexus.table("request_timers"))[: len(requests)]
    assert (ends[requests["state"] != FREE] >= requests["arrival_ns"][requests["state"] != FREE]).all()


def members(nexus: Nexus) -> None:
    """A group's active places hold the offers of nodes that are up, its rare ones those of them with few results."""
    params, offers, nodes = nexus.table("params")[0], nexus.table("offers")[: nexus.count("offers")], nexus.table("nodes")
    places = nexus.table("members")
    for g, group in enumerate(nexus.table("groups")):
        mine = [i for i, offer in enumerate(offers) if offer["group"] == g]
        up = {i for i in mine if nodes[offers[i]["node"]]["status"] == UP}
        row = places[group["start"] : group["start"] + group["capacity"]]
        active, rare = row["active"][: group["active"]].tolist(), row["rare"][: group["rare"]].tolist()
        assert group["size"] == len(mine) <= group["capacity"]
        assert sorted(active) == sorted(up)
        assert set(rare) == {i for i in up if offers[i]["results"] < params["under_observed"]}
        assert all(offers[i]["position"] == at for at, i in enumerate(active))
        assert all(offers[i]["rare_position"] == at for at, i in enumerate(rare))


def everything(nexus: Nexus) -> None:
    money(nexus)
    requests(nexus)
    times(nexus)
    tables(nexus)


def sums(keys: Iterable[int], amounts: Any) -> dict[int, int]:
    """The sum of the amounts by key; zeros left out."""
    total: Counter[int] = Counter()
    for key, amount in zip(keys, amounts.tolist(), strict=True):
        total[int(key)] += amount
    return {key: amount for key, amount in total.items() if amount}


def count(rows: Any, length: int) -> list[int]:
    """How often each index below `length` occurs."""
    found = Counter(rows.tolist())
    return [found[i] for i in range(length)]


def free_rows(rows: Any, first: int) -> set[int]:
    """The rows of a free list, each once."""
    following, at = rows["next_free"].tolist(), first
    found: list[int] = []
    while at != NONE:
        found.append(at)
        at = following[at]
        assert len(found) <= len(following)
    assert len(set(found)) == len(found)
    return set(found)
