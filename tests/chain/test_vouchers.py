"""Vouchers: a node collects what a payer signed where no batch paid for it, once (INV-10), and no more than that (INV-11)."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Collected, Network
from lattice_core.chain.contracts.users import Account
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Receipt, Reverted
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import TYPE, Signed, Voucher, sign
from lattice_core.split import Parts, split
from lattice_core.units import NANO
from tests.chain.networks import NEXUS, RATES, address, chunk, end, endow_and_grant, go_to, key, start

USERS, NODES = 3, 2
NETWORK, WHO = start(users=USERS, nodes=NODES, chain=PyEvm(history=False))
NETWORK.users.fund(WHO.holder, range(USERS), [100 * NANO] * USERS).raise_for_revert()
endow_and_grant(NETWORK, WHO.holder, [0], [10 * NANO])
FRESH = NETWORK.chain.snapshot()
EPOCHS = NETWORK.clock.epochs()
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1: s and ORDER − s sign alike."""


@pytest.fixture
def network() -> Network:
    """Three users with 100 LAI each, user 0 with 10 LAI of faucet credit, and two nodes; it is epoch 0."""
    NETWORK.chain.revert(FRESH)
    return NETWORK


@pytest.fixture
def lapsed(network: Network) -> Network:
    """The same after the grace of epoch 0, for which no batch came."""
    go_to(network, EPOCHS.lapse_s(0))
    return network


def voucher(value_nlai: int, payer: int = 0, node: int = 1, nexus: int = NEXUS, epoch: int = 0) -> Voucher:
    return Voucher(nexus, epoch, payer, node, value_nlai, 1_000, keccak(b"receipts"))


def own(payer: int) -> Key:
    return key(f"owner {payer}")


def signed(network: Network, promise: Voucher, signer: Key | None = None) -> Signed:
    """By the payer's owner, unless by another, for this chain and contract."""
    return sign(promise, signer or own(promise.payer), domain(network.chain.chain_id, network.tokenomics.address))


def present(network: Network, promise: Voucher, signer: Key | None = None) -> Receipt:
    return network.tokenomics.present(WHO.stranger, signed(network, promise, signer))


def wait(network: Network) -> None:
    """Until what was presented in this epoch may be collected."""
    go_to(network, EPOCHS.lapse_s(network.clock.current()))


def collect(network: Network, promise: Voucher) -> Receipt:
    return network.tokenomics.collect(WHO.stranger, *promise[:4])


def pay(network: Network, promise: Voucher) -> Collected:
    """Present, wait and collect."""
    present(network, promise).raise_for_revert()
    wait(network)
    return network.collected(collect(network, promise))


def refused(receipt: Receipt, reason: str) -> None:
    with pytest.raises(Reverted) as refusal:
        receipt.raise_for_revert()
    assert str(refusal.value) == reason


def money(network: Network) -> tuple[object, ...]:
    """Everything that a voucher can move."""
    return (
        [network.users.account(user) for user in range(USERS)],
        [network.tokenomics.earned(node) for node in range(NODES)],
        network.tokenomics.claims(),
        network.token.supply_wei(),
        network.users.total_claims_nlai() * NANO - network.token.balance_wei(network.users.address),
        network.tokenomics.total_claims_nlai() * NANO - network.token.balance_wei(network.tokenomics.address),
    )


def test_the_digest_of_a_voucher_is_eip_712s(network: Network) -> None:
    """Against eth-account, which nobody here wrote."""
    from eth_account import Account as Wallet

    fields = [
        dict(zip(("type", "name"), field.split(), strict=True)) for field in TYPE.partition("(")[2].rstrip(")").split(",")
    ]
    names = [field["name"] for field in fields]
    promise = voucher(5 * NANO)
    message = {
        "primaryType": "UsageVoucher",
        "domain": {
            "name": "Lattice",
            "version": "1",
            "chainId": network.chain.chain_id,
            "verifyingContract": f"0x{network.tokenomics.address.hex()}",
        },
        "types": {"UsageVoucher": fields},
        "message": dict(zip(names, promise, strict=True)),
    }
    theirs = Wallet.sign_typed_data(own(0).secret, full_message=_with_domain_type(message))
    assert bytes(theirs.signature) == signed(network, promise).signature


