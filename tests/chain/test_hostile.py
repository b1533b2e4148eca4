"""Contracts of strangers: an operator that is one is paid and never called, and nothing that is called calls back."""

import pytest

from lattice_core.chain.abi import abi, keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.port import Reverted, Transaction
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Signed, Voucher, sign
from lattice_core.units import NANO
from tests.chain.machine.wire import PUPPET, creation
from tests.chain.networks import NEXUS, chunk, end, endow_and_grant, go_to, key, start

NETWORK, WHO = start(users=1, nodes=1)
NETWORK.users.fund(WHO.holder, [0], [100 * NANO]).raise_for_revert()
FRESH = NETWORK.chain.snapshot()
EPOCHS = NETWORK.clock.epochs()


@pytest.fixture
def network() -> Network:
    """A user with 100 LAI and a node."""
    NETWORK.chain.revert(FRESH)
    return NETWORK


def deployed(network: Network, code: bytes) -> bytes:
    contract = network.chain.deploy(WHO.stranger, creation(code)).raise_for_revert().contract
    assert contract is not None
    return contract


def calling(target: bytes, data: bytes) -> bytes:
    """Code that calls `target` with `data` whoever calls it and for what, and reverts if that does."""
    size = 51
    copied = f"61{len(data):04x}60{size:02x}5f39"  # memory[0:] = what lies behind this code
    called = f"5f5f61{len(data):04x}5f5f73{target.hex()}5af1"
    answered = f"3d5f5f3e60{size - 4:02x}573d5ffd5b3d5ff3"
    code = bytes.fromhex(copied + called + answered)
    assert len(code) == size
    return code + data


def balance_adds_up(network: Network) -> bool:
    held = [network.token.balance_wei(it.address) for it in (network.users, network.tokenomics)]
    return held == [network.users.total_claims_nlai() * NANO, network.tokenomics.total_claims_nlai() * NANO]


@pytest.mark.parametrize("code", [b"\xfe", b"\x5f\x5f\xfd"], ids=["that fails", "that reverts"])
def test_an_operator_that_is_a_contract_is_paid_without_being_called(network: Network, code: bytes) -> None:
    """LAI has no hooks: code that fails whenever it runs takes its money all the same."""
    contract = deployed(network, code)
    network.nodes.register(WHO.holder, [contract], [contract], [0], [0]).raise_for_revert()
    end(network, 0)
    network.tokenomics.settle(WHO.oracle, chunk({0: (NANO, 0)}, {1: (NANO, 0)})).raise_for_revert()
    owed = network.tokenomics.earned(1).operator_nlai
    receipt = network.tokenomics.claim(WHO.stranger, 1).raise_for_revert()
    assert [log.address for log in receipt.logs] == [network.tokenomics.address, network.token.address]
    assert network.token.balance_nlai(contract) == owed > 0
    assert balance_adds_up(network)


def test_a_user_that_is_a_contract_has_its_withdrawal_without_being_called(network: Network) -> None:
    puppet = deployed(network, PUPPET)

    def told(function: str, *args: object) -> bytes:
        return network.users.address + abi("UserRegistry").encode_call(function, *args)

    for data in (told("join", NEXUS), told("requestWithdrawal", 1, NANO)):
        if network.users.count() == 2:
            network.users.fund(WHO.holder, [1], [NANO]).raise_for_revert()
        network.chain.transact(Transaction(WHO.stranger, puppet, data)).raise_for_revert()
    go_to(network, EPOCHS.closed_s(0))
    receipt = network.chain.transact(Transaction(WHO.stranger, puppet, told("withdraw", 1))).raise_for_revert()
    assert [log.address for log in receipt.logs] == [network.users.address, network.token.address]
    assert network.token.balance_nlai(puppet) == NANO
    with pytest.raises(Reverted, match=r"NothingToWithdraw\(user=1\)"):
        network.chain.transact(Transaction(WHO.stranger, puppet, told("withdraw", 1))).raise_for_revert()
    assert balance_adds_up(network)


def replace_registry(network: Network, data: bytes) -> None:
    """Let the owner, in error or in malice, name a registry that calls Tokenomics back with `data`."""
    hostile = (
        network.chain.deploy(WHO.stranger, creation(calling(network.tokenomics.address, data))).raise_for_revert().contract
    )
    assert hostile is not None
    network.book.set(WHO.owner, "UserRegistry", hostile).raise_for_revert()
    network.book.set_oracle(WHO.owner, NEXUS, hostile).raise_for_revert()
    network.book.set_role(WHO.owner, "Faucet", hostile).raise_for_revert()


def promise(network: Network, value_nlai: int) -> Signed:
    voucher = Voucher(NEXUS, 0, 0, 0, value_nlai, 1, keccak(b"receipts"))
    return sign(voucher, key("owner 0"), domain(network.chain.chain_id, network.tokenomics.address))


@pytest.mark.parametrize("outer", ["present", "collect"])
@pytest.mark.parametrize("inner", ["settle", "present", "collect", "grantFaucet"])
def test_nothing_that_moves_credit_happens_within_another(network: Network, outer: str, inner: str) -> None:
    """The owner, in error or in malice, has named a registry that calls Tokenomics back, and has given it every role."""
    tokenomics = network.tokenomics
    endow_and_grant(network, WHO.holder, [0], [NANO])
    go_to(network, EPOCHS.lapse_s(0))
    tokenomics.present(WHO.stranger, promise(network, NANO)).raise_for_revert()
    go_to(network, EPOCHS.lapse_s(network.clock.current()))
    more = promise(network, 2 * NANO)
    calls = {
        "settle": tokenomics.encode_settle(chunk({}, {}, epoch=network.clock.current() - 1)),
        "present": tokenomics.abi.encode_call("present", tuple(more.voucher), more.signature),
        "collect": tokenomics.abi.encode_call("collect", *more.voucher[:4]),
        "grantFaucet": tokenomics.abi.encode_call("grantFaucet", [0], [1]),
    }
    hostile = deployed(network, calling(tokenomics.address, calls[inner]))
    network.book.set(WHO.owner, "UserRegistry", hostile).raise_for_revert()
    network.book.set_oracle(WHO.owner, NEXUS, hostile).raise_for_revert()
    network.book.set_role(WHO.owner, "Faucet", hostile).raise_for_revert()
    before = tokenomics.claims(), network.token.supply_wei(), network.token.balance_wei(network.users.address)
    with pytest.raises(Reverted) as refusal:
        network.chain.transact(Transaction(WHO.stranger, tokenomics.address, calls[outer])).raise_for_revert()
    assert str(refusal.value) == "ReentrancyGuardReentrantCall()"
    assert before == (tokenomics.claims(), network.token.supply_wei(), network.token.balance_wei(network.users.address))
