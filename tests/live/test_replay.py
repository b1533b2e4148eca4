"""INV-7: a journal's events alone give each decision again, and no longer do once an event or a weight is altered."""

import asyncio
import heapq
import json
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_cli.main import main
from lattice_core.config import parse, revise
from lattice_core.events import (
    AccountOpened,
    Arrive,
    BatchConfirmed,
    Bonded,
    CloseEpoch,
    Complete,
    Deposited,
    Dispatch,
    Fail,
    FirstToken,
    NodeRegistered,
    NodeUp,
    OfferPosted,
    Probe,
    Probed,
    Progress,
    Submit,
    Tick,
)
from lattice_core.journal import JournalError, header_line
from lattice_core.nexus import Nexus
from lattice_core.replay import replay
from lattice_core.state import NODE_LOST
from lattice_core.streams import bits
from lattice_core.units import NANO
from lattice_live.sqlite import FILE, Sqlite
from lattice_sim import LatticeModel
from tests.live.networks import LOCAL

CONFIG = revise(
    parse(LOCAL.read_text(), LOCAL.name),
    {
        "nodes.laptop.count": 6,
        "reputation.probe_interval": "5s",
        "live.launch": {},
        "routing.explore": 0.2,
        "routing.retries": 1,
    },
)
MS = NANO // 1_000


class Played(NamedTuple):
    """What a run wrote, and the digest with which it ended."""

    journal: list[str]
    decisions: list[str]
    digest: str


