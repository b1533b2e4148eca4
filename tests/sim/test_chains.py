"""INV-5: what a run leaves does not depend on the chain that it settles on."""

from pathlib import Path

import pytest

from lattice_core.chain.backends import BACKENDS
from lattice_core.config import revise
from lattice_sim import networks
from lattice_sim.simulate import run
from tests.chain.anvil import anvil

NETWORK = revise(networks.read("local.yaml"), {"sim.epochs": 3, "users.0.budget.withdraw_above": 0.5})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run directory of one network on each chain."""
    folder = tmp_path_factory.mktemp("chains")
    with anvil() as url:
        for backend in BACKENDS:
            run(NETWORK, {"chain.backend": backend, "chain.url": url}, out=folder / backend, journal=True)
    return {backend: folder / backend for backend in BACKENDS}


def test_inv_5_a_run_is_the_same_on_every_chain_but_for_measured_gas(folders: dict[str, Path]) -> None:
    held = {
        backend: {path.name: path.read_bytes() for path in folder.glob("*.parquet") if path.name != "gas_measured.parquet"}
        for backend, folder in folders.items()
    }
    assert len(held["py-evm"]) >= 5
    assert held["revm"] == held["py-evm"]
    assert held["rpc"] == held["py-evm"]


def test_a_node_that_asks_for_ether_which_nobody_has_fails_the_run_with_its_words() -> None:
    with anvil(base_fee_wei=10**9) as url:
        failed = run(NETWORK, {"chain.backend": "rpc", "chain.url": url})
    assert failed.status == "failed"
    assert failed.manifest["reason"].startswith("the node does not take a transaction of 0x")


def test_measured_gas_is_the_same_where_it_is_exact_and_unknown_where_not(folders: dict[str, Path]) -> None:
    from lattice_sim import load_run

    measured = {backend: load_run(folder).gas_measured for backend, folder in folders.items()}
    assert measured["revm"].empty
    assert measured["rpc"].equals(measured["py-evm"])
    assert not measured["py-evm"].empty
