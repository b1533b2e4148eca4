"""Nodes that this Nexus did not launch: admitted by their signed application, joined, drained, dismissed.

Draining and dismissing is for the node itself, by its signature, and for keys with the scope `admin`; a private cluster is
joined with such a key, too. On a chain in this process, which is a test network's, the Nexus registers and bonds a node for it;
on any other the node has done so itself.
"""

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from lattice_core.batch import MAX_ENTRIES
from lattice_core.chain.bridge import Bridge
from lattice_core.chain.operator import model_id
from lattice_core.chain.port import Reverted
from lattice_core.config import Config
from lattice_core.events import Bonded, Event, NodeDown, NodeRegistered, NodeUp, OfferPosted
from lattice_core.nexus import Nexus
from lattice_core.state import ABSENT, DRAINING, KINDS, NONE, UP
from lattice_core.streams import entity_key
from lattice_live.application import Application, Errand, check_fresh, document, errand_signer
from lattice_live.channel import is_loopback
from lattice_live.models.folder import Manifest
from lattice_live.node.identity import IdentityError
from lattice_live.settlement import Settlement
from lattice_live.upstream import NodeFailure, Peer, Realm, Upstream

SPACE = "nodes"
"""Where admitted nodes are kept, by number."""

RETRY_S = (1.0, 60.0)
"""Between two attempts to reach a node that was here before: the first pause, which doubles up to the last."""

LEAVING_S = 600.0
"""How long a node that leaves may take to finish what it has."""

STATES = {ABSENT: "absent", UP: "up", DRAINING: "draining"}


