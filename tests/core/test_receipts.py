"""Receipts: what the kernel charges in an epoch, its batches and the sums that vouchers state are the same money."""

from collections import Counter
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.batch import Chunk
from lattice_core.events import BatchConfirmed, CancelRequest, CloseEpoch, Command, Proceed, Progress, Receipt, Submit
from lattice_core.receipts import Receipts, Usage
from tests.invariants.town import FACTS, Town, every_town_is_whole, only

__all__ = ["every_town_is_whole"]


def receipt(leg: int, epoch: int = 0, account: int = 0, node: int = 0, nlai: int = 10, faucet_nlai: int = 0) -> Receipt:
    """A receipt for 7 tokens of prompt and 3 of output."""
    return Receipt(leg + 100, leg, epoch, account, node, 7, 3, nlai, faucet_nlai)


def book(*receipts: Receipt) -> Receipts:
    found = Receipts(keccak)
    for one in receipts:
        found.add(one)
    return found


# --- what the kernel says ---


def test_a_charge_has_a_receipt_with_what_was_delivered_and_both_kinds_of_credit() -> None:
    town = Town()
    town.user(deposit=1, faucet=0.00004)
    town.node(price=(0.2, 1))
    town.handle(CloseEpoch(town.t_ns, 0))
    sent = town.sent(prompt=100, most=200)
    town.handle(Progress(town.t_ns, sent.leg, 48))
    ended = town.handle(CancelRequest(town.t_ns, sent.request))
    assert only(Receipt, ended) == Receipt(sent.request, sent.leg, 1, 0, 0, 100, 48, 28_000, 40_000)


def test_what_costs_nothing_has_no_receipt() -> None:
    town = Town({"routing.retries": 0})
    town.user()
    town.node()
    sent = town.sent()
    assert not [command for command in town.fail(sent.leg) if isinstance(command, Receipt)]
    sent = town.sent()
    assert not [c for c in town.handle(CancelRequest(town.t_ns, sent.request)) if isinstance(c, Receipt)]


def test_a_part_of_a_request_has_its_own_receipt_from_the_payer_of_the_whole() -> None:
    town = Town()
    town.user()
    town.node(0)
    town.node(1, model=FACTS)
    town.ask(held=True, max_fee_nlai=10**9)
    root = town.requests
    part = town.sent(model=FACTS, prompt=20, most=50, parent=root)
    town.handle(Progress(town.t_ns, part.leg, 30))
    town.handle(Proceed(town.t_ns, root, 150))
    found = only(Receipt, town.handle(CancelRequest(town.t_ns, root)))
    assert (found.request, found.account, found.node) == (part.request, 0, 1)
    assert (found.prompt_tok, found.output_tok) == (20, 30)