def _with_domain_type(message: dict[str, dict[str, object]]) -> dict[str, object]:
    kinds = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}
    message["types"]["EIP712Domain"] = [{"name": name, "type": kind} for name, kind in kinds.items()]
    return {**message}


def test_the_nodes_of_a_dead_nexus_are_paid_by_voucher(lapsed: Network) -> None:
    """Faucet credit goes first, the rest is purchased, and both are split as a batch would have split them."""
    paid = pay(lapsed, voucher(30 * NANO))
    assert paid[:4] == (0, 0, 1, Parts(purchased_nlai=20 * NANO, faucet_nlai=10 * NANO))
    assert paid.cuts == tuple(sum(parts) for parts in zip(split(20 * NANO, RATES), split(10 * NANO, RATES), strict=True))
    assert lapsed.users.account(0) == Account(80 * NANO, 0, NEXUS)
    lapsed.tokenomics.claim(WHO.stranger, 1).raise_for_revert()
    assert lapsed.token.balance_nlai(address("operator 1")) == paid.cuts.operators_nlai
    assert money(lapsed)[-2:] == (0, 0)


def test_a_dead_nexus_takes_several_epochs_with_it_and_each_is_collected(network: Network) -> None:
    go_to(network, EPOCHS.lapse_s(2))
    promises = [voucher(NANO, payer=1, node=node, epoch=epoch) for epoch in range(3) for node in range(NODES)]
    for promise in promises:
        present(network, promise).raise_for_revert()
    wait(network)
    for promise in promises:
        collect(network, promise).raise_for_revert()
    assert network.users.account(1).purchased_nlai == 94 * NANO


def test_what_is_presented_waits_for_the_grace_of_the_epoch_it_is_presented_in(lapsed: Network) -> None:
    promise = voucher(NANO, payer=1)
    present(lapsed, promise).raise_for_revert()
    assert lapsed.users.account(1).purchased_nlai == 100 * NANO
    go_to(lapsed, EPOCHS.lapse_s(3) - 1)
    refused(collect(lapsed, promise), "VoucherWaits(since=3)")
    go_to(lapsed, EPOCHS.lapse_s(3))
    collect(lapsed, promise).raise_for_revert()
    refused(collect(lapsed, promise), "NothingPresented(epoch=0, payer=1, node=1)")


@pytest.mark.parametrize("when", [EPOCHS.lapse_s(0), EPOCHS.end_s(3), EPOCHS.lapse_s(3) - 1])
def test_a_payer_cannot_empty_its_escrow_by_a_voucher_before_a_batch_that_charges_it(network: Network, when: int) -> None:
    """Payer 1 uses node 0, its own, in epoch 3, and has it present a voucher for epoch 0, in which it owed nothing.

    Were that paid at once, the batch would skip payer 1, and node 1, which honest payer 2 used, bear half of the loss.
    """
    network.users.fund(WHO.holder, [1], [20 * NANO]).raise_for_revert()
    go_to(network, when)
    promise = voucher(120 * NANO, payer=1, node=0)
    present(network, promise).raise_for_revert()
    go_to(network, EPOCHS.lapse_s(3) - 1)
    since = network.tokenomics.presented(*promise[:4]).since
    refused(collect(network, promise), f"VoucherWaits(since={since})")
    batch = chunk({1: (100 * NANO, 0), 2: (100 * NANO, 0)}, {0: (100 * NANO, 0), 1: (100 * NANO, 0)}, epoch=3)
    settled = network.settled(batch, network.tokenomics.settle(WHO.oracle, batch))
    assert (settled.debited, settled.skipped.tolist()) == (Parts(200 * NANO, 0), [])
    assert network.tokenomics.earned(1).operator_nlai == split(100 * NANO, RATES).operators_nlai
    wait(network)
    assert network.collected(collect(network, promise)).paid == Parts(20 * NANO, 0)