class MembershipError(ValueError):
    """What a node, or who speaks for it, may not have: an HTTP status, a code and one line."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Documents(Protocol):
    """What of a storage is used here."""

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None: ...
    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]: ...
    async def durable(self) -> None: ...


class Members:
    """The nodes of one Nexus that it did not launch."""

    def __init__(
        self,
        config: Config,
        nexus: Nexus,
        settlement: Settlement,
        upstream: Upstream,
        peers: MutableMapping[int, Peer],
        storage: Documents,
        tell: Callable[[Event], object],
        now_ns: Callable[[], int],
    ) -> None:
        """`peers` are the upstream's, which grow; `tell` brings the kernel an event of `now_ns`."""
        listing = settlement.listing
        self.realm = Realm(0, listing.chain_id, listing.contracts["NodeRegistry"])
        self._config = config
        self._nexus = nexus
        self._settlement = settlement
        self._upstream = upstream
        self.peers = peers
        self._storage = storage
        self._tell = tell
        self._now_ns = now_ns
        self._models = list(config.models)
        self._known = {int(node): dict(kept) for node, kept in storage.items(SPACE).items()}
        self._numbers = {bytes.fromhex(kept["operator"]): node for node, kept in self._known.items()}
        self._admitting = asyncio.Lock()
        self._returns: set[asyncio.Task[None]] = set()
        for node, kept in self._known.items():
            peers[node] = Peer(kept["url"], bytes.fromhex(kept["operator"]))

    async def resume(self) -> None:
        """Meet again the nodes of an earlier process, each as soon as it answers."""
        for node, kept in self._known.items():
            if not self.knows(node):  # its process ended between noting the node and telling the kernel
                if not self._settlement.remote:
                    await self._on_chain(lambda bridge, node=node: _admit(bridge, node, self._known[node]))  # type: ignore[misc]
                self._introduce(node)
            if kept["state"] == "member":
                task = asyncio.create_task(self._return(node))
                self._returns.add(task)
                task.add_done_callback(self._returns.discard)

    async def close(self) -> None:
        for task in self._returns:
            task.cancel()
        await asyncio.gather(*self._returns, return_exceptions=True)

    async def admit(self, application: Application) -> int:
        """The number of a node that takes requests from now on. Raises MembershipError."""
        operator = self._check(application)
        async with self._admitting:
            node = self._numbers.get(operator)
            if node is None:
                node = await self._register(application, operator)
            else:
                self._renew(node, application)
            await self._storage.durable()
        try:
            await self._upstream.join(node)
        except NodeFailure as failure:
            raise MembershipError(409, "not_joined", f"node {node} at {application.url} did not join: {failure}") from None
        self._tell(NodeUp(self._now_ns(), node))
        return node

    def drain(self, node: int) -> int:
        """Send a node no more requests; how many it still has. Raises MembershipError for one that has left."""
        if self._known.get(node, {}).get("state") == "left":
            raise MembershipError(409, "has_left", f"node {node} has left already")
        self._keep(node, state="drained")
        self._tell(NodeDown(self._now_ns(), node))
        return self._in_flight(node)

    async def dismiss(self, node: int) -> None:
        """Drain a node and take it out for good. Raises MembershipError if it does not come to an end."""
        self.drain(node)
        waited_s = 0.0
        while self._in_flight(node):
            if waited_s > LEAVING_S:
                raise MembershipError(409, "still_busy", f"node {node} still has {self._in_flight(node)} requests")
            await asyncio.sleep(0.05)
            waited_s += 0.05
        if not self._settlement.remote:
            await self._on_chain(lambda bridge: bridge.dismiss(node))
        self._tell(Bonded(self._now_ns(), node, 0))
        self._keep(node, state="left")
        await self._storage.durable()

    def check_errand(self, node: int, errand: Errand, header: str) -> None:
        """Raises MembershipError unless `header` is the node's own, for this errand, and fresh."""
        kept = self._known.get(node)
        try:
            signer, t_ms = errand_signer(header, self.realm, node, errand)
            if kept is None or signer.hex() != kept["operator"]:
                raise IdentityError(f"node {node} is not 0x{signer.hex()}'s")
            check_fresh(t_ms, kept["t_ms"])
        except IdentityError as error:
            raise MembershipError(401, "invalid_signature", str(error)) from None
        self._keep(node, t_ms=t_ms)

    def rows(self) -> list[dict[str, Any]]:
        """Every registered node, as `GET /v1/nodes` lists it."""
        nodes, offers = self._nexus.table("nodes"), self._nexus.table("offers")
        offered: dict[int, dict[str, Any]] = {}
        for offer in offers[: self._nexus.count("offers")]:
            if offer["node"] != NONE:
                prices = {"price_in_nlai": int(offer["price_in"]), "price_out_nlai": int(offer["price_out"])}
                offered.setdefault(int(offer["node"]), {})[self._models[offer["model"]]] = prices
        return [self._row(node, nodes[node], offered.get(node, {})) for node in nodes["key"].nonzero()[0].tolist()]

    def _row(self, node: int, row: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._known.get(node)
        left = kept is not None and kept["state"] == "left"
        return {
            "node": node,
            "address": f"0x{self.peers[node].owner.hex()}" if node in self.peers else None,
            "launched": kept is None,
            "state": "left" if left else STATES[int(row["status"])],
            "kind": KINDS[row["kind"]],
            "cluster": self._nexus.clusters[row["cluster"]],
            "slots": int(row["slots"]),
            "in_flight": int(row["in_flight"]),
            "bond_nlai": int(row["bond_nlai"]),
            "answers": int(row["legs_done"]),
            "failures": int(row["legs_lost"]),
            "output_tok": int(row["output_tok"]),
            "earned_nlai": int(row["gross_nlai"]),
            "settled_nlai": int(row["settled_nlai"] + row["settled_faucet_nlai"]),
            "models": dict(offered),
        }

    @property
    def models(self) -> Mapping[str, Manifest]:
        """Those that the network serves, by name."""
        return self._upstream.models

    def knows(self, node: int) -> bool:
        """Whether there is such a node."""
        nodes = self._nexus.table("nodes")
        return 0 <= node < len(nodes) and nodes[node]["key"] != 0

    # An application

    def _check(self, application: Application) -> bytes:
        """Whose application it is. Raises MembershipError for one that cannot be taken."""
        try:
            operator = application.operator(self.realm)
            check_fresh(application.t_ms, self._known.get(self._numbers.get(operator, -1), {}).get("t_ms", -1))
        except IdentityError as error:
            raise MembershipError(401, "invalid_signature", str(error)) from None
        for name, asked in application.models.items():
            model = self._upstream.models.get(name)
            if model is None:
                served = ", ".join(self._upstream.models) or "none"
                raise MembershipError(400, "model_not_found", f"models: must be among {served}, not {name!r}")
            if model.model_hash != asked.model_hash:
                message = f"models.{name}: must be {model.model_hash} ({model.variant}), not {asked.model_hash}"
                raise MembershipError(400, "wrong_model", message)
        if len({self._config.models[name].kind for name in application.models}) > 1:
            raise MembershipError(400, "wrong_model", "models: must be of one kind")
        if application.cluster not in self._nexus.clusters:
            clusters = ", ".join(name for name in self._nexus.clusters if name) or "none"
            raise MembershipError(400, "no_such_cluster", f"cluster: must be among {clusters}, not {application.cluster!r}")
        place = urlsplit(application.url)
        if place.scheme == "http" and not is_loopback(place.hostname or ""):
            message = "url: must begin with https, as the node is not on this machine"
            raise MembershipError(400, "insecure_url", message)
        if place.scheme == "https" and not self._config.live.tls:
            raise MembershipError(400, "no_tls", "url: must begin with http: this Nexus runs without live.tls")
        return operator

    async def _register(self, application: Application, operator: bytes) -> int:
        """Give the kernel a node that the chain knows."""
        if int((self._nexus.table("nodes")["key"] != 0).sum()) >= MAX_ENTRIES:
            raise MembershipError(409, "network_full", f"there are {MAX_ENTRIES} nodes, as many as one settlement can pay")
        first = next(iter(application.models))
        kind = KINDS.index(self._config.models[first].kind)
        bond_nlai, cluster = application.bond_nlai, self._nexus.clusters.index(application.cluster)
        if not self._settlement.remote:
            node = await self._on_chain(lambda bridge: bridge.admit(operator, kind, bond_nlai, cluster))
        elif application.node is None:
            raise MembershipError(400, "not_registered", "node: must be the number that the registry gave this node")
        else:
            node = application.node
            bond_nlai = await self._on_chain(lambda bridge: _registered(bridge, node, operator, kind, cluster, application))
        self.peers[node] = Peer(application.url, operator)
        self._numbers[operator] = node
        more = {"state": "member", "kind": kind, "cluster_number": cluster, "bond_nlai": bond_nlai}
        self._known[node] = document(application, operator, **more)
        self._keep(node)
        self._introduce(node)
        return node

    def _introduce(self, node: int) -> None:
        """Tell the kernel of a node."""
        kept, t_ns = self._known[node], self._now_ns()
        key = entity_key(f"node/0x{kept['operator']}", 0)
        self._tell(NodeRegistered(t_ns, node, key, kept["kind"], kept["cluster_number"], -1, kept["slots"], kept["queue"]))
        self._tell(Bonded(t_ns, node, kept["bond_nlai"]))
        for name, asked in kept["models"].items():
            self._tell(OfferPosted(t_ns, node, self._models.index(name), asked["price_in_nlai"], asked["price_out_nlai"]))

    def _renew(self, node: int, application: Application) -> None:
        """A node comes back, perhaps from elsewhere; what it offers is what it offered."""
        kept = self._known[node]
        said = application.model_dump()
        for field in ("models", "slots", "queue", "cluster"):
            if said[field] != kept[field]:
                message = f"{field}: must be what node {node} was admitted with; another key may apply with others"
                raise MembershipError(409, "already_admitted", message)
        if kept["state"] == "left":
            raise MembershipError(409, "has_left", f"node {node} has left for good; another key may apply")
        self.peers[node] = Peer(application.url, bytes.fromhex(kept["operator"]))
        self._keep(node, url=application.url, t_ms=application.t_ms, state="member")

    async def _return(self, node: int) -> None:
        pause_s, longest_s = RETRY_S
        while self._known[node]["state"] == "member":
            try:
                await self._upstream.join(node)
            except NodeFailure:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            else:
                self._tell(NodeUp(self._now_ns(), node))
                return

    async def _on_chain[T](self, question: Callable[[Bridge], T]) -> T:
        try:
            return await self._settlement.read(question)
        except Reverted as failure:
            raise MembershipError(409, "chain_refused", f"the chain refuses: {failure}") from None
        except OSError as error:
            raise MembershipError(503, "chain_away", f"the chain is away: {error}") from None

    def _keep(self, node: int, **changes: Any) -> None:
        """Note what has become of a node, also of one that was launched here: that only until the next start."""
        if node in self._known:
            self._known[node].update(changes)
            self._storage.put(SPACE, str(node), self._known[node])

    def _in_flight(self, node: int) -> int:
        return int(self._nexus.table("nodes")[node]["in_flight"])


def recall(event: NodeRegistered | Bonded, settlement: Settlement, storage: Documents) -> None:
    """Have done again on a chain in this process what an event of the journal says of an admitted node."""
    kept = storage.items(SPACE).get(str(event.node))
    if kept is not None and isinstance(event, NodeRegistered):
        settlement.redo(lambda bridge: _admit(bridge, event.node, kept))
    elif kept is not None and event == Bonded(event.t_ns, event.node, 0):
        settlement.redo(lambda bridge: bridge.dismiss(event.node))


def _admit(bridge: Bridge, node: int, kept: Mapping[str, Any]) -> None:
    """Register an admitted node, unless the chain was saved with it."""
    if bridge.network.nodes.count() <= node:
        bridge.admit(bytes.fromhex(kept["operator"]), kept["kind"], kept["bond_nlai"], kept["cluster_number"])


def _registered(bridge: Bridge, node: int, operator: bytes, kind: int, cluster: int, application: Application) -> int:
    """The bond of a node that has registered itself as it says. Raises MembershipError, or Reverted for a stranger."""
    registry = bridge.network.nodes
    found = registry.node(node)
    if (found.operator, found.signer, found.kind, found.cluster, found.left) != (operator, operator, kind, cluster, False):
        place = f"a {KINDS[kind]} node, {f'of cluster {cluster}' if cluster else 'public'}"
        message = f"node: {node} must be registered on the chain by 0x{operator.hex()}, as {place}"
        raise MembershipError(409, "not_registered", message)
    for name, asked in application.models.items():
        offer = registry.offer(node, model_id(name))
        if (offer.price_in_nlai, offer.price_out_nlai) != (asked.price_in_nlai, asked.price_out_nlai):
            raise MembershipError(409, "other_offer", f"models.{name}: must ask what the chain says that the node asks")
    return found.bond_nlai
