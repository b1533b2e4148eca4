"""What must become of each charge, by its receipt and by what the chain says: settlement told again, in plain sums."""

from collections import Counter
from collections.abc import Sequence

from lattice_core.batch import Chunk
from lattice_core.events import Receipt, VoucherCollected, Withdrawn
from lattice_core.nexus import Nexus
from lattice_core.units import MAX_SUPPLY_NLAI

PURCHASED, FAUCET = "", "faucet_"

type Key = tuple[int, int]
"""(epoch, chunk) of a batch."""


class Books:
    """Charges by (account, node, credit) until they are settled, sums by (account, credit) or (node, credit) from then on."""

    def __init__(self, ring: int, chunk_users: int) -> None:
        self.ring, self.chunk_users = ring, chunk_users
        self.epoch = 0
        self.charged: Counter[tuple[int, int, str]] = Counter()
        self.batches: dict[Key, Counter[tuple[int, int, str]]] = {}
        self.failed: set[Key] = set()
        self.overdue: Counter[tuple[int, str]] = Counter()
        self.spent: Counter[tuple[int, str]] = Counter()
        self.withdrawn: Counter[int] = Counter()
        self.settled: Counter[tuple[int, str]] = Counter()

    def receipt(self, receipt: Receipt) -> None:
        assert receipt.epoch == self.epoch, "a charge belongs to the epoch that is running"
        assert receipt.nlai + receipt.faucet_nlai > 0
        self.charged[receipt.account, receipt.node, PURCHASED] += receipt.nlai
        self.charged[receipt.account, receipt.node, FAUCET] += receipt.faucet_nlai

    def close(self) -> list[Key]:
        """An epoch ends: the keys of the batches that must be sent, in order."""
        for epoch, chunk in list(self.batches):
            if epoch == self.epoch - self.ring:
                self.lapse((epoch, chunk))
        for (account, node, credit), nlai in self.charged.items():
            batch = self.batches.setdefault((self.epoch, account // self.chunk_users), Counter())
            batch[account, node, credit] += nlai
        due = [key for key in self.batches if key[0] == self.epoch or key in self.failed]
        self.charged.clear()
        self.failed.clear()
        self.epoch += 1
        return sorted(due, key=lambda key: (key[1], key[0]))

    def submitted(self, batch: Chunk) -> None:
        """INV-10: a batch claims the receipts of its own epoch, each time that it is sent."""
        owed = self.batches[batch.epoch, batch.chunk]
        columns = (
            (0, batch.users, {PURCHASED: batch.debit_purchased_nlai, FAUCET: batch.debit_faucet_nlai}),
            (1, batch.nodes, {PURCHASED: batch.gross_purchased_nlai, FAUCET: batch.gross_faucet_nlai}),
        )
        for who, ids, amounts in columns:
            claimed: Counter[tuple[int, str]] = Counter()
            for key, nlai in owed.items():
                claimed[key[who], key[2]] += nlai
            assert sorted({id for (id, _), nlai in claimed.items() if nlai}) == ids.tolist()
            for credit, column in amounts.items():
                assert [claimed[id, credit] for id in ids.tolist()] == column.tolist()

    def fail(self, key: Key) -> None:
        if key in self.batches:
            self.failed.add(key)

    def confirm(self, key: Key, skipped: Sequence[int] = ()) -> None:
        batch = self.batches.pop(key, Counter())
        self.failed.discard(key)
        gross: Counter[tuple[int, str]] = Counter()
        claimed: Counter[str] = Counter()
        applied: Counter[str] = Counter()
        for (account, node, credit), nlai in batch.items():
            gross[node, credit] += nlai
            claimed[credit] += nlai
            if account in skipped:
                self.overdue[account, credit] += nlai
            else:
                self.spent[account, credit] += nlai
                applied[credit] += nlai
        for (node, credit), nlai in gross.items():
            self.settled[node, credit] += nlai * applied[credit] // claimed[credit] if claimed[credit] else 0

    def lapse(self, key: Key) -> None:
        self.confirm(key, skipped=[account for account, _, _ in self.batches.get(key, ())])

    def collect(self, event: VoucherCollected, before: Nexus) -> None:
        """`before` is the kernel as it is before the event."""
        accounts, nodes = before.table("accounts"), before.table("nodes")
        sane = 0 <= event.nlai <= MAX_SUPPLY_NLAI and 0 <= event.faucet_nlai <= MAX_SUPPLY_NLAI and event.epoch < self.epoch
        known = 0 <= event.account < len(accounts) and accounts[event.account]["known"]
        if not (sane and known and 0 <= event.node < len(nodes) and nodes[event.node]["key"]):
            return
        self.lapse((event.epoch, event.account // self.chunk_users))
        for credit, nlai in ((PURCHASED, event.nlai), (FAUCET, event.faucet_nlai)):
            late = min(nlai, self.overdue[event.account, credit])
            free = min(nlai - late, int(accounts[event.account][f"{credit}free_nlai"]))
            self.overdue[event.account, credit] -= late
            self.spent[event.account, credit] += late + free
            self.settled[event.node, credit] += late + free

    def withdraw(self, event: Withdrawn, before: Nexus) -> None:
        accounts = before.table("accounts")
        if 0 <= event.nlai <= MAX_SUPPLY_NLAI and 0 <= event.account < len(accounts):
            free = min(event.nlai, int(accounts[event.account]["free_nlai"]))
            late = min(event.nlai - free, self.overdue[event.account, PURCHASED])
            self.overdue[event.account, PURCHASED] -= late
            self.withdrawn[event.account] += free + late

    def check(self, nexus: Nexus) -> None:
        """The kernel's tables say the same."""
        accounts, nodes, batches = nexus.table("accounts"), nexus.table("nodes"), nexus.table("batches")
        for credit in (PURCHASED, FAUCET):
            for place, sums in (("overdue", self.overdue), ("spent", self.spent)):
                assert accounts[f"{credit}{place}_nlai"].tolist() == [sums[i, credit] for i in range(len(accounts))], place
            assert nodes[f"settled_{credit}nlai"].tolist() == [self.settled[i, credit] for i in range(len(nodes))]
            pending = sum(self.batches.values(), Counter())
            for place, owed in (("debit", self.charged), ("unsettled", pending)):
                total: Counter[int] = Counter()
                for (account, _, of), nlai in owed.items():
                    total[account] += nlai if of == credit else 0
                assert accounts[f"{credit}{place}_nlai"].tolist() == [total[i] for i in range(len(accounts))], place
        assert accounts["withdrawn_nlai"].tolist() == [self.withdrawn[i] for i in range(len(accounts))]
        rows = {(int(batches[row]["epoch"]), row // self.ring) for row in batches["pending"].nonzero()[0].tolist()}
        assert rows == set(self.batches)
