"""The Nexus's side of a node's HTTP interface: who it is, an answer's tokens as they come with their receipts, and probes."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http import HttpProcessingError

from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_live.node import tls
from lattice_live.node.identity import Challenge, IdentityError, Joining, Terms
from lattice_live.node.receipts import Auditor, Leg, Progress, ReceiptError, Signed
from lattice_live.node.sampling import Drawn, Sampling

CONNECT_S = 2.0
MAX_REPLY_BYTES = 1 << 20
SILENCE_S = 30.0
"""A node that sends nothing for this long has failed: ample for a full queue before a small model. Chosen."""

_GARBAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading JSON raises that is no JSON, or other than it should be."""


class NodeFailure(Exception):  # noqa: N818 (a failure is an answer)
    """A leg, or a joining, that came to no good end; `why` is a reason of `Fail`."""

    def __init__(self, why: int, detail: str) -> None:
        super().__init__(detail)
        self.why = why


class Order(NamedTuple):
    """What a node is asked: fields as in its `POST /v1/submit`. `session` lets it reuse what it has read of the same chat."""

    leg: int
    model: str
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    session: str | None = None


class Peer(NamedTuple):
    """A node as the chain knows it: where it is reached, and its owner's address in the NodeRegistry."""

    url: str
    owner: bytes


class Realm(NamedTuple):
    """Whose nodes these are: the Nexus's number, and the NodeRegistry by chain and address."""

    nexus: int
    chain_id: int
    registry: bytes


