"""INV-7 under load: what a busy live network recorded gives each of its decisions again."""

import asyncio
import json
import random
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest

from lattice_cli.bench.stubs import Pace, Stubs
from lattice_cli.main import main
from lattice_core.census import nodes
from lattice_core.chain.keys import key_of
from lattice_core.state import COMPLETED
from lattice_live.sqlite import FILE, Reader
from tests.live.kills import held
from tests.live.networks import Live, live, local, tiny

USERS = 64
CONFIG = local(
    nodes__laptop__count=4,
    nodes__laptop__slots=64,
    nodes__laptop__queue=256,
    live__launch={"laptop": 4},
    reputation__probe_interval="500ms",
    routing__newcomer_cap=0,
    users__visitor__budget__deposit=100,
    chain__epoch="2s",
)


@pytest.mark.parametrize("events", [3_000, pytest.param(100_000, marks=pytest.mark.thorough)])
def test_a_journal_recorded_under_load_gives_every_decision_again(tmp_path: Path, events: int) -> None:
    folder, random_ = tmp_path / "run", random.Random(events)

    async def load(network: Live, stubs: Stubs) -> None:
        headers = {"Authorization": f"Bearer {network.key}"}
        enough = False

        async def user(session: aiohttp.ClientSession) -> None:
            while not enough:
                stream, leaves = random_.random() < 0.5, random_.random() < 0.1
                body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
                asked = session.post("/v1/chat/completions", json=body | {"max_tokens": random_.randrange(1, 100)})
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05 if leaves else 60), asked as reply:
                        await reply.read()

        connector = aiohttp.TCPConnector(limit=USERS)
        async with (
            aiohttp.ClientSession(network.url, headers=headers, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(USERS):
                group.create_task(user(session))
            while await asyncio.to_thread(recorded) < events:
                stubs.sent_s.clear()
                await asyncio.sleep(0.5)
            enough = True

    def recorded() -> int:
        with closing(Reader(folder / FILE)) as reader:
            return reader.count("events")

    async def run() -> None:
        stubs = Stubs({"tiny": tiny().manifest.model_hash})
        stubs.pace = Pace(0.02, 0.002)
        try:
            urls = [await stubs.node(key_of(entry.key)) for entry in nodes(CONFIG)]
            network = live(CONFIG, folder, urls=urls)
            seen = await asyncio.to_thread(network.__enter__)
            try:
                await load(seen, stubs)
            finally:
                await asyncio.to_thread(network.__exit__, None, None, None)
        finally:
            stubs.close()

    asyncio.run(run())
    assert recorded() >= events
    assert main(["replay", str(folder)]) == 0
    found = held(folder)
    ends = [status.outcome for status in found.statuses.values()]
    assert 0 < len(ends) - ends.count(COMPLETED) < len(ends) / 2, "most are answered, some users leave"
    assert found.sent == found.settled
    with closing(Reader(folder / FILE)) as reader:
        kinds = {json.loads(line)[0] for line in reader.lines("events", 1)}
    assert kinds >= {"Arrive", "FirstToken", "Progress", "Complete", "CancelRequest", "Probed", "CloseEpoch", "BatchConfirmed"}
