"""Withdrawals: what was bought and not spent comes back, once nothing can be charged against it any more (INV-11)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.users import Account, Withdrawal
from lattice_core.chain.port import Receipt, Reverted
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.units import NANO
from tests.chain.networks import NEXUS, address, chunk, end, endow_and_grant, go_to, key, start

NETWORK, WHO = start(users=2, nodes=1)
NETWORK.users.fund(WHO.holder, [0, 1], [100 * NANO] * 2).raise_for_revert()
endow_and_grant(NETWORK, WHO.holder, [0], [10 * NANO])
FRESH = NETWORK.chain.snapshot()
EPOCHS = NETWORK.clock.epochs()
OWNER = address("owner 0")


@pytest.fixture
def network() -> Network:
    """Two users with 100 LAI each, user 0 with 10 LAI of faucet credit; it is epoch 0."""
    NETWORK.chain.revert(FRESH)
    return NETWORK


def ask(network: Network, amount_nlai: int, user: int = 0) -> None:
    network.users.request_withdrawal(address(f"owner {user}"), user, amount_nlai).raise_for_revert()


def refused(receipt: Receipt, reason: str) -> None:
    with pytest.raises(Reverted) as refusal:
        receipt.raise_for_revert()
    assert str(refusal.value) == reason


def backed(network: Network) -> bool:
    return network.users.total_claims_nlai() * NANO == network.token.balance_wei(network.users.address)


def test_purchased_credit_comes_back_when_the_epoch_of_the_request_is_closed(network: Network) -> None:
    ask(network, 60 * NANO)
    assert network.users.withdrawal(0) == Withdrawal(60 * NANO, 0)
    go_to(network, EPOCHS.closed_s(0) - 1)
    refused(network.users.withdraw(OWNER, 0), "EscrowLocked(user=0, epoch=0)")
    go_to(network, EPOCHS.closed_s(0))
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == 60 * NANO
    assert network.users.account(0) == Account(40 * NANO, 10 * NANO, NEXUS)
    assert network.users.withdrawal(0) == Withdrawal(0, 0)
    refused(network.users.withdraw(OWNER, 0), "NothingToWithdraw(user=0)")
    assert backed(network)


def test_while_a_batch_is_open_escrow_stays_and_pays_it_first(network: Network) -> None:
    """Asked for in epoch 0, spent in epoch 0: the batch that comes later finds the money still there."""
    ask(network, 100 * NANO)
    end(network, 0)
    refused(network.users.withdraw(OWNER, 0), "EscrowLocked(user=0, epoch=0)")
    batch = chunk({0: (70 * NANO, 0)}, {0: (70 * NANO, 0)})
    assert network.settled(batch, network.tokenomics.settle(WHO.oracle, batch)).applied.tolist() == [0]
    go_to(network, EPOCHS.closed_s(0))
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == 30 * NANO
    assert network.users.account(0) == Account(0, 10 * NANO, NEXUS)
    assert backed(network)


def test_while_vouchers_are_open_escrow_stays_and_pays_them_first(network: Network) -> None:
    ask(network, 100 * NANO)
    go_to(network, EPOCHS.lapse_s(0))
    promise = Voucher(NEXUS, 0, 0, 0, 75 * NANO, 1, keccak(b"receipts"))
    separator = domain(network.chain.chain_id, network.tokenomics.address)
    network.tokenomics.present(WHO.stranger, sign(promise, key("owner 0"), separator)).raise_for_revert()
    go_to(network, EPOCHS.closed_s(0) - 1)
    refused(network.users.withdraw(OWNER, 0), "EscrowLocked(user=0, epoch=0)")
    network.tokenomics.collect(WHO.stranger, *promise[:4]).raise_for_revert()
    go_to(network, EPOCHS.closed_s(0))
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == 35 * NANO  # 10 LAI of the voucher were paid with faucet credit
    assert backed(network)


def test_a_new_request_replaces_the_old_one_and_waits_anew(network: Network) -> None:
    ask(network, 50 * NANO)
    end(network, 0)
    ask(network, 80 * NANO)
    go_to(network, EPOCHS.closed_s(0))
    refused(network.users.withdraw(OWNER, 0), "EscrowLocked(user=0, epoch=1)")
    go_to(network, EPOCHS.closed_s(1))
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == 80 * NANO


def test_a_request_can_be_taken_back(network: Network) -> None:
    ask(network, 50 * NANO)
    ask(network, 0)
    go_to(network, EPOCHS.closed_s(0))
    refused(network.users.withdraw(OWNER, 0), "NothingToWithdraw(user=0)")
    assert network.users.account(0).purchased_nlai == 100 * NANO


def test_only_the_owner_asks_and_withdraws(network: Network) -> None:
    stranger = WHO.stranger
    refused(network.users.request_withdrawal(stranger, 0, 1), f"NotUsersOwner(user=0, caller=0x{stranger.hex()})")
    refused(network.users.request_withdrawal(stranger, 9, 1), f"NotUsersOwner(user=9, caller=0x{stranger.hex()})")
    refused(network.users.withdraw(OWNER, 0), "NothingToWithdraw(user=0)")
    ask(network, NANO)
    go_to(network, EPOCHS.closed_s(0))
    refused(network.users.withdraw(stranger, 0), f"NotUsersOwner(user=0, caller=0x{stranger.hex()})")
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == NANO


def test_faucet_credit_never_comes_back(network: Network) -> None:
    asked = network.users.request_withdrawal(OWNER, 0, 100 * NANO + 1)
    refused(asked, f"CreditTooSmall(user=0, purchased={100 * NANO}, asked={100 * NANO + 1})")
    ask(network, 100 * NANO)
    go_to(network, EPOCHS.closed_s(0))
    network.users.withdraw(OWNER, 0).raise_for_revert()
    assert network.token.balance_nlai(OWNER) == 100 * NANO
    assert network.users.account(0) == Account(0, 10 * NANO, NEXUS)
    assert backed(network)


def test_money_that_would_be_lost_in_a_contract_of_the_network_stays_with_its_user(network: Network) -> None:
    network.users.register(WHO.holder, NEXUS, [keccak(b"lost")], [network.nodes.address]).raise_for_revert()
    network.users.fund(WHO.holder, [2], [NANO]).raise_for_revert()
    network.users.request_withdrawal(network.nodes.address, 2, NANO).raise_for_revert()
    go_to(network, EPOCHS.closed_s(0))
    refused(network.users.withdraw(network.nodes.address, 2), f"PaysContract(payee=0x{network.nodes.address.hex()})")
    assert network.users.account(2).purchased_nlai == NANO


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 120 * NANO), st.integers(0, 8)), max_size=8))
@settings(max_examples=15)
def test_inv_11_a_user_never_loses_more_than_was_batched_and_gets_no_more_than_was_asked(
    steps: list[tuple[int, int, int]],
) -> None:
    NETWORK.chain.revert(FRESH)
    batched = asked = 0
    for number, (what, amount, epochs) in enumerate(steps):
        if what == 0:
            asked += amount if NETWORK.users.request_withdrawal(OWNER, 0, amount).ok else 0
        elif what == 1:
            NETWORK.users.withdraw(OWNER, 0)
        elif (epoch := NETWORK.clock.current() - 1) >= 0:
            batch = chunk({0: (amount, 0)}, {0: (amount, 0)}, epoch=epoch, number=number)
            NETWORK.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
            batched += amount
        go_to(NETWORK, NETWORK.chain.block().timestamp_s + epochs * EPOCHS.length_s)
        kept, returned = NETWORK.users.account(0).purchased_nlai, NETWORK.token.balance_nlai(OWNER)
        assert 100 * NANO - batched <= kept + returned <= 100 * NANO
        assert returned <= asked
        assert backed(NETWORK)
