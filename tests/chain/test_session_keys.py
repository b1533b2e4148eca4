"""Session keys: a key spends for a user up to its cap, at one Nexus, at nodes of its kinds, until it expires."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Receipt, Reverted
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.escrow import SessionKey
from lattice_core.units import NANO
from tests.chain.networks import NEXUS, address, chunk, end, go_to, key, start

LLM, KNOWLEDGE = 0, 1
NETWORK, WHO = start(users=1, nodes=1)
NETWORK.users.fund(WHO.holder, [0], [100 * NANO]).raise_for_revert()
NETWORK.nodes.register(WHO.holder, [address("librarian")], [address("librarian")], [KNOWLEDGE], [0]).raise_for_revert()
FRESH = NETWORK.chain.snapshot()
EPOCHS = NETWORK.clock.epochs()
OWNER, SESSION = address("owner 0"), key("session")
FOREVER = 2**40 - 1


@pytest.fixture
def network() -> Network:
    """One user with 100 LAI, node 0 that serves models and node 1 that serves knowledge; it is epoch 0."""
    NETWORK.chain.revert(FRESH)
    return NETWORK


def allow(
    network: Network, cap_nlai: int = 10 * NANO, nexus: int = NEXUS, kinds: int = 1 << LLM, expiry_s: int = FOREVER
) -> Receipt:  # fmt: skip
    return network.users.set_session_key(OWNER, 0, SESSION.address, cap_nlai, nexus, kinds, expiry_s)


def spend(network: Network, value_nlai: int, node: int = 0, epoch: int = 0, signer: Key = SESSION) -> Receipt:
    """Present a voucher that the key has signed."""
    promise = Voucher(NEXUS, epoch, 0, node, value_nlai, 1, keccak(b"receipts"))
    signed = sign(promise, signer, domain(network.chain.chain_id, network.tokenomics.address))
    return network.tokenomics.present(WHO.stranger, signed)


def collect(network: Network, node: int = 0, epoch: int = 0) -> None:
    """Have what was presented in this epoch paid."""
    go_to(network, EPOCHS.lapse_s(network.clock.current()))
    network.tokenomics.collect(WHO.stranger, NEXUS, epoch, 0, node).raise_for_revert()


def collecting(network: Network, epoch: int = 0) -> None:
    go_to(network, EPOCHS.lapse_s(epoch))


def refused(receipt: Receipt, reason: str) -> None:
    with pytest.raises(Reverted) as refusal:
        receipt.raise_for_revert()
    assert str(refusal.value) == reason


SHOWN = f"0x{SESSION.address.hex()}"


def test_a_key_spends_its_cap_and_no_more(network: Network) -> None:
    allow(network).raise_for_revert()
    collecting(network)
    spend(network, 4 * NANO).raise_for_revert()
    refused(spend(network, 11 * NANO), f"SessionKeyExhausted(key={SHOWN}, cap={10 * NANO}, used={4 * NANO}, asked={7 * NANO})")
    spend(network, 10 * NANO).raise_for_revert()
    assert network.users.session_key(0, SESSION.address) == SessionKey(10 * NANO, 10 * NANO, NEXUS, 1 << LLM, FOREVER)
    refused(spend(network, 10 * NANO + 1), f"SessionKeyExhausted(key={SHOWN}, cap={10 * NANO}, used={10 * NANO}, asked=1)")
    collect(network)
    assert network.users.account(0).purchased_nlai == 90 * NANO


def test_the_cap_holds_over_nodes_and_epochs_and_does_not_bind_the_owner(network: Network) -> None:
    allow(network, kinds=0b11).raise_for_revert()
    collecting(network, 1)
    for node, epoch in ((0, 0), (1, 0), (0, 1)):
        spend(network, 3 * NANO, node, epoch).raise_for_revert()
    assert not spend(network, 2 * NANO, 1, 1).ok
    spend(network, 2 * NANO, 1, 1, signer=key("owner 0")).raise_for_revert()
    assert network.users.session_key(0, SESSION.address).used_nlai == 9 * NANO
    for node, epoch in ((0, 0), (1, 0), (0, 1), (1, 1)):
        collect(network, node, epoch)
    assert network.users.account(0).purchased_nlai == 89 * NANO


def test_a_key_uses_up_what_it_promises_even_if_its_payer_has_less(network: Network) -> None:
    allow(network, cap_nlai=200 * NANO).raise_for_revert()
    collecting(network)
    spend(network, 150 * NANO).raise_for_revert()
    assert network.users.session_key(0, SESSION.address).used_nlai == 150 * NANO
    collect(network)
    assert network.users.account(0).purchased_nlai == 0


SCOPES: list[tuple[Callable[[Network], Receipt], int, str]] = [
    (lambda n: allow(n), 1, f"SessionKeyOutOfScope(key={SHOWN}, nexus={NEXUS}, kind={KNOWLEDGE})"),
    (lambda n: allow(n, nexus=2), 0, f"SessionKeyOutOfScope(key={SHOWN}, nexus={NEXUS}, kind={LLM})"),
    (lambda n: allow(n, kinds=0), 0, f"SessionKeyOutOfScope(key={SHOWN}, nexus={NEXUS}, kind={LLM})"),
    (
        lambda n: allow(n, expiry_s=EPOCHS.end_s(0) - 1),
        0,
        f"SessionKeyExpired(key={SHOWN}, expiry={EPOCHS.end_s(0) - 1}, endOfEpoch={EPOCHS.end_s(0)})",
    ),
    (lambda n: allow(n, cap_nlai=0), 0, f"SessionKeyExhausted(key={SHOWN}, cap=0, used=0, asked={NANO})"),
    (lambda n: allow(n, expiry_s=0), 0, f"NotUsersKey(user=0, signer={SHOWN})"),
]


@pytest.mark.parametrize(("grant", "node", "reason"), SCOPES, ids=[reason.split("(")[0] for _, _, reason in SCOPES])
def test_outside_its_scope_a_key_spends_nothing(
    network: Network, grant: Callable[[Network], Receipt], node: int, reason: str
) -> None:
    grant(network).raise_for_revert()
    collecting(network)
    refused(spend(network, NANO, node), reason)
    assert network.users.account(0).purchased_nlai == 100 * NANO


def test_a_key_that_expires_when_an_epoch_ends_was_good_in_it(network: Network) -> None:
    allow(network, expiry_s=EPOCHS.end_s(0)).raise_for_revert()
    collecting(network, 1)
    assert spend(network, NANO).ok
    end_s = EPOCHS.end_s(1)
    refused(spend(network, NANO, epoch=1), f"SessionKeyExpired(key={SHOWN}, expiry={EPOCHS.end_s(0)}, endOfEpoch={end_s})")


def test_a_revoked_key_stays_good_for_the_epoch_it_is_revoked_in(network: Network) -> None:
    """What a node served on the strength of it is not taken back."""
    allow(network).raise_for_revert()
    end(network, 0)
    network.users.revoke_session_key(OWNER, 0, SESSION.address).raise_for_revert()
    assert network.users.session_key(0, SESSION.address).expiry_s == EPOCHS.end_s(1)
    collecting(network, 2)
    assert spend(network, NANO, epoch=0).ok
    assert spend(network, NANO, epoch=1).ok
    end_s = EPOCHS.end_s(2)
    refused(spend(network, NANO, epoch=2), f"SessionKeyExpired(key={SHOWN}, expiry={EPOCHS.end_s(1)}, endOfEpoch={end_s})")


def test_a_key_is_widened_but_never_narrowed(network: Network) -> None:
    allow(network, expiry_s=10**10).raise_for_revert()
    narrowed = f"SessionKeyNarrowed(user=0, key={SHOWN})"
    refused(allow(network, cap_nlai=10 * NANO - 1, expiry_s=10**10), narrowed)
    refused(allow(network, expiry_s=10**10 - 1), narrowed)
    refused(allow(network, kinds=1 << KNOWLEDGE, expiry_s=10**10), narrowed)
    refused(allow(network, nexus=2, expiry_s=10**10), narrowed)
    collecting(network)
    spend(network, 5 * NANO).raise_for_revert()
    allow(network, cap_nlai=11 * NANO, kinds=0b11).raise_for_revert()
    assert network.users.session_key(0, SESSION.address) == SessionKey(11 * NANO, 5 * NANO, NEXUS, 0b11, FOREVER)


def test_what_was_spent_is_not_forgotten_when_a_key_is_set_again(network: Network) -> None:
    allow(network).raise_for_revert()
    collecting(network)
    spend(network, 10 * NANO).raise_for_revert()
    network.users.revoke_session_key(OWNER, 0, SESSION.address).raise_for_revert()
    allow(network, cap_nlai=10 * NANO).raise_for_revert()
    refused(spend(network, 11 * NANO), f"SessionKeyExhausted(key={SHOWN}, cap={10 * NANO}, used={10 * NANO}, asked={NANO})")


def test_only_the_owner_sets_and_revokes_keys(network: Network) -> None:
    stranger = WHO.stranger
    refusal = f"NotUsersOwner(user=0, caller=0x{stranger.hex()})"
    refused(network.users.set_session_key(stranger, 0, stranger, 1, NEXUS, 1, FOREVER), refusal)
    refused(
        network.users.set_session_key(SESSION.address, 0, SESSION.address, 1, NEXUS, 1, FOREVER),
        f"NotUsersOwner(user=0, caller={SHOWN})",
    )
    refused(network.users.revoke_session_key(stranger, 0, SESSION.address), refusal)
    refused(network.users.set_session_key(OWNER, 0, bytes(20), 1, NEXUS, 1, FOREVER), "SessionKeyZero(user=0)")


def test_a_batch_takes_no_notice_of_keys_and_shuts_out_their_vouchers(network: Network) -> None:
    allow(network).raise_for_revert()
    end(network, 0)
    network.tokenomics.settle(WHO.oracle, chunk({0: (20 * NANO, 0)}, {0: (20 * NANO, 0)})).raise_for_revert()
    collecting(network)
    refused(spend(network, NANO), "SettledByBatch(user=0, epoch=0)")
    assert network.users.session_key(0, SESSION.address).used_nlai == 0


@given(st.integers(0, 12 * NANO), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8 * NANO)), max_size=8))
@settings(max_examples=15)
def test_inv_11_a_key_never_costs_its_user_more_than_its_cap(cap_nlai: int, promises: list[tuple[int, int]]) -> None:
    NETWORK.chain.revert(FRESH)
    allow(NETWORK, cap_nlai=cap_nlai).raise_for_revert()
    collecting(NETWORK, 2)
    for epoch, value in promises:
        spend(NETWORK, value, epoch=epoch)
    for epoch in range(3):
        if NETWORK.tokenomics.presented(NEXUS, epoch, 0, 0).value_nlai:
            collect(NETWORK, epoch=epoch)
    lost = 100 * NANO - NETWORK.users.account(0).purchased_nlai
    assert lost == NETWORK.users.session_key(0, SESSION.address).used_nlai <= cap_nlai
