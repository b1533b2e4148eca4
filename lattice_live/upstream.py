"""The Nexus's side of a node's HTTP interface: who it is, an answer's tokens as they come with their receipts, and probes.

What a node says about itself or an answer goes into no message here: it might be a prompt.
"""

import asyncio
import math
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from lattice_core.config.network import Timeouts
from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_core.units import NANO
from lattice_live.channel import Channel, ConnectTimeoutError, NotHTTPError, RefusedError, place_of
from lattice_live.models.folder import Manifest
from lattice_live.node.identity import Challenge, IdentityError, Joining, Terms
from lattice_live.node.receipts import Auditor, Leg, Progress, ReceiptError, Signed
from lattice_live.node.sampling import Drawn, Sampling

MAX_REPLY_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 16
"""Ample for a token with its rivals."""

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

    def to_json(self) -> bytes:
        sampling = {**self.sampling._asdict(), "logit_bias": dict(self.sampling.logit_bias)}
        return orjson.dumps({**self._asdict(), "sampling": sampling}, option=orjson.OPT_NON_STR_KEYS)


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

    `peers` may grow; `models` are those that the network serves, by name. `certificate` is the Nexus's own, see `tls`; only
    nodes at https need it.
    """

    def __init__(
        self,
        peers: Mapping[int, Peer],
        realm: Realm,
        models: Mapping[str, Manifest],
        timeouts: Timeouts,
        certificate: Path | None = None,
    ) -> None:
        self.models = models
        self._peers = peers
        self._realm = realm
        self._certificate = certificate
        self._connect_s = timeouts.connect_ns / NANO
        self._first_token_s = timeouts.first_token_ns / NANO
        self._idle_s = timeouts.idle_ns / NANO
        self._channels: dict[int, Channel] = {}
        self._joined: dict[int, Mapping[str, str]] = {}  # model hashes of the nodes joined, by name

    async def join(self, node: int) -> Mapping[str, str]:
        """Let a node prove that it is its owner's, and take our terms; its model hashes in hex, by name.

        Raises NodeFailure, also if it serves another model, or variant, by the name of one of ours.
        """
        peer = self._peers.get(node)
        if peer is None:
            raise NodeFailure(NODE_LOST, "nobody knows where it is reached")
        self._forget(node)
        with _judged("a challenge"):
            channel = Channel(peer.url, self._connect_s, await self._meet(peer) if peer.url.startswith("https:") else None)
            try:
                models = await self._challenge(channel, node, peer)
            except BaseException:
                channel.close()
                raise
        self._forget(node)  # two may have asked at once
        self._channels[node], self._joined[node] = channel, models
        return models

    async def answer(
        self, node: int, order: Order, take: Callable[[Drawn], object], receipted: Callable[[Signed], object]
    ) -> None:
        """Hand an answer's tokens to `take` and its receipts, once proven, to `receipted`, as they come, until it ends.

        Raises NodeFailure, also for a receipt that is wrong or missing; what was right before counts. A leg that is told
        to stop by `cancel` ends like any other; once cancelled, this leaves it at once, and the node stops, too.
        """
        if order.model not in self._joined.get(node, {}):
            raise NodeFailure(NODE_REFUSED, f"the node has not joined, or not with {order.model!r}")
        model = self.models[order.model]
        leg = Leg(self._terms(node), order.leg, bytes.fromhex(model.model_hash), len(order.prompt))
        loop, idle_s = asyncio.get_running_loop(), self._idle_s
        auditor = Auditor(leg, self._peers[node].owner)
        reading = _Reading(order, model, auditor, take, receipted)

        def feed(data: bytes) -> bool:
            before = auditor.count
            over = reading.feed(data)
            if auditor.count > before:
                due_s = loop.time() + idle_s
                if abs(due_s - (timeout.when() or 0.0)) > idle_s / 8:  # with some play, as moving it costs more than a token
                    timeout.reschedule(due_s)
            return over

        with _judged("an order"), reading:
            try:
                async with asyncio.timeout(self._first_token_s) as timeout:
                    await self._channels[node].exchange("POST", "/v1/submit", order.to_json(), feed)
            except ConnectTimeoutError:
                raise
            except TimeoutError as error:
                late = f"silent for {idle_s:g} s" if auditor.count else f"no token within {self._first_token_s:g} s"
                raise NodeFailure(NODE_TIMEOUT, late) from error
            if not reading.over:
                raise NodeFailure(NODE_LOST, "the answer breaks off")

    async def cancel(self, node: int, leg: int) -> None:
        """Tell a node to stop working on a leg, whose answer then ends. Nothing happens if it cannot be told."""
        try:
            with _judged("a cancel"):
                await self._ask(self._channels[node], "POST", "cancel", {"leg": leg})
        except (NodeFailure, KeyError):
            pass

    async def hand(self, node: int, vouchers: Mapping[str, Any]) -> None:
        """Give a node vouchers to keep: the body of its `POST /v1/vouchers`. Raises NodeFailure."""
        if node not in self._channels:
            raise NodeFailure(NODE_REFUSED, "the node has not joined")
        with _judged("vouchers"):
            await self._ask(self._channels[node], "POST", "vouchers", vouchers)

    async def probe(self, node: int) -> bool:
        """Whether the node answers a probe; one that has forgotten us, as it has been started again, is joined again."""
        try:
            if node not in self._joined:
                await self.join(node)
            with _judged("a probe"):
                said = await self._ask(self._channels[node], "GET", "probe")
            if said.get("ok") is not True:
                return False
            if said.get("joined") is not True:
                await self.join(node)
        except (NodeFailure, AttributeError) as error:
            if isinstance(error.__cause__, ssl.SSLError):
                self._forget(node)  # it has another certificate now: it must join again
            return False
        return True

    async def close(self) -> None:
        """Close all connections."""
        for node in list(self._joined):
            self._forget(node)

    async def _challenge(self, channel: Channel, node: int, peer: Peer) -> Mapping[str, str]:
        challenge = Challenge(self._terms(node))
        invitation = {
            **challenge.terms._asdict(),
            "registry": challenge.terms.registry.hex(),
            "nonce": challenge.nonce.hex(),
        }
        said = await self._ask(channel, "POST", "join", invitation)
        try:
            joining = Joining(said["url"], dict(said["models"]), bytes.fromhex(said["signature"]))
            challenge.accept(joining, peer.url, peer.owner)
        except IdentityError:
            raise
        except _GARBAGE as error:
            raise NodeFailure(BAD_ANSWER, f"not an answer to a challenge: {type(error).__name__}") from error
        for name, model in self.models.items():
            if joining.models.get(name, model.model_hash) != model.model_hash:
                raise NodeFailure(NODE_REFUSED, f"what it serves as {name!r} is another model, or another variant of it")
        return joining.models

    def _forget(self, node: int) -> None:
        self._joined.pop(node, None)
        if (channel := self._channels.pop(node, None)) is not None:
            channel.close()

    def _terms(self, node: int) -> Terms:
        return Terms(self._realm.nexus, node, self._realm.chain_id, self._realm.registry)

    async def _ask(self, channel: Channel, method: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply to a question, which is one JSON value."""
        reply = bytearray()

        def take(data: bytes) -> bool:
            reply.extend(data)
            if len(reply) > MAX_REPLY_BYTES:
                raise NodeFailure(BAD_ANSWER, f"a reply of more than {MAX_REPLY_BYTES} bytes")
            return False

        async with asyncio.timeout(self._first_token_s):
            await channel.exchange(method, f"/v1/{what}", b"" if body is None else orjson.dumps(body), take)
        try:
            return orjson.loads(reply)
        except _GARBAGE as error:
            raise NodeFailure(BAD_ANSWER, "a reply that is not JSON") from error

    async def _meet(self, peer: Peer) -> ssl.SSLContext:
        """A context for the certificate that the node shows, if its owner vouches for it."""
        from lattice_live.node import tls  # its library is large, and many networks need none

        if self._certificate is None:
            raise IdentityError(f"{peer.url}: needs a certificate of this Nexus's own")
        host, port = place_of(peer.url)
        try:
            async with asyncio.timeout(self._connect_s):
                certificate = await tls.meet(host, port, self._certificate)
        except ValueError as error:
            raise OSError("its URL names no host") from error
        if (found := tls.owner(certificate)) != peer.owner:
            raise IdentityError(f"{peer.url} shows a certificate of 0x{found.hex()}, not of 0x{peer.owner.hex()}")
        return tls.nexus_context(self._certificate, certificate)


