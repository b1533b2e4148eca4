"""How a user's request becomes one of the kernel's, and the kernel's answer one for the user."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from starlette.requests import Request

from lattice_core import state
from lattice_core.census import users
from lattice_core.events import Arrive, NodesListed, Status
from lattice_core.nexus import Nexus
from lattice_core.pricing import fee_nlai
from lattice_core.state import CLUSTER, KINDS, PREFERENCES, PRIVACY, PUBLIC
from lattice_core.units import MAX_TOKENS
from lattice_live.driver import Answer, Ask
from lattice_live.gateway.chat import ChatForm, Form, Reader, TextForm, event
from lattice_live.gateway.chats import Chats
from lattice_live.gateway.errors import Refusal, come_back, of_status
from lattice_live.gateway.metrics import Metrics
from lattice_live.gateway.principals import CHAT, Principal, Principals
from lattice_live.gateway.schemas import Chat, Completion, Preferences
from lattice_live.gateway.wire import Line, Listener, Visit, read
from lattice_live.models.text import TextError

if TYPE_CHECKING:
    from lattice_live.network import Network

REMEMBERED = 4_096
"""Ended requests whose owners may still ask how they went: more than the kernel remembers candidates of."""

MAX_LISTS = 65_536
"""Different lists of nodes that users may name in a network's life."""

_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Ended(NamedTuple):
    """A request as its owner may see it later."""

    principal: Principal
    model: str
    status: Status
    legs: str
    """As JSON: thousands of lists of mappings take ten times the memory, and hold up the collector."""


class Offers:
    """Prices by node and model, in nanoLAI per million tokens of prompt and answer. An offer never changes."""

    def __init__(self, nexus: Nexus) -> None:
        self._nexus = nexus
        self._count = -1
        self._prices: dict[tuple[int, int], tuple[int, int]] = {}

    def price(self, node: int, model: int) -> tuple[int, int] | None:
        return self._prices.get((node, model)) or self._look().get((node, model))

    def dearest(self, model: int) -> tuple[int, int]:
        """What no node asks more than; nothing if none serves it."""
        asked = [price for (_, of), price in self._look().items() if of == model]
        return max((price for price, _ in asked), default=0), max((price for _, price in asked), default=0)

    def models(self) -> set[int]:
        """Those that any node serves."""
        return {model for _, model in self._look()}

    def _look(self) -> dict[tuple[int, int], tuple[int, int]]:
        count = self._nexus.count("offers")
        if count != self._count:
            rows = self._nexus.table("offers")[:count]
            columns = (rows[name].tolist() for name in ("node", "model", "price_in", "price_out"))
            self._prices = {
                (node, model): (price_in, price_out) for node, model, price_in, price_out in zip(*columns, strict=True)
            }
            self._count = count
        return self._prices


