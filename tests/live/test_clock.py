"""A clock that jumps: the network goes by one that does not. Only what is promised by date, a key's end, follows the date."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from lattice_cli.main import main
from tests.live.networks import Live, live, local

HOUR_S, DAY_S = 3_600.0, 86_400.0
HELLO: Any = [{"role": "user", "content": "hello"}]


class Wall:
    """The machine's time of day, which somebody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        real, real_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead_s)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + round(self.ahead_s * 1e9))


def times_ns(network: Live) -> list[int]:
    """When each event happened."""
    return [json.loads(line)[1] for line in network.lines("journal")[1:]]


def test_nobody_but_a_key_that_ends_by_date_notices_that_the_clock_was_set_back_and_forth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wall = tmp_path / "run", Wall(monkeypatch)
    config = local(live__launch={"laptop": 1}, chain__epoch="2s")
    with live(config, folder, step_ms=20) as network, ThreadPoolExecutor(1) as user:
        began_s = time.monotonic()
        client = network.client()

        def ask(**changes: Any) -> Any:
            return client.chat.completions.create(model="tiny", messages=HELLO, **({"max_tokens": 40} | changes))

        def tokens(stream: Any) -> int:
            return sum(len(chunk.choices) for chunk in stream)

        until_s = round(time.time() + HOUR_S)
        given: Any = client.post("/keys", body={"name": "short", "expires_s": until_s}, cast_to=object)
        guest = network.client(given["key"])
        for ahead_s in (-HOUR_S, DAY_S, 0.0):
            stream = ask(stream=True, max_tokens=60)
            next(stream)
            rest = user.submit(tokens, stream)
            wall.ahead_s = ahead_s
            assert rest.result(30) > 1, "what is under way goes on"
            assert ask().usage.completion_tokens > 0, "and what comes is served"
            if ahead_s > HOUR_S:
                with pytest.raises(openai.AuthenticationError):
                    guest.models.list()
            else:
                guest.models.list()
        happened, epoch = times_ns(network), network.ask(lambda n: n.driver.nexus.count("epoch"))
        took_s = time.monotonic() - began_s
        states = network.ask(lambda n: {name: n.driver.nexus.count(name) for name in ("completed", "failed", "rejected")})
    assert happened == sorted(happened)
    assert happened[-1] < (took_s + 60) * 1e9
    assert epoch <= took_s / 2 + 2
    assert states == {"completed": 6, "failed": 0, "rejected": 0}
    assert main(["replay", str(folder)]) == 0
