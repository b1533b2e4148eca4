"""`lattice contracts`: put the contracts on a chain, check those that stand there, and show their interfaces."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli.network import add_config, read_config
from lattice_core.config import ConfigError

if TYPE_CHECKING:
    from lattice_core.chain.port import Chain


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("contracts", help="deploy, verify or show the contracts")
    what = parser.add_subparsers(metavar="WHAT", required=True)
    deploy = what.add_parser("deploy", help="deploy and wire the contracts of a network on a node; print the address book")
    add_config(deploy)
    _add_rpc(deploy)
    deploy.add_argument(
        "--secret", metavar="FILE", help="the secret, in hex, from which all keys derive; without one, development chains only"
    )
    deploy.add_argument("--out", metavar="FILE", help="write the address book here, not to the terminal")
    deploy.set_defaults(command=_deploy)
    verify = what.add_parser("verify", help="check code, wiring and roles of deployed contracts; silent if nothing differs")
    verify.add_argument("book", metavar="BOOK", help="the address book that deploy has written")
    _add_rpc(verify)
    verify.set_defaults(command=_verify)
    abi = what.add_parser("abi", help="print a contract's ABI as JSON, or the contracts' names")
    abi.add_argument("name", metavar="NAME", nargs="?", help="a contract")
    abi.set_defaults(command=_abi)


def _add_rpc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rpc", metavar="URL", required=True, help="where the node listens")


def _deploy(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    secret = _read_secret(arguments.secret) if arguments.secret else b""
    out = Path(arguments.out) if arguments.out else None
    if out is not None and out.exists():
        raise ConfigError(f"{out}: exists already; choose another file")

    from lattice_core.chain.deployment import Listing, deploy, faults
    from lattice_core.chain.genesis import genesis_of, role_key
    from lattice_core.chain.port import Reverted

    chain, genesis = _open(arguments.rpc), genesis_of(config, secret=secret)
    try:
        chain.add_key(role_key("deployer", secret))
        listing = Listing.of(deploy(chain, genesis), genesis.roles)
    except (Reverted, ValueError) as error:
        raise ConfigError(f"{arguments.rpc}: must take the deployment: {error}") from error
    for fault in faults(chain, listing):
        print(f"{arguments.rpc}: {fault}", file=sys.stderr)
        return 1
    if out is None:
        print(listing.text(), end="")
    else:
        out.write_text(listing.text(), encoding="utf-8")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    try:
        text = Path(arguments.book).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{arguments.book}: must be an address book: {error}") from error

    from lattice_core.chain.deployment import Listing, faults

    try:
        listing = Listing.read(text, arguments.book)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    found = list(faults(_open(arguments.rpc), listing))
    for fault in found:
        print(f"{arguments.book}: {fault}", file=sys.stderr)
    return 1 if found else 0


def _abi(arguments: argparse.Namespace) -> int:
    from lattice_core.chain.artifacts import artifact, names

    if arguments.name is None:
        print("\n".join(names()))
        return 0
    if arguments.name not in names():
        raise ConfigError(f"contracts abi: NAME: must be one of {', '.join(names())}, not {arguments.name}")
    print(json.dumps(artifact(arguments.name).abi, indent=2))
    return 0


def _open(url: str) -> "Chain":
    from lattice_core.chain.backends import open_chain

    try:
        return open_chain("rpc", url)
    except (ValueError, ConnectionError) as error:
        raise ConfigError(f"--rpc {url}: {error}") from error


def _read_secret(path: str) -> bytes:
    try:
        secret = bytes.fromhex(Path(path).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be a file that holds a secret in hex: {error}") from error
    if not 32 <= len(secret) <= 64:
        raise ConfigError(f"{path}: must hold 32 to 64 bytes in hex, not {len(secret)}")
    return secret