def play(requests: int = 150) -> Played:
    """Three users and six unequal nodes: answers of many lengths, some that break off, probes, settlements."""
    journal: list[str] = []
    decisions: list[str] = []
    nexus = Nexus(CONFIG, journal.append, decisions.append)
    coming = [
        *(AccountOpened(0, account, 7 + account) for account in range(3)),
        *(Deposited(0, account, 10**6) for account in range(3)),
        *(NodeRegistered(0, node, 70 + node, 0, 0, -1, 2, 2) for node in range(6)),
        *(Bonded(0, node, (100 + 100 * node) * NANO) for node in range(6)),
        *(OfferPosted(0, node, 0, NANO // 10 + node * 10**7, NANO // 5 - node * 10**7) for node in range(6)),
        *(NodeUp(0, node) for node in range(6)),
        *(Arrive(30 * MS * n, n, n % 3, 0, 10 + n % 40, 20 + n % 60) for n in range(1, requests + 1)),
        *(CloseEpoch((1 + epoch) * NANO, epoch) for epoch in range(requests // 30)),
    ]
    queue = [(event.t_ns, n, event) for n, event in enumerate(coming)]
    heapq.heapify(queue)

    def later(event):
        heapq.heappush(queue, (event.t_ns, len(journal) * 1_000 + len(queue), event))

    def answer(t, leg, node, from_tok):
        draw = int(bits(1, 0, leg, node)) % 1_000
        first, step, count = t + (20 + draw % 90) * MS, (1 + node) * MS, 1 + draw % 20
        if draw % 11 == 0:
            later(Fail(first, leg, NODE_LOST))
            return
        later(FirstToken(first, leg))
        later(Progress(first + step * (count // 2), leg, from_tok + count // 2))
        if draw % 13 == 0:
            later(Fail(first + step * count, leg, NODE_LOST, from_tok + count))
        else:
            later(Complete(first + step * count, leg, from_tok + count))

    while queue:
        t, _, event = heapq.heappop(queue)
        timer = nexus.next_timer_ns()
        if timer is not None and timer < t:
            heapq.heappush(queue, (t, _, event))
            t, event = timer, Tick(timer)
        for command in nexus.handle(event):
            if isinstance(command, Dispatch):
                answer(t, command.leg, command.node, command.from_tok)
            elif isinstance(command, Probe):
                later(Probed(t + 5 * MS, command.node, command.serial, True))
            elif isinstance(command, Submit):
                later(BatchConfirmed(t + 200 * MS, command.batch.epoch, command.batch.chunk))
    assert nexus.count("in_flight") == 0
    assert min(nexus.count(end) for end in ("completed", "failed")) > 0
    return Played(journal, decisions, nexus.digest().hex())


RUN = play()


def difference(journal=RUN.journal, decisions=RUN.decisions, digest=RUN.digest):
    return replay(journal, decisions, digest, "journal.jsonl")


def events_of(*kinds):
    """Line numbers of the events of these kinds."""
    names = [json.loads(line)[0] for line in RUN.journal[1:]]
    return [number for number, name in enumerate(names, 1) if name in kinds]


def test_the_events_alone_give_every_decision_again():
    assert len(RUN.decisions) > 300
    assert difference() is None


def test_a_simulated_runs_decisions_are_given_again_too():
    journal: list[str] = []
    decisions: list[str] = []
    model = LatticeModel(LOCAL, journal=journal.append, decisions=decisions.append, **{"chain.epoch": "60s", "sim.epochs": 2})
    while model.running:
        model.step()
    assert decisions
    assert difference(journal, decisions, model.nexus.digest().hex()) is None


ALTERED = {"Arrive": (2, 4, 5), "Complete": (2,), "FirstToken": (0,), "Deposited": (2,), "Fail": (2,), "Bonded": (2,)}
"""What an altered number of an event is sure to change: an account, tokens, a time, an amount, a reason."""


@given(st.data())
def test_altering_one_event_is_a_difference(data):
    number = data.draw(st.sampled_from(events_of(*ALTERED)))
    name, *values = json.loads(RUN.journal[number])
    place = data.draw(st.sampled_from(ALTERED[name]))
    values[place] = (values[place] + 1) % 3 if (name, place) == ("Arrive", 2) else values[place] + 1
    journal = [*RUN.journal[:number], json.dumps([name, *values]) + "\n", *RUN.journal[number + 1 :]]
    found = difference(journal)
    assert found is not None
    assert found.event >= number


@given(st.sampled_from(events_of("Arrive", "Deposited", "Complete", "Fail", "FirstToken", "BatchConfirmed", "CloseEpoch")))
def test_leaving_one_event_out_is_a_difference(number):
    assert difference([*RUN.journal[:number], *RUN.journal[number + 1 :]]) is not None


@pytest.mark.parametrize("weight", ["quality", "reliability", "latency", "price", "bond"])
def test_changing_one_weight_is_a_difference(weight):
    before = getattr(CONFIG.routing.weights, weight)
    changed = revise(CONFIG, {f"routing.weights.{weight}": 4.0 * before})
    found = difference([header_line(changed.canonical()), *RUN.journal[1:]])
    assert found is not None
    assert found.recorded != found.recomputed


@given(st.integers(0, len(RUN.decisions) - 1), st.sampled_from(["altered", "left out", "doubled"]))
def test_a_decision_that_was_altered_is_named_with_its_event(n, how):
    number, name, *values = json.loads(RUN.decisions[n])
    lines = {
        "altered": [json.dumps([number, name, *values[:-1], "x"]) + "\n"],
        "left out": [],
        "doubled": [RUN.decisions[n]] * 2,
    }
    found = difference(decisions=[*RUN.decisions[:n], *lines[how], *RUN.decisions[n + 1 :]])
    assert found is not None
    assert found.event == number


def test_the_last_digest_stands_for_what_no_decision_shows():
    found = difference(digest="00" * 16)
    assert (found.event, found.recorded) == (len(RUN.journal) - 1, f"the digest {'00' * 16}")
    assert difference(digest=None) is None


def test_a_line_without_its_end_was_never_written():
    assert difference([*RUN.journal, '["Tick",1'], [*RUN.decisions, "[1,"]) is None


def revised_header(**fields):
    return json.dumps(json.loads(RUN.journal[0]) | fields) + "\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "line 1: must be a lattice-journal header"),
        ("[]\n", "line 1: must be a lattice-journal header"),
        (revised_header(version=2), "header: version: must be 1, not 2"),
        (revised_header(format="x"), "header: format: must be lattice-journal, not x"),
        (revised_header(rules="x"), "header: rules: must be"),
        (revised_header(schema="x"), "header: schema: must be"),
        (revised_header(config="{}"), "header: config: version: must be 1"),
        (revised_header(config=revise(CONFIG, {"routing.policy": "no_such:policy"}).canonical()), "cannot be loaded"),
    ],
)
def test_a_journal_of_another_kind_is_refused(line, words):
    with pytest.raises(JournalError, match=words):
        difference([line, *RUN.journal[1:]])


@pytest.mark.parametrize(
    "line", ["{}", "[]", '["Nothing",1]', '["Tick"]', '["Tick",1e400]', '["Tick",1.5]', '["Tick",[1]]', '["Tick","x"]', "x"]
)
def test_a_line_that_is_no_event_is_refused_with_its_number(line):
    with pytest.raises(JournalError, match=r"journal\.jsonl: line 4: .* is not an event"):
        difference([*RUN.journal[:3], f"{line}\n", *RUN.journal[4:]])


@pytest.mark.parametrize("line", ["{}\n", "[]\n", "x\n", '["x"]\n'])
def test_a_line_that_is_no_decision_is_refused(line):
    with pytest.raises(JournalError, match="is not a decision"):
        difference(decisions=[line, *RUN.decisions[1:]])


@pytest.fixture
def run(tmp_path):
    (tmp_path / "journal.jsonl").write_text("".join(RUN.journal))
    (tmp_path / "decisions.jsonl").write_text("".join(RUN.decisions))
    (tmp_path / "manifest.json").write_text(json.dumps({"digest": RUN.digest}))
    return tmp_path


def test_the_command_is_silent_about_a_run_that_is_equal(run, capsys):
    assert main(["replay", str(run)]) == 0
    (run / "manifest.json").unlink()  # a network that still runs, or was killed
    assert main(["replay", str(run)]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_command_names_the_first_difference_and_exits_with_1(run, capsys):
    (run / "decisions.jsonl").write_text("".join(RUN.decisions[1:]))
    assert main(["replay", str(run)]) == 1
    number = json.loads(RUN.decisions[0])[0]
    assert f"event {number}: recorded nothing, recomputed {RUN.decisions[0].strip()}" in capsys.readouterr().err


def test_the_command_reads_the_storage_of_a_network_that_has_not_ended(tmp_path, capsys):
    async def write():
        storage = Sqlite(tmp_path / FILE)
        for line in RUN.journal:
            storage.journal(line)
        for line in RUN.decisions:
            storage.decision(line)
        assert main(["replay", str(tmp_path)]) == 2  # nothing is durable yet
        await storage.durable()
        assert main(["replay", str(tmp_path)]) == 0
        await storage.close()

    asyncio.run(write())
    [line] = capsys.readouterr().err.splitlines()
    assert "must be a lattice-journal header" in line
    (tmp_path / "decisions.jsonl").write_text("".join(RUN.decisions[1:]))
    (tmp_path / "journal.jsonl").write_text("".join(RUN.journal))  # of a network that has ended
    assert main(["replay", str(tmp_path)]) == 1


@pytest.mark.parametrize("file", ["journal.jsonl", "decisions.jsonl", "manifest.json"])
def test_the_command_refuses_a_run_that_cannot_be_read_in_one_line(run, file, capsys):
    (run / file).write_bytes(b"\xff\n")
    assert main(["replay", str(run)]) == 2
    assert main(["replay", str(run / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
