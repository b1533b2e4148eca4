"""`lattice node start|list|drain|leave|collect`: a node of one's own in somebody's network."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli.client import Client, add_api_key, add_nexus, lai
from lattice_core.config import ConfigError
from lattice_core.state import KINDS
from lattice_core.units import MAX_PRICE_NLAI, MAX_SUPPLY_NLAI, to_nlai

if TYPE_CHECKING:
    from lattice_core.chain.keys import Key
    from lattice_core.chain.operator import Operator
    from lattice_live.application import Errand
    from lattice_live.launcher import NodeProcess
    from lattice_live.upstream import Realm

DRAIN_S = 60.0
"""How long a node that stops may take to finish what it has."""


def add(commands: Any) -> None:
    """The commands, among those of `lattice node`."""
    start = commands.add_parser("start", help="serve models in a network: register, bond, check, join, until Ctrl-C")
    add_nexus(start)
    start.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME[=DIR]",
        help="a model of the network, and its folder if it is not to be pulled; may be repeated",
    )
    _add_key(start, "the node's key, made if missing; its certificate and its vouchers lie beside it")
    start.add_argument(
        "--price-in", type=_price, metavar="LAI", help="per million prompt tokens; else what the network expects"
    )
    start.add_argument("--price-out", type=_price, metavar="LAI", help="per million tokens of answers; likewise")
    start.add_argument("--bond", type=_lai, metavar="LAI", help="the node's bond; else the least with which requests come")
    start.add_argument("--cluster", metavar="NAME", help="join this private cluster, with an admin's --api-key")
    add_api_key(start)
    start.add_argument("--slots", type=_slots, default=8, metavar="N", help="requests served at once, by model (8)")
    start.add_argument("--queue", type=_slots, default=8, metavar="N", help="requests that may wait, by model (8)")
    start.add_argument("--threads", type=_slots, default=os.cpu_count() or 1, metavar="N", help="CPU threads (all cores)")
    start.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where models run (cpu)")
    start.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    start.add_argument("--port", type=int, default=0, metavar="N", help="port to listen on (a free one)")
    start.add_argument("--url", metavar="URL", help="where the Nexus reaches this node, if not at host and port")
    start.add_argument("--nexus-cert", type=Path, metavar="FILE", help="the Nexus's certificate; needed off its own machine")
    _add_rpc(start)
    start.set_defaults(command=_start)

    listing = commands.add_parser("list", help="print a network's nodes")
    add_nexus(listing)
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    listing.set_defaults(command=_list)

    for name, errand, text in (
        ("drain", _drain, "send a node no more requests; `lattice node start` brings it back"),
        ("leave", _leave, "drain a node and take it out for good; its bond begins to thaw"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("node", type=int, nargs="?", metavar="NODE", help="its number; else the one of --key")
        add_nexus(parser)
        _add_key(parser, "the node's key")
        add_api_key(parser)
        if name == "leave":
            _add_rpc(parser)
        parser.set_defaults(command=errand)

    collect = commands.add_parser("collect", help="take vouchers to the chain that no batch has paid; run it again later")
    _add_key(collect, "the node's key, beside which the vouchers lie")
    _add_rpc(collect, required=True)
    collect.set_defaults(command=_collect)


def print_nodes(nodes: list[dict[str, Any]]) -> None:
    """A line for each node."""
    columns = f"{'in flight':>9} {'answers':>8} {'failures':>8} {'tokens':>10} {'earned, LAI':>14} {'bond, LAI':>10}"
    print(f"{'node':>6} {'state':<9} {columns}  models")
    for row in nodes:
        figures = f"{row['in_flight']:>9} {row['answers']:>8} {row['failures']:>8} {row['output_tok']:>10}"
        money = f"{lai(row['earned_nlai']):>14} {lai(row['bond_nlai']):>10}"
        print(f"{row['node']:>6} {row['state']:<9} {figures} {money}  {', '.join(row['models'])}")


def _add_key(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--key", type=Path, default=Path("node.key"), metavar="FILE", help=f"{text} (node.key)")


def _add_rpc(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument("--rpc", metavar="URL", required=required, help="a node of the chain; else the one that the Nexus uses")


def _price(text: str) -> int:
    return _money(text, MAX_PRICE_NLAI)


def _lai(text: str) -> int:
    return _money(text, MAX_SUPPLY_NLAI)


def _money(text: str, most_nlai: int) -> int:
    try:
        nlai = to_nlai(text)
    except (ArithmeticError, ValueError):
        nlai = -1
    if not 0 <= nlai <= most_nlai:
        raise argparse.ArgumentTypeError(f"must be LAI from 0 to {lai(most_nlai)}, not {text!r}")
    return nlai


def _slots(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_024:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1024, not {text!r}")
    return int(text)


# start


def _start(arguments: argparse.Namespace) -> int:
    from lattice_live.launcher import NodeError
    from lattice_live.models import ModelError
    from lattice_live.node.identity import IdentityError

    client = Client(arguments.nexus, arguments.api_key if arguments.cluster else None)
    network = client.ask("GET", "/v1/network")
    if arguments.cluster not in (None, *network["clusters"]):
        raise ConfigError(f"--cluster: must be among {', '.join(network['clusters']) or 'none'}, not {arguments.cluster!r}")
    if network["tls"] and arguments.nexus_cert is None and arguments.host != "127.0.0.1":
        raise ConfigError("--nexus-cert: must be the Nexus's certificate, as this node is not on its machine")
    try:
        return asyncio.run(_run(arguments, client, network))
    except (IdentityError, ModelError) as error:
        raise ConfigError(str(error)) from error
    except NodeError as error:
        print(error, file=sys.stderr)
        return 1


async def _run(arguments: argparse.Namespace, client: Client, network: Mapping[str, Any]) -> int:
    from lattice_live.launcher import start_node
    from lattice_live.node.identity import open_key

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # explicit: a background job inherits SIGINT ignored
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folders = dict(_folder(network, argument) for argument in arguments.model)
    key = open_key(arguments.key)
    process = await start_node(
        folders,
        slots=arguments.slots,
        queue=arguments.queue + 1,  # the probe's place
        context=max(network["models"][name]["context"] for name in folders),
        threads=arguments.threads,
        provider=arguments.provider,
        host=arguments.host,
        port=arguments.port,
        url=arguments.url,
        key=arguments.key,
        nexus_cert=arguments.nexus_cert,
    )
    try:
        print(f"0x{key.address.hex()} serves {', '.join(folders)} at {process.url}: checked", flush=True)
        node = await asyncio.to_thread(_join, arguments, client, network, key, process)
        print(f"node {node} of {network['name']} takes requests", flush=True)
        try:
            await _watch(client, node, process, stop)
        finally:
            await asyncio.to_thread(_say_goodbye, client, network, key, node)
    finally:
        await process.stop()
    return 0


def _folder(network: Mapping[str, Any], argument: str) -> tuple[str, Path]:
    """The folder of a model of the network's, pulled if need be. Raises ConfigError, ModelError."""
    from lattice_cli.model import progress_bar
    from lattice_live.models import store
    from lattice_live.models.folder import ModelFolder

    name, _, path = argument.partition("=")
    known = network["models"]
    if name not in known:
        raise ConfigError(f"--model: must be among {', '.join(known) or 'none'}, which the network serves, not {name!r}")
    weights = known[name]["weights"]
    if path:
        folder = ModelFolder.open(path)
    elif weights is None:
        raise ConfigError(f"--model: {name}: must be given as {name}=DIR, as the network does not say where to pull it")
    elif weights["seed"] is not None:
        folder = store.resolve_random(weights["seed"])
    else:
        folder = store.resolve(weights["pull"], weights["variant"], progress_bar(name))
    if folder.manifest.model_hash != known[name]["model_hash"]:
        wanted = f"{known[name]['variant']} with hash {known[name]['model_hash'][:16]}…"
        raise ConfigError(f"--model: {name}: must be {wanted}, and {folder.path} holds another")
    return name, folder.path


