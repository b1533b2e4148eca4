"""The table of `lattice up`: what each node does, how fast, and what is settled."""

import asyncio
import io
from types import SimpleNamespace

import numpy as np
import pytest

from lattice_cli import table
from lattice_cli.table import Node, Screen, Seen, keep, lines
from lattice_core.events import BatchConfirmed


def seen(time_s: float, tokens: int, settled: int = -1, nodes: int = 2) -> Seen:
    rows = [Node(n, "up", 3 - n, 5, tokens * (n + 1)) for n in range(nodes)]
    return Seen("local", time_s, 4, settled, away=settled == 2, nodes=rows)


def test_speeds_are_those_since_the_last_look() -> None:
    head, columns, first, second = lines(seen(12.0, 30), seen(10.0, 10))
    assert head == "local: epoch 4, 5 in flight, 30.0 tokens/s; nothing is settled yet"
    assert columns.split() == ["node", "state", "in", "flight", "tokens/s", "answers"]
    assert (first.split(), second.split()) == (["0", "up", "3", "10.0", "5"], ["1", "up", "2", "20.0", "5"])
    assert "– tokens/s" in lines(seen(12.0, 30), None)[0]


def test_the_head_says_what_is_settled_and_whether_the_chain_is_away() -> None:
    assert lines(seen(1.0, 1, settled=1), None)[0].endswith("epoch 1 is settled")
    assert lines(seen(1.0, 1, settled=2), None)[0].endswith("epoch 2 is settled; the chain is away")


def test_of_many_nodes_the_busiest_are_shown() -> None:
    rows = lines(seen(1.0, 1, nodes=50), None)
    assert len(rows) == 2 + table.MOST_NODES + 1
    assert rows[-1].strip() == "and 30 more"


def test_a_table_takes_the_place_of_the_one_before_and_what_is_said_stands_above_it() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["a", "b"])
    print("a log line", file=screen)
    screen.draw(["c"])
    screen.draw(["d"])
    assert out.getvalue() == "a\nb\n\x1b[2F\x1b[Ja log line\nc\n\x1b[1F\x1b[Jd\n"


def test_it_follows_a_network_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "EVERY_S", 0.0)
    rows = np.zeros(2, [(name, np.int64) for name in ("key", "status", "in_flight", "legs_done", "output_tok")])
    rows[0]["key"], rows[0]["status"] = 7, 1
    nexus = SimpleNamespace(table=lambda name: rows, count=lambda name: 3)
    driver = SimpleNamespace(nexus=nexus, observers=[])
    network = SimpleNamespace(driver=driver, settlement=SimpleNamespace(away=""), config=SimpleNamespace(name="local"))
    out = io.StringIO()

    async def run() -> None:
        task = asyncio.create_task(keep(network, out))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        driver.observers[0](BatchConfirmed(0, 2, 0), [])
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert "nothing is settled yet" in out.getvalue()
    assert "epoch 2 is settled" in out.getvalue()
    assert driver.observers == []
