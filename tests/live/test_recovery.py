"""INV-7, INV-10, INV-11 across kills: what was announced is there, charged is what was receipted, each epoch settles once."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, contextmanager
from http.client import HTTPException
from urllib.error import HTTPError, URLError

import pytest

from lattice_cli.main import main
from lattice_core.events import Arrive, CloseEpoch, Complete, Dispatch, FirstToken, NodeUp, Progress, Submit
from lattice_core.invariants import check
from lattice_core.service import RECEIPT_TOK
from lattice_core.standing import standing
from lattice_core.state import CLIENT_LEFT, COMPLETED
from lattice_core.units import NANO
from lattice_live.folder import Folder, FolderError
from lattice_live.network import launched
from lattice_live.recovery import Snapshots, find_start, recover
from lattice_live.settlement import Settlement
from lattice_live.sqlite import FILE, Sqlite
from lattice_live.storage import StorageError
from tests.live.kills import Up, held
from tests.live.networks import LOCAL, live, local

CANARY = "Zanzibarwhistle"
ONE_NODE = {"chain__epoch": "1s", "live__launch__laptop": 1}


def wait_until(condition, what, timeout_s=20):
    for _ in range(round(timeout_s / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(what)


def body(max_tokens, **changes):
    messages = [{"role": "user", "content": CANARY}]
    return json.dumps({"model": "tiny", "messages": messages, "max_tokens": max_tokens, **changes}).encode()


def ask(url, key, max_tokens, timeout_s=60, **changes):
    """A reply's bytes, whole."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", body(max_tokens, **changes), headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        return reply.read()


class Users:
    """Some who ask one thing after another until nobody answers. `replies` has, by request, the tokens and the fee of each
    whole reply."""

    def __init__(self) -> None:
        self.replies: dict[int, tuple[int, int]] = {}
        self._asked = 1
        self._lock = threading.Lock()

    @contextmanager
    def asking(self, url, key, users=4):
        threads = [threading.Thread(target=self._ask, args=(url, key)) for _ in range(users)]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join(60)

    def _ask(self, url, key):
        try:
            while True:
                with self._lock:
                    self._asked += 1
                    number = self._asked
                max_tok = 1 + 7 * number % 60
                if number % 2:
                    whole = json.loads(ask(url, key, max_tok))
                else:
                    text = ask(url, key, max_tok, stream=True, stream_options={"include_usage": True}).decode()
                    chunks = [line.removeprefix("data: ") for line in text.splitlines() if line]
                    whole = json.loads(chunks[chunks.index("[DONE]") - 1])
                about = whole["lattice"]
                assert about["request"] not in self.replies
                self.replies[about["request"]] = whole["usage"]["completion_tokens"], about["fee_nlai"]
        except (OSError, HTTPException, ValueError):
            return  # it was killed


def charges_are_receipts(found):
    """Each leg was paid for as many tokens as its last durable receipt says."""
    for leg, paid in found.paid.items():
        assert found.receipts[leg].progress.to_tok == paid.output_tok, (leg, paid)


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.thorough)])
def test_a_nexus_killed_at_any_moment_charges_what_was_receipted_and_settles_each_epoch_once(tmp_path, kills):
    folder, users, random_ = tmp_path / "run", Users(), random.Random(kills)
    key = None
    for kill in range(kills):
        up = Up(LOCAL, folder, "--set", "chain.epoch=1s", "--set", "live.launch.laptop=1", snapshots=(100, 0.2))
        try:
            if key is not None and random_.random() < 0.25:
                time.sleep(2 * random_.random())  # while it starts
                continue
            url = up.wait()
            key = key or up.key
            with users.asking(url, key):
                time.sleep(random_.random() * (3.0 if kill % 3 == 2 else 0.5))  # epochs end in some lives
                up.kill()
        finally:
            up.kill()
        if kills < 10 or kill % 10 == 9:  # what is wrong stays so
            found = held(folder)
            charges_are_receipts(found)
            for request, reply in users.replies.items():  # whoever had an answer was right to believe it
                status = found.statuses[request]
                assert (status.outcome, status.output_tok, status.fee_nlai) == (COMPLETED, *reply)
    assert len(users.replies) > kills
    with live(local(**ONE_NODE), folder) as network:
        network.ask(lambda network: check(network.driver.nexus))
        wait_until(lambda: settled(network), "not everything is settled")
        for account in range(10):
            row, chain = network.account(account), network.on_chain(lambda bridge, a=account: bridge.network.users.account(a))
            assert chain.faucet_nlai == row["granted_nlai"] - row["faucet_spent_nlai"]
            assert chain.purchased_nlai == row["deposited_nlai"] - row["spent_nlai"]
    found = held(folder)
    charges_are_receipts(found)
    assert set(found.statuses) == set(found.arrived)
    assert found.sent == found.settled
    assert len(found.settled) >= kills / 10
    assert main(["replay", str(folder)]) == 0


