"""A network that is told to stop lets the streams under way end, and settles what they cost before it goes."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.live.networks import live, local

HELLO: Any = [{"role": "user", "content": "hello"}]


def test_a_stream_under_way_ends_and_is_paid_on_the_chain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as other:
        with live(local(live__launch={"laptop": 1}), tmp_path / "run", step_ms=20) as network:
            stream = network.client().chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=40, stream=True, stream_options={"include_usage": True}
            )
            next(iter(stream))
            rest: Future[list[Any]] = other.submit(list, stream)
            bridge = network.on_chain(lambda bridge: bridge)
            nexus = network.network.driver.nexus
        chunks = rest.result(30)
    assert chunks[-1].usage.completion_tokens > 1
    assert any(choice.finish_reason in ("length", "stop") for chunk in chunks for choice in chunk.choices)
    account = nexus.table("accounts")[0]
    assert account["faucet_spent_nlai"] > 0
    assert account["debit_nlai"] == account["unsettled_nlai"] == account["faucet_unsettled_nlai"] == 0
    on_chain = bridge.network.users.account(0)
    assert (on_chain.purchased_nlai, on_chain.faucet_nlai) == (account["free_nlai"], account["faucet_free_nlai"])