@given(
    st.lists(
        st.one_of(st.just("close"), st.tuples(st.integers(0, 4), st.integers(0, 200), st.sampled_from(["answer", "leave"]))),
        max_size=30,
    )
)
def test_an_epochs_receipts_add_up_to_its_batches_debits_and_grosses(story: list[Any]) -> None:
    town, receipts, batches = Town({"chain.chunk_users": 2, "routing.policy": "random"}), Receipts(keccak), list[Chunk]()
    for account in range(5):
        town.user(account, deposit=1, faucet=0.0002 * account)
    town.nodes(3)

    def note(commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Receipt):
                receipts.add(command)
            elif isinstance(command, Submit):
                batches.append(command.batch)
                town.handle(BatchConfirmed(town.t_ns, command.batch.epoch, command.batch.chunk))

    def close() -> None:
        note(town.handle(CloseEpoch(town.t_ns, town.nexus.count("epoch"))))

    for step in story:
        if step == "close":
            close()
        else:
            account, tokens, end = step
            sent = town.sent(account=account)
            note(town.handle(Progress(town.t_ns, sent.leg, tokens)))
            note(town.handle(CancelRequest(town.t_ns, sent.request)) if end == "leave" else town.fail(sent.leg))
            note(town.handle(CancelRequest(town.t_ns, sent.request)))
    close()

    debits, grosses = Counter[Any](), Counter[Any]()
    for batch in batches:
        amounts = (batch.debit_purchased_nlai + batch.debit_faucet_nlai).tolist()
        debits.update({(batch.epoch, user): nlai for user, nlai in zip(batch.users.tolist(), amounts, strict=True)})
        amounts = (batch.gross_purchased_nlai + batch.gross_faucet_nlai).tolist()
        keys = [(batch.epoch, batch.chunk, node) for node in batch.nodes.tolist()]
        grosses.update(dict(zip(keys, amounts, strict=True)))
    usage = [one for epoch in range(town.nexus.count("epoch")) for one in receipts.usage(epoch)]
    by_user, by_node = Counter[Any](), Counter[Any]()
    for one in usage:
        by_user[one.epoch, one.payer] += one.nlai
        by_node[one.epoch, one.payer // 2, one.node] += one.nlai
    assert by_user == debits
    assert by_node == grosses


# --- the book ---


def test_usage_is_summed_by_epoch_payer_and_node_in_order() -> None:
    found = book(
        receipt(5, node=2, nlai=1, faucet_nlai=4),
        receipt(2, node=1),
        receipt(9, account=1),
        receipt(4, node=2),
        receipt(1, epoch=3),
    )
    sums = [one[:5] for one in found.usage(0)]
    assert sums == [(0, 0, 1, 10, 10), (0, 0, 2, 15, 20), (0, 1, 0, 10, 10)]
    assert [one[:5] for one in found.usage(3)] == [(3, 0, 0, 10, 10)]
    assert found.usage(1) == []


def test_a_receipt_counts_once_and_its_place_in_the_book_does_not_matter() -> None:
    receipts = [receipt(leg) for leg in range(1, 8)]
    assert book(*receipts, *receipts[:3]).usage(0) == book(*reversed(receipts)).usage(0)


def test_forgotten_epochs_are_gone_and_later_ones_stay() -> None:
    found = book(*(receipt(epoch + 1, epoch) for epoch in range(4)))
    found.forget(1)
    assert [len(found.usage(epoch)) for epoch in range(4)] == [0, 0, 1, 1]


def leaf(one: Receipt) -> bytes:
    """The fields, packed as Solidity's `abi.encodePacked` packs uint64 and uint32, hashed twice."""
    bits = (64, 64, 32, 32, 32, 32, 32, 64, 64)
    return keccak(keccak(b"".join(value.to_bytes(size // 8, "big") for value, size in zip(one, bits, strict=True))))


def verifies(proof: list[bytes], root: bytes, node: bytes) -> bool:
    """OpenZeppelin's `MerkleProof.verify`."""
    for sibling in proof:
        node = keccak(min(node, sibling) + max(node, sibling))
    return node == root


def proofs(leaves: list[bytes]) -> list[list[bytes]]:
    """A proof for each leaf, from halves that are as large as a power of two allows."""
    if len(leaves) == 1:
        return [[]]
    left = 1 << ((len(leaves) - 1).bit_length() - 1)
    halves = leaves[:left], leaves[left:]
    return [[*proof, root(halves[1 - side])] for side in (0, 1) for proof in proofs(halves[side])]


def root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << ((len(leaves) - 1).bit_length() - 1)
    return keccak(b"".join(sorted([root(leaves[:left]), root(leaves[left:])])))


@given(st.integers(1, 40))
def test_each_receipt_can_be_shown_to_stand_under_the_root_and_no_other(count: int) -> None:
    receipts = [receipt(leg) for leg in range(1, count + 1)]
    (usage,) = book(*receipts).usage(0)
    for one, proof in zip(receipts, proofs([leaf(one) for one in receipts]), strict=True):
        assert verifies(proof, usage.receipts_root, leaf(one))
        assert not verifies(proof, usage.receipts_root, leaf(one._replace(output_tok=4)))


@pytest.mark.parametrize("field", Receipt._fields)
def test_the_root_changes_with_any_field_of_a_receipt(field: str) -> None:
    one = receipt(1)
    other = one._replace(**{field: getattr(one, field) + 1})
    roots: set[bytes] = set()
    for found in (one, other):
        usages: list[Usage] = book(found).usage(found.epoch)
        roots |= {usage.receipts_root for usage in usages}
    assert len(roots) == 2
