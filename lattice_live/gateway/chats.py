"""Chats that users have asked the network to keep: documents, of each member his own."""

from collections.abc import Mapping, Sequence
from typing import Any

from lattice_live.gateway.errors import Refusal
from lattice_live.gateway.principals import Principal
from lattice_live.storage import Storage

SPACE = "chats"

MAX_CHATS = 1_000
"""Of a member."""


class Chats:
    """The stored chats, by whom they belong to and their session."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._counts: dict[str, int] = {}  # by member, of those that have been asked for

    def make_room(self, principal: Principal, session: str) -> None:
        """Raises Refusal if the member has as many chats as may be, and this would be another."""
        if self._storage.get(SPACE, self._place(principal, session)) is None and self._count(principal) >= MAX_CHATS:
            message = f"lattice.session: {MAX_CHATS} chats are stored, which is all; forget one, or go on with one"
            raise Refusal(409, "too_many_chats", message, "lattice.session")

    def keep(
        self, principal: Principal, session: str, model: str, messages: Sequence[Mapping[str, str]], answer: str, now_s: int
    ) -> None:
        """The chat as it is now: what was sent of it, and the answer."""
        place = self._place(principal, session)
        held = self._storage.get(SPACE, place)
        count = self._count(principal)
        self._counts[self._place(principal, "")] = count + (held is None)
        self._storage.put(
            SPACE,
            place,
            {
                "model": model,
                "messages": [*messages, {"role": "assistant", "content": answer}],
                "created_s": now_s if held is None else held["created_s"],
                "updated_s": now_s,
            },
        )

    def list(self, principal: Principal) -> list[dict[str, Any]]:
        """The heads of a member's chats, the latest first."""
        prefix = self._place(principal, "")
        heads = [
            {"session": place.removeprefix(prefix), **held, "messages": len(held["messages"])}
            for place, held in self._storage.items(SPACE, prefix).items()
        ]
        return sorted(heads, key=lambda head: (-head["updated_s"], head["session"]))

    def read(self, principal: Principal, session: str) -> dict[str, Any]:
        """A chat. Raises Refusal."""
        return {"session": session, **self._held(principal, session)}

    def forget(self, principal: Principal, session: str) -> None:
        """Raises Refusal if there is none of that name."""
        self._held(principal, session)
        self._counts[self._place(principal, "")] = self._count(principal) - 1
        self._storage.drop(SPACE, self._place(principal, session))

    def _count(self, principal: Principal) -> int:
        prefix = self._place(principal, "")
        if prefix not in self._counts:
            self._counts[prefix] = len(self._storage.items(SPACE, prefix))
        return self._counts[prefix]

    def _held(self, principal: Principal, session: str) -> dict[str, Any]:
        held = self._storage.get(SPACE, self._place(principal, session))
        if held is None:
            raise Refusal(404, "no_such_chat", "no chat is stored under this name")
        return held

    @staticmethod
    def _place(principal: Principal, session: str) -> str:
        return f"{principal.key.organisation}/{principal.key.member}/{session}"