class Gateway:
    """The users' side of one network."""

    def __init__(self, network: "Network") -> None:
        self.network = network
        self.config, self.driver, self.texts = network.config, network.driver, network.texts
        self.nexus = network.driver.nexus
        self.storage = network.storage
        self.principals = Principals(network.storage, network.fees_nlai)
        self.chats = Chats(network.storage)
        self.offers = Offers(self.nexus)
        self.metrics = Metrics(self.nexus, lambda: self.open)
        self.ended: OrderedDict[int, Ended] = OrderedDict()
        self.models = list(self.config.models)
        self.open = 0
        self.draining = False
        self.idle = asyncio.Event()
        """Set while no request is open."""
        self.idle.set()
        self._leaving: set[asyncio.Future[Any]] = set()
        self._peers = network.members.peers
        self._users = users(self.config)
        self._vocabulary = {name: model.vocabulary for name, model in network.members.models.items()}
        self._longest = {  # no token stands for more bytes
            name: max(len(text.word(token)) for token in range(self._vocabulary[name])) for name, text in self.texts.items()
        }
        self._lists = _lists(self.nexus)

    # The way of a request

    def authenticate(self, request: Request, scope: str | None = None) -> Principal:
        """Who asks, if he may do so. Raises Refusal."""
        visit: Visit = request.scope["visit"]
        principal = self.principals.authenticate(visit.authorization, scope, time.time())
        visit.noted["key"] = principal.key.id
        return principal

    @contextmanager
    def place(self, principal: Principal) -> Iterator[None]:
        """A place among the open requests. Raises Refusal if there is none, or none for this key now."""
        if self.draining:
            raise come_back(503, "draining", "this Nexus is about to stop and takes no more requests")
        if self.open >= self.config.live.max_open:
            raise come_back(429, "too_many_open", f"{self.open} requests are open, which is all that this Nexus allows")
        self.principals.limit(principal, time.monotonic())
        self.open += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()

    async def serve(self, request: Request, kind: type[Chat] | type[Completion]) -> None:
        """Take a request, ask for an answer and send it. Raises Refusal."""
        principal = self.authenticate(request, CHAT)
        with self.place(principal):
            asked: Chat | Completion = await read(request, kind)
            if asked.model not in self.texts:
                message = f"model: must be one of {', '.join(self.texts)}, not {asked.model!r}"
                raise Refusal(404, "model_not_found", message, "model")
            keep = asked.lattice.history == "stored"
            if keep:
                self.chats.make_room(principal, asked.lattice.session or "")
            reader = Reader(self.texts[asked.model], asked.stop, asked.top, keep)
            answer = self._ask(asked, self._prompt(asked), reader, principal)
            visit: Visit = request.scope["visit"]
            visit.noted |= {"request": answer.request, "model": asked.model}
            visit.headers.append((b"x-lattice-request", b"%d" % answer.request))
            line = Line(request._send)
            try:
                async with Listener(request.receive, line if asked.stream else None):
                    await self._answer(asked, answer, reader, principal, line, visit)
            finally:
                self.driver.leave(answer)
                self._finish(answer, asked.model, principal, visit)

    def _prompt(self, asked: Chat | Completion) -> list[int]:
        """Its ids. Raises Refusal."""
        text, context_tok = self.texts[asked.model], self.config.models[asked.model].context_tok
        if isinstance(asked, Completion) and not isinstance(asked.prompt, str):
            vocabulary = self._vocabulary[asked.model]
            if max(asked.prompt) >= vocabulary:
                raise Refusal(400, "invalid_value", f"prompt: must be token ids below {vocabulary}", "prompt")
            return asked.prompt
        written = str(asked.prompt) if isinstance(asked, Completion) else "".join(turn["content"] for turn in asked.turns)
        if len(written) > context_tok * self._longest[asked.model]:  # tokenising it would only take time
            raise Refusal(400, "context_too_long", f"the prompt is longer than the context of {context_tok} tokens")
        try:
            return text.encode(written) if isinstance(asked, Completion) else text.chat(asked.turns)
        except TextError as error:
            raise Refusal(400, "invalid_value", f"messages: {error}", "messages") from None

    def _ask(self, asked: Chat | Completion, prompt: list[int], reader: Reader, principal: Principal) -> Answer:
        """Let a request arrive, as the account's own population asks but for what the user says. Raises Refusal."""
        wishes, account = asked.lattice, self._users[principal.account]
        user, model = account.population, self.models.index(asked.model)
        number = self.nexus.count("last_request") + 1
        sampling = asked.sampling(number)
        try:
            sampling.check(self._vocabulary[asked.model])
        except ValueError as error:
            raise Refusal(400, "invalid_value", str(error), str(error).partition(":")[0]) from None
        max_tok = asked.answer_tok or user.tokens.max_tokens
        caps_nlai = [cap for cap in (wishes.max_price_nlai, user.max_fee_nlai) if cap is not None]
        cap_nlai = min(caps_nlai, default=0)
        if principal.key.budget_nlai is not None:
            dearest = fee_nlai.py_func(*self.offers.dearest(model), len(prompt), min(max_tok, MAX_TOKENS))  # type: ignore[attr-defined]
            cap_nlai = self.principals.reserve(principal, number, min([*caps_nlai, max(dearest, 1)]))
        privacy = max(PRIVACY.index(user.privacy), CLUSTER if wishes.private else PUBLIC)
        session = "" if wishes.session is None else f"{principal.key.organisation}/{principal.key.member}/{wishes.session}"
        known = blake2b(session.encode(), digest_size=16)  # by which nodes know it: they are told no names
        now_ns = self.driver.now_ns()
        arrive = Arrive(
            now_ns,
            number,
            principal.account,
            model,
            len(prompt),
            max_tok,
            kind=KINDS.index(self.config.models[asked.model].kind),
            max_fee_nlai=cap_nlai,
            deadline_ns=now_ns + user.deadline_ns,
            principal=principal.number,
            session=int.from_bytes(known.digest()[:8], "big") >> 1 if session else 0,
            cluster=0 if privacy == PUBLIC else account.cluster,
            privacy=privacy,
            prefer=PREFERENCES.index(wishes.prefer),
            nodes=self._listed(wishes),
        )
        began_s = time.perf_counter()
        chat = known.hexdigest() if session else None
        answer = self.driver.ask(Ask(arrive, asked.model, prompt, sampling, chat, reader.enough))
        self.metrics.decided(time.perf_counter() - began_s)
        return answer

    def _listed(self, wishes: Preferences) -> int:
        """The kernel's number for the nodes that a user allows or denies, 0 for neither. Raises Refusal."""
        nodes = tuple(sorted(set(wishes.allow or wishes.deny or ())))
        if not nodes:
            return 0
        which = wishes.allow is not None, nodes
        if which not in self._lists:
            if len(self._lists) >= MAX_LISTS:
                raise come_back(
                    429, "too_many_lists", "lattice: no more lists of nodes can be named; use one that was named before"
                )
            number = self.nexus.count("lists") + 1
            self.driver.tell(NodesListed(self.driver.now_ns(), number, *which))
            self._lists[which] = number
        return self._lists[which]

    # The way of an answer

    async def _answer(
        self, asked: Chat | Completion, answer: Answer, reader: Reader, principal: Principal, line: Line, visit: Visit
    ) -> None:
        """Send it, whole or as it comes. Raises Refusal if the request fails before anything was sent."""
        if asked.stream:
            await answer.begun.wait()
        else:
            async for drawn in answer.tokens():
                reader.take(drawn)
        status = answer.status
        if status is not None and status.outcome != state.COMPLETED and not (asked.stream and answer.ids):
            raise of_status(status, self.config)
        kind, prefix = (ChatForm, "chatcmpl") if isinstance(asked, Chat) else (TextForm, "cmpl")
        form = kind(self.texts[asked.model], f"{prefix}-{answer.request}", asked.model, int(time.time()), asked.top)
        visit.headers.append((b"x-lattice-node", b"%d" % answer.legs[-1].node))
        if asked.stream:
            await self._stream(asked, answer, reader, form, principal, line)
            return
        reader.close()
        self._keep(asked, reader, principal)
        body = form.whole(reader, self._usage(answer), self._report(asked, answer))
        await line.start([*_JSON, (b"content-length", b"%d" % len(body))])
        await line.write(body, more=False)

    async def _stream(
        self, asked: Chat | Completion, answer: Answer, reader: Reader, form: Form, principal: Principal, line: Line
    ) -> None:
        """As server-sent events. One that fails on the way ends with an error instead of [DONE]."""
        await line.start(_EVENTS)
        ready, taken = form.opening(), 0
        async for drawn in answer.tokens():
            reader.take(drawn)
            taken += 1
            if taken < len(answer.ids):
                continue  # what is there goes out at once
            ready += form.events(reader)
            reader.sent()
            if ready:
                await line.write(ready)
                ready = b""
        status = answer.ended()
        if status.outcome != state.COMPLETED:
            await line.write(event(of_status(status, self.config).body()), more=False)
            return
        reader.close()
        self._keep(asked, reader, principal)
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        ready += form.events(reader)
        ready += form.closing(reader.finish, self._usage(answer), self._report(asked, answer), with_usage)
        await line.write(ready, more=False)

    def _keep(self, asked: Chat | Completion, reader: Reader, principal: Principal) -> None:
        """Store the chat, if its user has asked for it."""
        if asked.lattice.history == "stored":
            turns = asked.turns if isinstance(asked, Chat) else [{"role": "user", "content": _written(asked.prompt)}]
            self.chats.keep(principal, asked.lattice.session or "", asked.model, turns, reader.text, int(time.time()))

    def _finish(self, answer: Answer, model: str, principal: Principal, visit: Visit) -> None:
        """Note how a request ended, now or, if its user has left, when it has."""
        if answer.status is None:
            waiting = asyncio.ensure_future(answer.over.wait())
            self._leaving.add(waiting)
            waiting.add_done_callback(self._leaving.discard)
            waiting.add_done_callback(lambda _: self._note(answer, model, principal))
        else:
            self._note(answer, model, principal)
        visit.noted["outcome"] = "left" if answer.status is None else state.OUTCOMES[answer.status.outcome]
        if answer.status is not None and answer.status.reason:
            visit.noted["reason"] = state.REASONS[answer.status.reason]
        if answer.legs:
            visit.noted["node"] = answer.legs[-1].node

    def _note(self, answer: Answer, model: str, principal: Principal) -> None:
        status, arrive = answer.status, answer.ask.arrive
        if status is None:
            return  # the loop ends
        self.principals.settle(principal, answer.request, status.fee_nlai)
        self.metrics.ended(model, arrive.prompt_tok, arrive.t_ns, self.driver.now_ns(), status)
        legs = orjson.dumps(self.legs(answer)).decode()  # as text, since its bytes have much room to spare
        self.ended[answer.request] = Ended(principal, model, status, legs)
        if len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)

    def legs(self, answer: Answer) -> list[dict[str, Any]]:
        """Which nodes brought which tokens of an answer, and what they signed for them."""
        return [
            {
                "node": leg.node,
                "address": f"0x{self._peers[leg.node].owner.hex()}",
                "from_tok": leg.from_tok,
                "to_tok": leg.to_tok,
                "receipt": None if leg.receipt is None else leg.receipt.signature.hex(),
            }
            for leg in answer.legs
        ]

    def _report(self, asked: Chat | Completion, answer: Answer) -> dict[str, Any]:
        """The answer's `lattice`."""
        price = self.offers.price(answer.legs[-1].node, answer.ask.arrive.model)
        report = {
            "request": answer.request,
            "fee_nlai": answer.ended().fee_nlai,
            "price": None if price is None else {"input": price[0], "output": price[1]},
            "legs": self.legs(answer),
        }
        return report if asked.lattice.history == "off" else {**report, "history": asked.lattice.history}

    @staticmethod
    def _usage(answer: Answer) -> dict[str, int]:
        prompt_tok, output_tok = answer.ask.arrive.prompt_tok, answer.ended().output_tok
        return {"prompt_tokens": prompt_tok, "completion_tokens": output_tok, "total_tokens": prompt_tok + output_tok}


def _lists(nexus: Nexus) -> dict[tuple[bool, tuple[int, ...]], int]:
    """The numbers of the lists of nodes that the kernel knows."""
    rows, nodes = nexus.table("lists")[: nexus.count("lists")], nexus.table("listed")
    return {
        (bool(row["allow"]), tuple(nodes[row["start"] : row["start"] + row["count"]].tolist())): number
        for number, row in enumerate(rows, 1)
    }


def _written(prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
