"""`lattice contracts`: on a real node, as an operator uses it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice_cli.main import main
from lattice_core.chain.artifacts import artifact, names
from lattice_core.chain.contracts.book import AddressBook
from lattice_core.chain.genesis import role_key
from lattice_core.chain.keys import Key
from lattice_core.chain.rpc import Rpc
from tests.chain.anvil import anvil

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    with anvil() as url:
        yield url


@pytest.fixture(scope="module")
def book(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The address book of a network deployed with a secret."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "secret").write_text(SECRET.hex() + "\n")
    out = folder / "book.json"
    command = ["contracts", "deploy", "local.yaml", "--rpc", node, "--secret", str(folder / "secret"), "--out", str(out)]
    assert main(command) == 0
    return out


def test_a_deployment_verifies_and_is_never_overwritten(
    node: str, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["contracts", "verify", str(book), "--rpc", node]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["contracts", "deploy", "local.yaml", "--rpc", node, "--out", str(book)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_address_book_goes_to_the_terminal_if_nowhere_else(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "deploy", "local.yaml", "--rpc", node]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"AddressBook", *listed["contracts"]} == set(names())


def test_verify_names_what_differs(node: str, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(book.read_text())
    swapped = listed["contracts"] | {"UserRegistry": listed["contracts"]["NodeRegistry"]}
    for change, said in (
        ({"chain_id": 1}, "chain: must be 1, not 31337"),
        ({"contracts": swapped}, "UserRegistry: "),
        ({"contracts": {**listed["contracts"], "Tokenomics": "0x" + "11" * 20}}, "holds no code"),
        ({"roles": {**listed["roles"], "owner": listed["roles"]["faucet"]}}, "owner: is 0x"),
    ):
        other = tmp_path / "book.json"
        other.write_text(json.dumps(listed | change))
        assert main(["contracts", "verify", str(other), "--rpc", node]) == 1
        assert said in capsys.readouterr().err


def test_a_deployer_who_keeps_a_role_is_found_out(node: str, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, listed = Rpc(node), json.loads(book.read_text())
    owner, deployer = role_key("owner", SECRET), role_key("deployer", SECRET)
    chain.add_key(owner)
    at_book = AddressBook(chain, bytes.fromhex(listed["book"][2:]))
    before = chain.snapshot()
    at_book.transfer_ownership(owner.address, deployer.address).raise_for_revert()
    assert main(["contracts", "verify", str(book), "--rpc", node]) == 1
    assert "owner: is the deployer, who must keep no role" in capsys.readouterr().err
    chain.revert(before)


def test_keys_that_everyone_can_derive_deploy_on_development_chains_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with anvil(chain_id=10) as public:
        assert main(["contracts", "deploy", "local.yaml", "--rpc", public]) == 2
    refusal = capsys.readouterr().err
    assert "was derived without a secret" in refusal
    assert refusal.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("must be one of AddressBook", ["abi", "Token"]),
        ("must hold 32 to 64 bytes", ["deploy", "local.yaml", "--rpc", "http://127.0.0.1:9", "--secret", "short"]),
        ("must be a file that holds a secret", ["deploy", "local.yaml", "--rpc", "http://127.0.0.1:9", "--secret", "nowhere"]),
        ("must begin with http:// or https://", ["deploy", "local.yaml", "--rpc", "ftp://node"]),
        ("must be an address book", ["verify", "nowhere", "--rpc", "http://127.0.0.1:9"]),
        ("must be an address book", ["verify", "short", "--rpc", "http://127.0.0.1:9"]),
    ],
)
def test_bad_input_gets_one_line(
    said: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("1234")
    assert main(["contracts", *arguments]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_abi_prints_what_solc_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "abi"]) == 0
    assert tuple(capsys.readouterr().out.split()) == names()
    assert main(["contracts", "abi", "Tokenomics"]) == 0
    assert json.loads(capsys.readouterr().out) == artifact("Tokenomics").abi


def test_every_role_has_a_key_of_its_own_and_a_secret_changes_them_all() -> None:
    addresses = {role_key(role, secret).address for role in ("deployer", "owner", "faucet") for secret in (b"", SECRET)}
    assert len(addresses) == 6
    assert all(isinstance(role_key("owner", secret), Key) for secret in (b"", SECRET))