def test_a_later_voucher_with_more_pays_the_difference_and_waits_anew(lapsed: Network) -> None:
    for value, rest in ((4, 96), (10, 90), (11, 89)):
        promise = voucher(value * NANO, payer=1)
        present(lapsed, promise).raise_for_revert()
        assert not collect(lapsed, promise).ok
        wait(lapsed)
        collect(lapsed, promise).raise_for_revert()
        assert lapsed.users.account(1).purchased_nlai == rest * NANO
        assert lapsed.tokenomics.presented(*promise[:4])[:2] == (value * NANO, value * NANO)


def test_a_larger_voucher_does_not_hold_up_the_one_before_it(lapsed: Network) -> None:
    """A payer that has 1 nanoLAI more presented each epoch does not put off what it owes."""
    promise = voucher(NANO, payer=1)
    present(lapsed, promise).raise_for_revert()
    for more, epoch in enumerate((4, 5), 1):
        go_to(lapsed, EPOCHS.end_s(epoch - 1))
        present(lapsed, voucher(NANO + more, payer=1)).raise_for_revert()
        refused(collect(lapsed, promise), "VoucherWaits(since=3)")
    go_to(lapsed, EPOCHS.lapse_s(3))
    assert lapsed.collected(collect(lapsed, promise)).paid == Parts(NANO, 0)
    refused(collect(lapsed, promise), "VoucherWaits(since=5)")
    go_to(lapsed, EPOCHS.lapse_s(5))
    assert lapsed.collected(collect(lapsed, promise)).paid == Parts(2, 0)


def test_a_payer_who_has_less_pays_what_there_is_and_the_rest_when_it_is_funded(lapsed: Network) -> None:
    promise = voucher(130 * NANO, payer=1)
    assert pay(lapsed, promise).paid == Parts(100 * NANO, 0)
    refused(collect(lapsed, promise), "NothingToCollect(payer=1)")
    refused(present(lapsed, promise), f"AlreadyPresented(value={130 * NANO}, presented={130 * NANO})")
    lapsed.users.fund(WHO.holder, [1], [50 * NANO]).raise_for_revert()
    go_to(lapsed, EPOCHS.closed_s(0))
    assert lapsed.collected(collect(lapsed, promise)).paid == Parts(30 * NANO, 0)
    assert lapsed.users.account(1).purchased_nlai == 20 * NANO


PROMISES = st.tuples(st.integers(1, 2), st.integers(0, NODES - 1), st.integers(0, 60 * NANO), st.booleans())


@given(st.lists(PROMISES, max_size=8))
@settings(max_examples=15)
def test_inv_10_and_11_vouchers_pay_their_largest_value_once_whatever_the_order(
    promises: list[tuple[int, int, int, bool]],
) -> None:
    NETWORK.chain.revert(FRESH)
    go_to(NETWORK, EPOCHS.lapse_s(0))
    largest: dict[tuple[int, int], int] = {}

    def collect_all() -> None:
        wait(NETWORK)
        for payer, node in sorted(largest):
            collect(NETWORK, voucher(0, payer, node))
        for payer in (1, 2):
            paid = [NETWORK.tokenomics.presented(NEXUS, 0, payer, node).paid_nlai for node in range(NODES)]
            assert all(nlai <= largest.get((payer, node), 0) for node, nlai in enumerate(paid))
            assert NETWORK.users.account(payer).purchased_nlai == 100 * NANO - sum(paid)

    for payer, node, value, waits in promises:
        if present(NETWORK, voucher(value, payer, node)).ok:
            largest[payer, node] = max(value, largest.get((payer, node), 0))
        if waits:
            collect_all()
    collect_all()
    for payer in (1, 2):
        signed_for = sum(value for (who, _), value in largest.items() if who == payer)
        assert NETWORK.users.account(payer).purchased_nlai == max(0, 100 * NANO - signed_for)