def _join(arguments: argparse.Namespace, client: Client, network: Mapping[str, Any], key: "Key", process: "NodeProcess") -> int:
    """Register where the chain is a real one, and apply; the node's number."""
    from lattice_core.chain.operator import Offer
    from lattice_live.application import Application, Asked, now_ms

    known, bond_nlai = network["models"], arguments.bond
    if bond_nlai is None:
        bond_nlai = network["bond"]["minimum_nlai"]
    offers = {}
    for name in process.models:
        asked = (arguments.price_in, arguments.price_out)
        usual = (known[name]["price_in_nlai"], known[name]["price_out_nlai"])
        offers[name] = Offer(*(given if given is not None else default for given, default in zip(asked, usual, strict=True)))
        if offers[name].price_out_nlai == 0:
            raise ConfigError("--price-out: must be more than 0")
    node = None
    if network["chain"]["backend"] == "rpc":
        operator = _operator(arguments, network, key)
        kind = KINDS.index(known[next(iter(offers))]["kind"])
        cluster = 0 if arguments.cluster is None else 1 + network["clusters"].index(arguments.cluster)
        node = _registered(arguments.key, operator, network, kind, bond_nlai, cluster)
        operator.post_offers(node, offers)
    else:
        print("this network's chain is its own: its Nexus registers and bonds the node", flush=True)
    application = Application(
        url=process.url,
        models={name: Asked(model_hash=process.models[name], **offer._asdict()) for name, offer in offers.items()},
        slots=arguments.slots,
        queue=arguments.queue,
        bond_nlai=bond_nlai,
        node=node,
        cluster=arguments.cluster,
        t_ms=now_ms(),
    )
    signed = application.sign(key, _realm(network))
    return int(client.ask("POST", "/v1/nodes", signed.model_dump())["node"])