def settled(network):
    rows = network.ask(lambda network: network.driver.nexus.table("accounts"))
    places = ("debit_nlai", "unsettled_nlai", "overdue_nlai", "held_nlai")
    return not any(rows[f"{kind}{place}"].any() for kind in ("", "faucet_") for place in places)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with live(local(**ONE_NODE), tmp_path_factory.mktemp("recovery") / "run", step_ms=20) as network:
        yield network


@contextmanager
def nothing_durable(network):
    """Nobody can write to the storage meanwhile, though all that was before is there."""
    with closing(sqlite3.connect(network.network.folder.storage, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_reply_and_a_stream_end_only_once_that_is_durable(network):
    ends = {False: [], True: []}
    threads = []
    with nothing_durable(network):
        before = network.ask(lambda network: network.driver.nexus.count("completed"))
        for stream in (False, True):
            task = lambda stream=stream: ends[stream].append(ask(network.url, network.key, 3, stream=stream))  # noqa: E731
            threads.append(threading.Thread(target=task))
            threads[-1].start()
        wait_until(lambda: network.ask(lambda n: n.driver.nexus.count("completed")) == before + 2, "the kernel is not through")
        time.sleep(0.3)
        assert ends == {False: [], True: []}
    for thread in threads:
        thread.join(20)
    assert b"[DONE]" in ends[True][0]
    assert json.loads(ends[False][0])["usage"]["completion_tokens"]


def test_a_batch_goes_to_the_chain_only_once_it_is_durable(network):
    ask(network.url, network.key, 2)

    def on_chain():
        return network.on_chain(lambda bridge: bridge.network.users.account(0).faucet_nlai)

    def closed():
        return network.ask(lambda network: network.driver.nexus.count("epoch"))

    wait_until(lambda: settled(network), "what was before is not settled")
    with nothing_durable(network):
        paid, epoch = on_chain(), closed()
        thread = threading.Thread(target=ask, args=(network.url, network.key, 2))
        thread.start()
        wait_until(lambda: network.account()["faucet_unsettled_nlai"] and closed() > epoch, "the epoch does not end")
        time.sleep(0.3)
        assert on_chain() == paid
    thread.join(20)
    wait_until(lambda: on_chain() < paid and settled(network), "not settled")


def last_progress_tok(network):
    """How many tokens the last event tells of, if it is a Progress; 0 if not."""
    name, *values = json.loads(network.lines("journal")[-1])
    return values[-1] if name == "Progress" else 0


def test_what_was_under_way_is_charged_by_its_last_durable_receipt_and_all_else_is_as_it_was(network, tmp_path, capsys):
    file, folder = tmp_path / "backup", tmp_path / "restored"
    threading.Thread(target=ask, args=(network.url, network.key, 300), kwargs={"seed": 1}, daemon=True).start()
    begun = network.ask(lambda network: network.driver.nexus.count("arrived"))
    wait_until(lambda: last_progress_tok(network) > 2 * RECEIPT_TOK, "no receipts")
    assert main(["backup", str(network.network.folder.path), str(file)]) == 0
    assert main(["restore", str(file), str(folder)]) == 0
    there = held(folder)
    [open_] = set(there.arrived) - set(there.statuses)
    [(leg, upto_tok)] = [(leg, tok) for leg, tok in there.progress.items() if leg not in there.paid]
    assert there.receipts[leg].progress.to_tok == upto_tok > 0
    with live(network.network.config, folder) as again:
        wait_until(lambda: settled(again), "not settled")
        fees_nlai = again.network.fees_nlai
    found = held(folder)
    assert (found.statuses[open_].reason, found.statuses[open_].output_tok) == (CLIENT_LEFT, upto_tok)
    assert found.paid[leg].output_tok == upto_tok
    assert found.paid[leg].nlai + found.paid[leg].faucet_nlai == found.statuses[open_].fee_nlai > 0
    assert fees_nlai[open_] == found.statuses[open_].fee_nlai
    assert {request: found.statuses[request] for request in there.statuses} == there.statuses
    charges_are_receipts(found)
    assert begun <= open_


def test_the_folder_holds_no_prompt_and_no_answer(network):
    reply = ask(network.url, network.key, 60, seed=3)
    answer = json.loads(reply)["choices"][0]["message"]["content"]
    prompt = network.network.texts["tiny"].encode(CANARY)
    words = [CANARY.encode(), answer.encode()[:24], json.dumps(answer[:24])[1:-1].encode(), json.dumps(prompt)[1:-1].encode()]
    files = [path for path in network.network.folder.path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        assert not [word for word in words if word in content], path


def test_a_file_that_is_no_backup_or_a_folder_in_use_is_refused_in_one_line(network, tmp_path, capsys):
    (tmp_path / "text").write_text("no archive")
    folder = str(network.network.folder.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for arguments, words in (
        (["restore", str(tmp_path / "text"), str(tmp_path / "new")], "must be what `lattice backup` has written"),
        (["restore", str(tmp_path / "nowhere"), str(tmp_path / "new")], "No such file"),
        (["restore", str(tmp_path / "text"), str(tmp_path / "full")], "must be an empty folder"),
        (["backup", str(tmp_path / "nowhere"), str(tmp_path / "b")], "must be the file of a live network"),
        (["backup", folder, str(tmp_path / "text")], "exists already"),
        (["up", str(LOCAL), "--set", "live.listen=127.0.0.1:0", "--out", folder], "one process at a time"),
    ):
        assert main(arguments) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]  # the network's own log
        assert words in line
    assert not (tmp_path / "new").exists()


CONFIG = local(**ONE_NODE)


class Stage:
    """A Nexus with its storage and chain, without nodes and without a clock."""

    def __init__(self, folder):
        self.folder = folder

    async def __aenter__(self):
        self.storage = Sqlite(self.folder / FILE)
        self.start = find_start(CONFIG, self.storage.reader)
        live = launched(CONFIG)
        self.settlement = Settlement(live, saved=self.start and self.start.chain)
        try:
            opened = await self.settlement.open()
            self.nexus, self.history, self.recorder, self.unsettled, _ = await recover(
                self.start, CONFIG, live, opened, self.settlement, self.storage
            )
            assert self.start is None or self.settlement._bridge is None, "the chain is not needed yet"
            await self.settlement.catch_up()
        except BaseException:
            await self.__aexit__()
            raise
        self.snapshots = Snapshots(self.nexus, self.history, self.settlement, self.storage, self.recorder)
        return self

    async def __aexit__(self, *_):
        await self.storage.close()
        self.settlement.close()

    def tell(self, event):
        commands = self.nexus.handle(event)
        self.recorder.keep(event, self.settlement)
        self.history.see(event, commands)
        return commands

    def serve(self, t_ns, requests):
        self.tell(NodeUp(t_ns, 0))
        for number in requests:
            for command in self.tell(Arrive(t_ns, number, number % 10, 0, 10, 64)):
                if isinstance(command, Dispatch):
                    self.tell(FirstToken(t_ns, command.leg))
                    self.tell(Progress(t_ns, command.leg, 16))
                    self.tell(Complete(t_ns, command.leg, 20 + number))

    async def close_epoch(self, t_ns):
        for command in self.tell(CloseEpoch(t_ns, self.nexus.count("epoch"))):
            if isinstance(command, Submit):
                outcome = await self.settlement.settle(command.batch, standing(self.nexus, self.nexus.count("now_ns")))
                self.history.settle(outcome.settled, outcome.operations)
                self.tell(outcome.fact._replace(t_ns=t_ns))

    async def state(self):
        """All that it knows, and what the chain has of each user."""
        tables = {name: self.history.records.columns(name) for name in ("epochs", "nodes", "requests", "settlements")}
        rows = {(name, column): values.tolist() for name, columns in tables.items() for column, values in columns.items()}
        users = await self.settlement.read(lambda bridge: [bridge.network.users.account(account) for account in range(10)])
        return self.nexus.snapshot(), rows, users, self.unsettled


async def played(folder):
    """Two epochs that were settled with a snapshot between them, one whose batch was sent and not heard of; its state."""
    async with Stage(folder) as stage:
        stage.serve(1, range(1, 10))
        await stage.close_epoch(NANO)
        assert await stage.snapshots.take()
        stage.serve(NANO + 1, range(10, 20))
        await stage.close_epoch(2 * NANO)
        stage.serve(2 * NANO + 1, range(20, 25))
        stage.unsettled = [
            c.batch for c in stage.tell(CloseEpoch(3 * NANO, stage.nexus.count("epoch"))) if isinstance(c, Submit)
        ]
        assert not await stage.snapshots.take()  # the chain may be ahead of the kernel
        stage.tell(Arrive(3 * NANO + 1, 25, 0, 0, 10, 64))
        return await stage.state()


async def again(folder):
    async with Stage(folder) as stage:
        return await stage.state(), stage.start and stage.start.events


def altered(folder, copy, statement):
    """A copy of the folder in which one statement has changed something."""
    shutil.copytree(folder, copy)
    with closing(sqlite3.connect(copy / FILE)) as connection, connection:
        assert connection.execute(statement).rowcount
    return copy


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    folder = tmp_path_factory.mktemp("past") / "run"
    folder.mkdir()
    return folder, asyncio.run(played(folder))


def test_a_network_goes_on_from_its_snapshot_or_without_it_as_what_it_was(past, tmp_path):
    folder, (kernel, rows, users, unsettled) = past
    damage = "UPDATE pieces SET bytes = zeroblob(9) WHERE part = '{}'"
    parts = {part: altered(folder, tmp_path / part, damage.format(part)) for part in ("kernel", "history", "chain", "about")}
    gone = altered(folder, tmp_path / "gone", "DELETE FROM pieces")
    for copy, snapshot in ((folder, True), (gone, False), *((copy, False) for copy in parts.values())):
        (found_kernel, found_rows, found_users, found_unsettled), start = asyncio.run(again(copy))
        assert (start is not None) == snapshot
        assert found_kernel == kernel
        assert found_rows == rows
        assert found_users == users
        assert [batch.users.tolist() for batch in found_unsettled] == [batch.users.tolist() for batch in unsettled] != []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE events SET line = replace(line, '36]', '37]') WHERE line LIKE '[\"Complete\",%36]_'", "its decision: must be"),
        ("DELETE FROM decisions WHERE number = (SELECT max(number) FROM decisions)", "not nothing"),
        ("INSERT INTO decisions SELECT max(number) + 1, '[1]' FROM decisions", "must be nothing"),
        (
            "UPDATE events SET line = '[\"Tick\"]' || char(10) WHERE number = (SELECT max(number) FROM events)",
            "is not an event",
        ),
        (
            "UPDATE events SET line = replace(line, ',1,', ',2,') WHERE line LIKE '[\"BatchConfirmed\",%'",
            "a batch that was sent",
        ),
        ("UPDATE events SET line = replace(line, '[]', '[3]') WHERE line LIKE '[\"BatchConfirmed\",%'", "must be BatchConf"),
        ("DELETE FROM documents WHERE space = 'batches'", "must have what the chain did"),
        (
            "UPDATE documents SET value = replace(value, '[1,0', '[1,1') WHERE space = 'batches'",
            "what was settled: must be Settlement",
        ),
    ],
)
def test_a_journal_that_does_not_lead_to_what_is_held_is_refused_in_one_line(past, tmp_path, statement, words):
    copy = altered(past[0], tmp_path / "copy", statement)
    with pytest.raises(FolderError, match=words) as refused:
        asyncio.run(again(copy))
    assert "\n" not in str(refused.value)


RESTART = """
import sys
from pathlib import Path
import lattice_cli.main, lattice_live.network, lattice_live.server
from lattice_core.config import parse
from lattice_core.journal import read
from lattice_live.recovery import find_start
from lattice_live.sqlite import Reader

reader = Reader(Path(sys.argv[1]))
header, _ = read(reader.lines("events"), "")
assert find_start(parse(header.config, ""), reader) is not None
print(*sorted({"eth", "matplotlib", "mesa", "pandas", "pyrevm", "simpy", "web3"} & set(sys.modules)))
"""


def test_a_restart_loads_neither_the_chains_machine_nor_what_makes_tables(past):
    command = [sys.executable, "-c", RESTART, str(past[0] / FILE)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []


def test_a_network_killed_while_it_was_founded_is_founded(past, tmp_path):
    for kept in (0, 1, 7):
        copy = altered(past[0], tmp_path / str(kept), f"DELETE FROM events WHERE number >= {kept}")
        for table in ("decisions", "pieces"):
            with closing(sqlite3.connect(copy / FILE)) as connection, connection:
                connection.execute(f"DELETE FROM {table}")
        (kernel, _, users, _), _ = asyncio.run(again(copy))
        if kept == 0:
            founded = kernel, users
        assert (kernel, users) == founded


def test_a_folder_of_another_network_is_refused(past):
    folder = Folder(past[0], CONFIG)
    with pytest.raises(FolderError, match="one process at a time"):
        Folder(past[0], CONFIG)
    folder.close()
    with pytest.raises(FolderError, match="begun with another config"):
        Folder(past[0], local(seed=5))
    Folder(past[0], CONFIG).close()


def test_a_full_disk_ends_the_nexus_and_nobody_is_charged_for_what_was_not_durable(tmp_path):
    folder, seen = tmp_path / "run", []
    with pytest.raises(StorageError, match="database or disk is full"), live(local(**ONE_NODE), folder) as network:  # noqa: PT012
        network.ask(lambda network: network.storage._connection.execute("PRAGMA max_page_count = 1"))  # it gets no larger
        while "gone" not in seen:
            seen.append(outcome(network.url, network.key))
            assert len(seen) < 1_000
        assert network.ask(lambda network: network.storage.broken.done())
    assert set(seen) <= {"answered", "refused", "cut off", "gone"}
    assert seen[seen.count("answered")] != "answered", "whose answer was not durable has none"
    found = held(folder)
    charges_are_receipts(found)
    assert sum(status.outcome == COMPLETED for status in found.statuses.values()) >= seen.count("answered")
    with live(local(**ONE_NODE), folder) as again:  # there is room again
        assert json.loads(ask(again.url, network.key, 5))["usage"]["completion_tokens"]
        wait_until(lambda: settled(again), "not everything is settled")
    found = held(folder)
    charges_are_receipts(found)
    assert (set(found.statuses), found.sent) == (set(found.arrived), found.settled)


def outcome(url, key):
    """What becomes of a request to a Nexus that is about to break."""
    try:
        ask(url, key, 20, timeout_s=10)
    except HTTPError as error:
        return "refused" if error.code == 503 else str(error.code)
    except URLError:
        return "gone"
    except (OSError, HTTPException):
        return "cut off"
    return "answered"