def test_inv_10_who_was_debited_by_a_batch_owes_no_voucher_and_who_was_skipped_does(network: Network) -> None:
    """A chunk is lost, too: its payer stays collectable, those of the other chunk do not."""
    end(network, 0)
    arrived = chunk({0: (NANO, 0), 1: (200 * NANO, 0)}, {1: (201 * NANO, 0)}, number=0)
    assert network.settled(arrived, network.tokenomics.settle(WHO.oracle, arrived)).skipped.tolist() == [1]
    go_to(network, EPOCHS.lapse_s(0))
    lost = chunk({2: (3 * NANO, 0)}, {1: (3 * NANO, 0)}, number=1)
    assert not network.tokenomics.settle(WHO.oracle, lost).ok
    before = money(network)
    refused(present(network, voucher(NANO, payer=0)), "SettledByBatch(user=0, epoch=0)")
    refused(present(network, voucher(NANO, payer=0, node=0)), "SettledByBatch(user=0, epoch=0)")
    refused(collect(network, voucher(NANO, payer=0)), "NothingPresented(epoch=0, payer=0, node=1)")
    assert money(network) == before
    for payer in (1, 2):
        assert pay(network, voucher(3 * NANO, payer=payer)).paid == Parts(3 * NANO, 0)
    assert network.users.account(0).purchased_nlai == 99 * NANO


def test_a_batch_of_another_epoch_does_not_stand_in_for_a_voucher(network: Network) -> None:
    go_to(network, EPOCHS.lapse_s(0))
    batch = chunk({0: (NANO, 0)}, {0: (NANO, 0)}, epoch=1)
    assert network.settled(batch, network.tokenomics.settle(WHO.oracle, batch)).applied.tolist() == [0]
    assert present(network, voucher(NANO)).ok
    go_to(network, EPOCHS.lapse_s(1))
    refused(present(network, voucher(NANO, epoch=1)), "SettledByBatch(user=0, epoch=1)")


def test_what_a_batch_paid_is_remembered_for_as_long_as_its_epoch_could_be_collected() -> None:
    network, who = start(users=1, nodes=1, collection_epochs=61)
    network.users.fund(who.holder, [0], [NANO]).raise_for_revert()
    last = 2 + 61 - 1
    for epoch in (0, last):
        end(network, epoch)
        batch = chunk({0: (1, 0)}, {0: (1, 0)}, epoch=epoch)
        network.tokenomics.settle(who.oracle, batch).raise_for_revert()
    assert network.clock.collects(0)
    refused(present(network, voucher(NANO, node=0)), "SettledByBatch(user=0, epoch=0)")


LAST_S = EPOCHS.lapse_s(0) + EPOCHS.collection * EPOCHS.length_s


@pytest.mark.parametrize(
    ("when", "opens"),
    [(EPOCHS.end_s(0), False), (EPOCHS.lapse_s(0) - 1, False), (EPOCHS.lapse_s(0), True), (LAST_S - 1, True), (LAST_S, False)],
)
def test_a_voucher_is_presented_between_its_grace_and_the_end_of_collection(network: Network, when: int, opens: bool) -> None:
    go_to(network, when)
    assert network.clock.collects(0) == opens
    receipt = present(network, voucher(NANO))
    if opens:
        assert receipt.ok
    else:
        refused(receipt, f"NotCollecting(epoch=0, current={network.clock.current()})")