class Upstream:
    """The nodes, by number, over kept connections. They have to be joined before they are asked.

    `vocabularies` are the sizes of the models' vocabularies, by name. `certificate` is the Nexus's own, see `tls`; only nodes
    at https need it.
    """

    def __init__(
        self, peers: Sequence[Peer], realm: Realm, vocabularies: Mapping[str, int], certificate: Path | None = None
    ) -> None:
        self._peers = peers
        self._realm = realm
        self._vocabularies = vocabularies
        self._certificate = certificate
        self._tls: dict[int, Any] = {}  # an SSL context for each node met
        self._models: dict[int, Mapping[str, str]] = {}  # model hashes of the nodes joined, by name
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def join(self, node: int) -> Mapping[str, str]:
        """Let a node prove that it is its owner's, and take our terms; its model hashes in hex, by name. Raises NodeFailure."""
        peer = self._peers[node]
        challenge = Challenge(self._terms(node))
        invitation = {
            **challenge.terms._asdict(),
            "registry": challenge.terms.registry.hex(),
            "nonce": challenge.nonce.hex(),
        }
        try:
            if peer.url.startswith("https:"):
                self._tls[node] = await self._meet(peer)
            async with self._post(node, "join", invitation) as response:
                if response.status != 200:
                    raise NodeFailure(NODE_REFUSED, f"HTTP {response.status} to a challenge")
                said = await _reply(response)
                joining = Joining(said["url"], dict(said["models"]), bytes.fromhex(said["signature"]))
                challenge.accept(joining, peer.url, peer.owner)
                if not all(len(bytes.fromhex(model_hash)) == 32 for model_hash in joining.models.values()):
                    raise ValueError("models: must be SHA-256")
        except TimeoutError as error:
            raise NodeFailure(NODE_TIMEOUT, "no answer to a challenge in time") from error
        except IdentityError as error:
            raise NodeFailure(NODE_REFUSED, str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeFailure(NODE_LOST, str(error)) from error
        except _GARBAGE as error:
            raise NodeFailure(BAD_ANSWER, f"not an answer to a challenge: {error!r}") from error
        self._models[node] = joining.models
        return joining.models

    async def answer(
        self, node: int, order: Order, receipted: Callable[[Signed], object] = lambda signed: None
    ) -> AsyncGenerator[Drawn]:
        """Tokens as they come; `receipted` is called with each receipt, once it has been checked.

        Raises NodeFailure, also for a receipt that is wrong or missing. Close it to let the node stop.
        """
        model_hash = self._models.get(node, {}).get(order.model)
        if model_hash is None:
            raise NodeFailure(NODE_REFUSED, f"the node has not joined, or not with {order.model!r}")
        leg = Leg(self._terms(node), order.leg, bytes.fromhex(model_hash), len(order.prompt))
        auditor = Auditor(leg, self._peers[node].owner)
        vocabulary = self._vocabularies[order.model]
        sampling = {**order.sampling._asdict(), "logit_bias": dict(order.sampling.logit_bias)}
        try:
            async with self._post(node, "submit", {**order._asdict(), "sampling": sampling}) as response:
                if response.status != 200:
                    raise NodeFailure(NODE_REFUSED, f"HTTP {response.status}: {(await _reply(response))['error']['message']}")
                async for line in response.content:
                    part = json.loads(line)
                    if "receipt" in part:
                        signed = Signed(Progress.from_json(part["receipt"]), bytes.fromhex(part["signature"]))
                        auditor.check(signed)
                        receipted(signed)
                    elif "token" in part:
                        drawn = _drawn(part, vocabulary)
                        if part["n"] != auditor.count + 1 or part["n"] > order.max_tokens:
                            raise NodeFailure(BAD_ANSWER, f"token {auditor.count + 1} came as {part}")
                        auditor.add(drawn.token)
                        yield drawn
                    elif "error" in part:
                        raise NodeFailure(NODE_LOST, str(part["error"]["message"]))
                    elif part["output_tok"] != auditor.count or auditor.count == 0:
                        raise NodeFailure(BAD_ANSWER, f"{part['output_tok']} tokens said, {auditor.count} sent")
                    elif part["reason"] not in ("stop", "length"):
                        raise NodeFailure(NODE_LOST, f"the node ended it: {part['reason']}")
                    else:
                        auditor.finish()
                        return
            raise NodeFailure(NODE_LOST, "the answer breaks off")
        except TimeoutError as error:
            raise NodeFailure(NODE_TIMEOUT, f"silent for {SILENCE_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeFailure(NODE_LOST, str(error)) from error
        except ReceiptError as error:
            raise NodeFailure(BAD_ANSWER, f"receipt: {error}") from error
        except (*_GARBAGE, HttpProcessingError) as error:
            raise NodeFailure(BAD_ANSWER, f"not a line of an answer: {error!r}") from error

    async def probe(self, node: int) -> bool:
        """Whether the node answers a probe; one that has forgotten us, as it has been started again, is joined again."""
        try:
            if node not in self._models:
                await self.join(node)
            async with self._session.get(f"{self._peers[node].url}/v1/probe", ssl=self._tls.get(node, True)) as response:
                said = await _reply(response)
                if response.status != 200 or said.get("ok") is not True:
                    return False
            if said.get("joined") is not True:
                await self.join(node)
            return True
        except aiohttp.ClientSSLError:
            self._models.pop(node, None)  # it has another certificate now: it must join again
            return False
        except (TimeoutError, NodeFailure, aiohttp.ClientError, OSError, *_GARBAGE):
            return False

    async def close(self) -> None:
        await self._session.close()

    def _terms(self, node: int) -> Terms:
        return Terms(self._realm.nexus, node, self._realm.chain_id, self._realm.registry)

    def _post(self, node: int, what: str, body: Mapping[str, Any]) -> Any:
        return self._session.post(f"{self._peers[node].url}/v1/{what}", json=body, ssl=self._tls.get(node, True))

    async def _meet(self, peer: Peer) -> Any:
        """An SSL context for the certificate that the node shows, if its owner vouches for it."""
        if self._certificate is None:
            raise IdentityError(f"{peer.url}: needs a certificate of this Nexus's own")
        place = urlsplit(peer.url)
        async with asyncio.timeout(CONNECT_S):
            certificate = await tls.meet(place.hostname or "", place.port or 443, self._certificate)
        if (found := tls.owner(certificate)) != peer.owner:
            raise IdentityError(f"{peer.url} shows a certificate of 0x{found.hex()}, not of 0x{peer.owner.hex()}")
        return tls.nexus_context(self._certificate, certificate)


async def _reply(response: aiohttp.ClientResponse) -> Any:
    """A reply that is one JSON value. Raises ValueError."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_REPLY_BYTES:
            raise ValueError(f"more than {MAX_REPLY_BYTES} bytes")
    return json.loads(body)


def _drawn(part: Mapping[str, Any], vocabulary: int) -> Drawn:
    """Raises ValueError, KeyError or TypeError for what is no token."""
    top = tuple((token, float(logprob)) for token, logprob in part.get("top", ()))
    drawn = Drawn(part["token"], part.get("logprob"), top)
    if not all(type(token) is int and 0 <= token < vocabulary for token in (drawn.token, *dict(top))):
        raise ValueError(f"{part}: must be token ids below {vocabulary}")
    if drawn.logprob is not None and not all(math.isfinite(logprob) for logprob in (drawn.logprob, *dict(top).values())):
        raise ValueError(f"{part}: must be finite")
    return drawn
