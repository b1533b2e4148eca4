"""What each Nexus says of the nodes, as it should be kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattice_core.chain.abi import keccak
from tests.chain.machine.shadow import Refused, Shadow, Tx, only_oracle, only_owner, same_length
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

LONGEST_WINDOW_S = 30 * 86_400


@dataclass(slots=True)
class Post:
    """A report: `health` and `reputation` as posted."""

    health: bytes
    reputation: bytes
    root: bytes
    final_at: int
    previous: int
    overruled: bool = False

    @property
    def nodes(self) -> int:
        return len(self.reputation) // 2


class Status(Shadow):
    """`heads` has one more than the epoch of each Nexus's latest report that stands, `written` of its latest report."""

    NAME = "NetworkStatus"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.window = 0
        self.posts: dict[tuple[int, int], Post] = {}
        self.heads: dict[int, int] = {}
        self.written: dict[int, int] = {}

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "ChallengeWindowSet":
                self.window = e["window"]
            case "StatusPosted":
                nexus, epoch = e["nexus"], e["epoch"]
                previous = self.heads.get(nexus, 0)
                self.posts[nexus, epoch] = Post(e["health"], e["reputation"], e["root"], e["finalAt"], previous)
                self.heads[nexus] = self.written[nexus] = epoch + 1
            case "StatusWithdrawn":
                it = self.posts[e["nexus"], e["epoch"]]
                it.overruled = True
                self.heads[e["nexus"]] = it.previous

    def root(self, nexus: int) -> bytes:
        head = self.heads.get(nexus, 0)
        return self.posts[nexus, head - 1].root if head else bytes(32)

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("challengeWindow", (), self.window)
        for nexus in self.heads:
            yield self.view("historyRoot", (nexus,), self.root(nexus))
        for (nexus, epoch), it in list(self.posts.items())[-4:]:
            final = not it.overruled and now_s >= it.final_at
            yield self.view("isFinal", (nexus, epoch), final)
            if it.overruled:
                continue
            for node in range(it.nodes):
                yield self.view("healthy", (nexus, epoch, node), it.health[node // 8] >> 7 - node % 8 & 1)
                if self.written[nexus] == epoch + 1:
                    value = int.from_bytes(it.reputation[2 * node : 2 * node + 2])
                    yield self.view("reputationOf", (nexus, node), value, epoch, final)

    # Rules

    def set_challenge_window(self, tx: Tx, window: int) -> None:
        only_owner(self.model, tx)
        if not 0 < window <= LONGEST_WINDOW_S:
            raise Refused("WindowOutOfRange", window=window, longest=LONGEST_WINDOW_S)
        self.emit(tx, "ChallengeWindowSet", window=window)

    def post(self, tx: Tx, nexus: int, epoch: int, health: bytes, reputation: bytes) -> None:
        only_oracle(self.model, tx, nexus)
        if tx.now_s < self.model.epochs.end_s(epoch):
            raise Refused("EpochNotOver", epoch=epoch, end=self.model.epochs.end_s(epoch))
        head = self.heads.get(nexus, 0)
        if epoch < head:
            raise Refused("EpochOutOfOrder", epoch=epoch, last=head - 1)
        known = len(self.model.nodes.nodes)
        if len(reputation) % 2 or len(reputation) > 2 * known:
            raise Refused("ReputationMalformed", bytesGiven=len(reputation), largest=2 * known)
        same_length(range((len(reputation) // 2 + 7) // 8), health)
        root = keccak(self.root(nexus) + epoch.to_bytes(32) + keccak(health) + keccak(reputation))
        fields = {"nexus": nexus, "epoch": epoch, "health": health, "reputation": reputation, "root": root}
        self.emit(tx, "StatusPosted", **fields, finalAt=tx.now_s + self.window)

    def overrule(self, tx: Tx, nexus: int, epoch: int) -> None:
        only_owner(self.model, tx)
        head = self.heads.get(nexus, 0)
        if not head:
            raise Refused("NothingPosted", nexus=nexus)
        if epoch != head - 1:
            raise Refused("NotLatest", epoch=epoch, last=head - 1)
        it = self.posts[nexus, epoch]
        if tx.now_s >= it.final_at:
            raise Refused("StatusFinal", nexus=nexus, epoch=epoch, since=it.final_at)
        self.emit(tx, "StatusWithdrawn", nexus=nexus, epoch=epoch)