def test_the_last_voucher_of_an_epoch_can_be_collected_for_an_epoch_before_escrow_is_paid_back(network: Network) -> None:
    network.users.request_withdrawal(address("owner 1"), 1, 100 * NANO).raise_for_revert()
    go_to(network, LAST_S - 1)
    promise = voucher(NANO, payer=1)
    present(network, promise).raise_for_revert()
    wait(network)
    assert EPOCHS.closed_s(0) - network.chain.block().timestamp_s == EPOCHS.length_s
    go_to(network, EPOCHS.closed_s(0) - 1)
    refused(network.users.withdraw(address("owner 1"), 1), "EscrowLocked(user=1, epoch=0)")
    assert collect(network, promise).ok


def test_a_node_that_has_left_still_collects(lapsed: Network) -> None:
    lapsed.nodes.deregister(address("operator 1"), 1).raise_for_revert()
    paid = pay(lapsed, voucher(NANO, payer=1))
    lapsed.tokenomics.claim(WHO.stranger, 1).raise_for_revert()
    assert lapsed.token.balance_nlai(address("operator 1")) == paid.cuts.operators_nlai


def mirrored(promise: Signed) -> Signed:
    """The same signature's other form, which a signer never gave."""
    r, s, v = promise.signature[:32], int.from_bytes(promise.signature[32:64]), promise.signature[64]
    return Signed(promise.voucher, r + (ORDER - s).to_bytes(32) + bytes([55 - v]))


def _foreign(chain_id: int, contract: bytes) -> Signed:
    return sign(voucher(NANO), own(0), domain(chain_id, contract))


BAD: list[tuple[Callable[[Network], Signed], str]] = [
    (lambda n: signed(n, voucher(NANO), key("nobody")), f"NotUsersKey(user=0, signer=0x{key('nobody').address.hex()})"),
    (lambda n: signed(n, voucher(NANO), own(1)), f"NotUsersKey(user=0, signer=0x{own(1).address.hex()})"),
    (lambda n: _foreign(1, n.tokenomics.address), "NotUsersKey(user=0, signer=0x"),
    (lambda n: _foreign(n.chain.chain_id, n.users.address), "NotUsersKey(user=0, signer=0x"),
    (lambda n: signed(n, voucher(NANO))._replace(voucher=voucher(2 * NANO)), "NotUsersKey(user=0, signer=0x"),
    (lambda n: mirrored(signed(n, voucher(NANO))), "ECDSAInvalidSignatureS(s=0x"),
    (lambda n: signed(n, voucher(NANO))._replace(signature=bytes(64)), "ECDSAInvalidSignatureLength(length=64)"),
    (lambda n: signed(n, voucher(NANO))._replace(signature=b""), "ECDSAInvalidSignatureLength(length=0)"),
    (lambda n: signed(n, voucher(NANO))._replace(signature=bytes(65)), "ECDSAInvalidSignature()"),
    (lambda n: signed(n, voucher(0)), "AlreadyPresented(value=0, presented=0)"),
    (lambda n: signed(n, voucher(NANO, node=NODES)), f"UnknownPayee(node={NODES})"),
    (lambda n: signed(n, voucher(NANO, payer=USERS), own(0)), f"UnknownUser(user={USERS})"),
    (lambda n: signed(n, voucher(NANO, nexus=2)), "OtherNexus(user=0, nexus=2)"),
    (lambda n: signed(n, voucher(NANO, epoch=2**32 - 1)), "NotCollecting(epoch=4294967295, current=3)"),
]


@pytest.mark.parametrize(("forge", "reason"), BAD, ids=[f"{i}-{why.split('(')[0]}" for i, (_, why) in enumerate(BAD)])
def test_a_bad_voucher_is_refused_by_name_and_moves_nothing(
    lapsed: Network, forge: Callable[[Network], Signed], reason: str
) -> None:
    before = money(lapsed)
    with pytest.raises(Reverted) as refusal:
        lapsed.tokenomics.present(WHO.stranger, forge(lapsed)).raise_for_revert()
    assert str(refusal.value).startswith(reason)
    assert money(lapsed) == before