def _registered(
    file: Path, operator: "Operator", network: Mapping[str, Any], kind: int, bond_nlai: int, cluster: int
) -> int:  # fmt: skip
    """The node's number on the chain; it registers and bonds now if it has not yet, which its own file tells."""
    from lattice_core.chain.port import Reverted

    kept, registry = file.with_suffix(".registered"), network["chain"]["registry"]
    try:
        found = json.loads(kept.read_text()) if kept.exists() else {}
        number = found.get(registry)
        if number is not None:
            node = operator.network.nodes.node(number)
            operator.bond(number, max(0, bond_nlai - node.bond_nlai))
            return int(number)
        if missing_nlai := operator.missing_nlai(bond_nlai):
            raise ConfigError(f"0x{operator.address.hex()}: must hold {lai(missing_nlai)} LAI more, to register and bond")
        number = operator.register(kind, bond_nlai, cluster)
        kept.write_text(json.dumps({**found, registry: number}) + "\n")
    except Reverted as failure:
        raise ConfigError(f"the chain refuses: {failure}") from failure
    except (AttributeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{kept}: must be JSON, node numbers by registry") from error
    print(f"registered as node {number}, with a bond of {lai(bond_nlai)} LAI", flush=True)
    return number


async def _watch(client: Client, node: int, process: "NodeProcess", stop: asyncio.Event) -> None:
    """Until the end is asked for, or the node process ends; the first answer is announced."""
    from lattice_live.launcher import NodeError

    ended = asyncio.create_task(process.process.wait())
    stopping = asyncio.create_task(stop.wait())
    served = False
    while not stop.is_set():
        await asyncio.wait([ended, stopping], timeout=None if served else 0.5, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise NodeError(f"the node ended with status {ended.result()}; its log says why")
        if not served and (row := await asyncio.to_thread(_row, client, node)) and row["answers"]:
            served = True
            print("served its first answer", flush=True)
    ended.cancel()


def _row(client: Client, node: int) -> dict[str, Any] | None:
    """What the Nexus says of the node; None if it does not answer now."""
    try:
        return next((row for row in client.ask("GET", "/v1/nodes")["data"] if row["node"] == node), None)
    except ConfigError:
        return None


def _say_goodbye(client: Client, network: Mapping[str, Any], key: "Key", node: int) -> None:
    """Take no more, and wait for what is under way."""
    import time

    from lattice_live.application import errand_header

    try:
        client.ask("POST", f"/v1/nodes/{node}/drain", authorization=errand_header(key, _realm(network), node, "drain"))
    except ConfigError as error:
        print(f"lattice: {error}", file=sys.stderr)
        return
    end_s = time.monotonic() + DRAIN_S
    while (row := _row(client, node)) is not None and row["in_flight"] and time.monotonic() < end_s:
        time.sleep(0.1)
    if row is not None:
        print(f"drained after {row['answers']} answers, which earned {lai(row['earned_nlai'])} LAI", flush=True)


def _realm(network: Mapping[str, Any]) -> "Realm":
    from lattice_live.upstream import Realm

    chain = network["chain"]
    return Realm(network["nexus"], chain["id"], bytes.fromhex(chain["registry"]))


def _operator(arguments: argparse.Namespace, network: Mapping[str, Any], key: "Key") -> "Operator":
    from lattice_core.chain.operator import Operator
    from lattice_core.chain.rpc import Rpc

    url = arguments.rpc or network["chain"]["url"]
    try:
        chain = Rpc(url)
    except OSError as error:
        raise ConfigError(f"--rpc {url}: {error}") from error
    if chain.chain_id != network["chain"]["id"]:
        raise ConfigError(f"--rpc {url}: must be chain {network['chain']['id']}, not {chain.chain_id}")
    return Operator(chain, bytes.fromhex(network["chain"]["book"]), key)


# list, drain, leave, collect


def _list(arguments: argparse.Namespace) -> int:
    nodes = Client(arguments.nexus).ask("GET", "/v1/nodes")["data"]
    if arguments.json:
        print(json.dumps(nodes))
    else:
        print_nodes(nodes)
    return 0


def _drain(arguments: argparse.Namespace) -> int:
    said, node = _errand(arguments, "drain")
    print(f"node {node} takes no more requests, and has {said['in_flight']}")
    return 0


def _leave(arguments: argparse.Namespace) -> int:
    _, node = _errand(arguments, "leave")
    network = Client(arguments.nexus).ask("GET", "/v1/network")
    if network["chain"]["backend"] == "rpc" and arguments.key.exists():
        from lattice_core.chain.port import Reverted

        try:
            _operator(arguments, network, _open_key(arguments.key)).leave(node)
        except Reverted as failure:
            raise ConfigError(f"the chain refuses: {failure}") from failure
    print(f"node {node} has left; its bond begins to thaw")
    return 0


def _errand(arguments: argparse.Namespace, errand: "Errand") -> tuple[Any, int]:
    """Have the Nexus drain or dismiss a node: any with an API key's scope, one's own with its key."""
    from lattice_live.application import errand_header

    client = Client(arguments.nexus, arguments.api_key)
    network, node = client.ask("GET", "/v1/network"), arguments.node
    header = None
    if arguments.key.exists() and not (arguments.api_key and node is not None):
        key = _open_key(arguments.key)
        if node is None:
            address = f"0x{key.address.hex()}"
            own = [row["node"] for row in client.ask("GET", "/v1/nodes")["data"] if row["address"] == address]
            if not own:
                raise ConfigError(f"{arguments.key}: must be the key of a node of this network, and is {address}'s")
            node = own[0]
        header = errand_header(key, _realm(network), node, errand)
    elif node is None or not arguments.api_key:
        raise ConfigError("must be given the node's own --key, or its number and an --api-key with the scope admin")
    method, path = ("POST", f"/v1/nodes/{node}/drain") if errand == "drain" else ("DELETE", f"/v1/nodes/{node}")
    return client.ask(method, path, authorization=header), node


def _open_key(file: Path) -> "Key":
    from lattice_live.node.identity import IdentityError, open_key

    try:
        return open_key(file)
    except IdentityError as error:
        raise ConfigError(str(error)) from error


def _collect(arguments: argparse.Namespace) -> int:
    from lattice_core.chain.port import Reverted
    from lattice_core.chain.rpc import Rpc
    from lattice_live.node.purse import Purse, PurseError, purse_of
    from lattice_live.vouchers import claim, collect

    if not arguments.key.exists():
        raise ConfigError(f"{arguments.key}: must be the node's key, and is no file")
    key = _open_key(arguments.key)
    try:
        purse = Purse(purse_of(arguments.key))
        chain = Rpc(arguments.rpc)
        done, paid_nlai, last = [], 0, None
        for step in collect(chain, key, purse):
            held = last = step.held
            print(f"epoch {held.epoch}, payer {held.payer}, {lai(held.value_nlai)} LAI: {step.state}", flush=True)
            paid_nlai += step.nlai
            done += [held.key] if step.done else []
        earned_nlai = 0 if last is None else claim(chain, key, last)
        purse.drop(done)
    except (PurseError, ValueError, OSError) as error:
        raise ConfigError(f"{error}") from error
    except Reverted as failure:
        raise ConfigError(f"{arguments.rpc}: must be the chain of these vouchers: {failure}") from failure
    print(f"vouchers paid {lai(paid_nlai)} LAI, {lai(earned_nlai)} LAI went to 0x{key.address.hex()}; {len(purse.held)} wait")
    return 0