class _Reading:
    """The lines of an answer as they come, each checked before it counts."""

    def __init__(
        self,
        order: Order,
        model: Manifest,
        auditor: Auditor,
        take: Callable[[Drawn], object],
        receipted: Callable[[Signed], object],
    ) -> None:
        self.over = False
        self._order, self._model, self._auditor = order, model, auditor
        self._take, self._receipted = take, receipted
        self._rest = b""
        self._ended = False  # the last token ends the answer

    def feed(self, data: bytes) -> bool:
        """Read a piece of the body; whether the answer is over. Raises NodeFailure and ReceiptError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self.over:
                break
            try:
                part = self._parse(orjson.loads(line))
            except ReceiptError:
                raise
            except _GARBAGE as error:
                raise NodeFailure(BAD_ANSWER, f"not a line of an answer: {type(error).__name__}") from error
            if isinstance(part, Drawn):
                self._take(part)
            elif part:
                self._prove()
        if len(self._rest) > MAX_LINE_BYTES:
            raise NodeFailure(BAD_ANSWER, f"not a line of an answer: more than {MAX_LINE_BYTES} bytes")
        return self.over

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        """However it ended, the receipts that came count."""
        with suppress(ReceiptError):
            self._prove()

    def _prove(self) -> None:
        if (signed := self._auditor.prove()) is not None:
            self._receipted(signed)

    def _parse(self, part: Any) -> Drawn | bool:
        """A token, or whether what came has to be proven."""
        auditor = self._auditor
        if "token" in part:
            drawn = _drawn(part, self._model.vocabulary, self._order.sampling.top_logprobs)
            if self._ended:
                raise NodeFailure(BAD_ANSWER, f"token {auditor.count + 1} came after the end")
            if part["n"] != auditor.count + 1:
                raise NodeFailure(BAD_ANSWER, f"token {auditor.count + 1} came with another number")
            auditor.add(drawn.token)
            self._ended = drawn.token in self._model.end or auditor.count == self._order.max_tokens
            return drawn
        if "receipt" in part:
            return auditor.check(Signed(Progress.from_json(part["receipt"]), bytes.fromhex(part["signature"])))
        if "error" in part:
            raise NodeFailure(NODE_LOST, "the node ended it with an error")
        if part["output_tok"] != auditor.count:
            raise NodeFailure(BAD_ANSWER, f"another count of tokens than the {auditor.count} sent")
        if not self._ended and part["reason"] != "cancelled":
            raise NodeFailure(BAD_ANSWER, f"ended after {auditor.count} tokens without a reason")
        auditor.finish()
        self.over = True
        return True


def _drawn(part: Mapping[str, Any], vocabulary: int, top_logprobs: int | None) -> Drawn:
    """Raises ValueError, KeyError or TypeError for what is no token, or not with the log-probabilities asked for."""
    token = part["token"]
    if type(token) is not int or not 0 <= token < vocabulary:
        raise ValueError("a token that is none")
    if top_logprobs is None:
        return Drawn(token)
    drawn = Drawn(token, float(part["logprob"]), tuple((rival, float(logprob)) for rival, logprob in part["top"]))
    if len(drawn.top) > top_logprobs or not all(type(rival) is int and 0 <= rival < vocabulary for rival, _ in drawn.top):
        raise ValueError("rivals that are none")
    if not all(map(math.isfinite, (drawn.logprob or 0.0, *dict(drawn.top).values()))):
        raise ValueError("a log-probability that is none")
    return drawn


@contextmanager
def _judged(what: str) -> Iterator[None]:
    """What goes wrong with a node, as a NodeFailure."""
    try:
        yield
    except RefusedError as error:
        raise NodeFailure(NODE_REFUSED, f"{error} to {what}") from error
    except NotHTTPError as error:
        raise NodeFailure(BAD_ANSWER, f"not a reply to {what}: {error}") from error
    except ReceiptError as error:
        raise NodeFailure(BAD_ANSWER, f"receipt: {error}") from error
    except IdentityError as error:
        raise NodeFailure(NODE_REFUSED, str(error)) from error
    except ConnectTimeoutError as error:
        raise NodeFailure(NODE_TIMEOUT, str(error)) from error
    except TimeoutError as error:
        raise NodeFailure(NODE_TIMEOUT, f"no reply to {what} in time") from error
    except OSError as error:
        raise NodeFailure(NODE_LOST, str(error)) from error
