"""Nodes that mean harm, before the Nexus: the user still gets the answer, pays for what was proved, and the journal says whose
fault it was."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from lattice_core.chain.typed_data import digest
from lattice_core.events import Fail, Receipt
from lattice_core.replay import replay
from lattice_core.state import BAD_ANSWER, COMPLETED, FAILED, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_live.driver import Answer
from lattice_live.node.identity import check
from lattice_live.node.receipts import TYPE
from lattice_live.upstream import NodeFailure
from tests.live.stage import Actor, Play, Stage, config_of, read, run, stage, truth

CANARY = "canary-9f2c"
FOREVER_S = 60.0

type Act = Callable[[Play], Awaitable[None]]


async def vanish(play: Play) -> None:
    await play.actor.stop()


async def break_off(play: Play) -> None:
    pass


async def stall(play: Play) -> None:
    await asyncio.sleep(FOREVER_S)


async def drip(play: Play) -> None:
    while True:
        await play.send(" ")
        await asyncio.sleep(0.02)


async def fail(play: Play) -> None:
    await play.send({"error": {"code": 500, "message": CANARY}})


def say(*lines: object) -> Act:
    async def act(play: Play) -> None:
        await play.send(*lines)

    return act


def token(token: object) -> Act:
    async def act(play: Play) -> None:
        await play.send({"n": play.book.count + 1, "token": token})

    return act


async def skip_one(play: Play) -> None:
    [*_, line] = [line for line in play.token() if "token" in line]
    await play.send({**line, "n": line["n"] + 1})


async def end_early(play: Play) -> None:
    if play.book.count < play.order["max_tokens"]:
        await play.send(*play.end())
    else:
        await break_off(play)


async def go_on_after_the_end(play: Play) -> None:
    await play.honestly(play.order["max_tokens"])
    await play.send({"n": play.book.count + 1, "token": 1})


async def end_without_a_receipt(play: Play) -> None:
    while play.book.count < play.order["max_tokens"]:
        await play.send(play.token()[0])
    if play.book.count > play.book.receipted:
        await play.send(play.end()[-1])


def receipt(**changes: Any) -> Act:
    """A receipt that says something else, signed as it stands."""

    async def act(play: Play) -> None:
        if play.book.count == play.book.receipted:
            play.token()
        play.book.leg = play.book.leg._replace(**changes)
        await play.send(play.receipt())

    return act


async def receipt_too_much(play: Play) -> None:
    play.token()
    await play.send(play.receipt())


async def receipt_with_another_key(play: Play) -> None:
    line = play.token()[0]
    play.book._key = Actor(9).key
    await play.send(line, play.receipt())


async def receipt_with_a_bit_flipped(play: Play) -> None:
    line = play.token()[0]
    signed = bytearray(play.book.sign(1).signature)
    signed[10] ^= 1
    await play.send(line, {**play.receipt(), "signature": signed.hex()})


async def replay_another_leg(play: Play) -> None:
    await play.send(play.actor.earlier)


async def replay_its_own(play: Play) -> None:
    said = [play.token()[0], play.receipt()]
    await play.send(*said, said[1])


MISDEEDS: dict[str, tuple[Act, set[int]]] = {
    "vanishes": (vanish, {NODE_LOST}),
    "breaks off": (break_off, {NODE_LOST}),
    "stalls": (stall, {NODE_TIMEOUT}),
    "drips": (drip, {NODE_TIMEOUT}),
    "fails": (fail, {NODE_LOST}),
    "says what is no JSON": (say(f"{CANARY}\n"), {BAD_ANSWER}),
    "says what is no text": (say(b"\xff\xfe\xfd\n"), {BAD_ANSWER}),
    "says a line without end": (say(CANARY * 10_000), {BAD_ANSWER}),
    "says what is no line of an answer": (say({"text": CANARY}), {BAD_ANSWER}),
    "sends an id out of the vocabulary": (token(100), {BAD_ANSWER}),
    "sends a negative id": (token(-1), {BAD_ANSWER}),
    "sends text for an id": (token(CANARY), {BAD_ANSWER}),
    "skips a token": (skip_one, {BAD_ANSWER}),
    "ends early": (end_early, {BAD_ANSWER, NODE_LOST}),
    "sends more tokens than asked": (go_on_after_the_end, {BAD_ANSWER}),
    "ends without a receipt": (end_without_a_receipt, {BAD_ANSWER, NODE_LOST}),
    "signs for another leg": (receipt(leg=1 << 40), {BAD_ANSWER}),
    "signs for a longer prompt": (receipt(prompt_tok=10_000), {BAD_ANSWER}),
    "signs for more than it sent": (receipt_too_much, {BAD_ANSWER}),
    "signs with another key": (receipt_with_another_key, {BAD_ANSWER, NODE_LOST}),  # lost, if it is gone before a proof is due
    "signs badly": (receipt_with_a_bit_flipped, {BAD_ANSWER, NODE_LOST}),
    "replays a receipt of another leg": (replay_another_leg, {BAD_ANSWER}),
    "replays a receipt": (replay_its_own, {BAD_ANSWER}),
}


def each_misdeed[Test: Callable[..., None]](test: Test) -> Test:
    """Examples of all of them, each in the middle of an answer."""
    for misdeed in MISDEEDS:
        test = example(misdeed=misdeed, moment=20, prompt=[1, 2], max_tok=40, pause_s=None, alone=True)(test)
    return test


def fee_nlai(scene: Stage, answer: Answer) -> int:
    """What an answer must cost: each node's receipted tokens at its price, and the prompt once, by the first that is paid."""
    prompt_tok, fee = len(answer.ask.prompt), 0
    for leg in answer.legs:
        if leg.receipted_tok:
            offer = scene.nexus.table("offers")[leg.node]
            fee += -(-(int(offer["price_in"]) * prompt_tok + int(offer["price_out"]) * leg.receipted_tok) // 10**6)
            prompt_tok = 0
    return fee


def logged(scenario: Callable[[], Awaitable[None]]) -> str:
    """What is logged while a scenario runs, on the loop of `lattice up`."""
    log = io.StringIO()
    with redirect_stderr(log):
        run(scenario, uvloop.new_event_loop)
    return log.getvalue()


@given(
    misdeed=st.sampled_from(list(MISDEEDS)),
    moment=st.integers(0, 40),
    prompt=st.lists(st.integers(0, 99), min_size=1, max_size=20),
    max_tok=st.integers(1, 40),
    pause_s=st.sampled_from([None, 0.0]),
    alone=st.booleans(),
)
@each_misdeed
def test_whatever_a_node_does_the_answer_is_whole_or_breaks_off_and_costs_what_was_proved(
    misdeed: str, moment: int, prompt: list[int], max_tok: int, pause_s: float | None, alone: bool
) -> None:
    do, reasons = MISDEEDS[misdeed]

    async def act(play: Play) -> None:
        if len(play.actor.plays) == 1:  # an honest leg, whose receipt it keeps
            await play.honestly(2)
            play.actor.earlier = play.receipt()
            await play.send(play.actor.earlier, *play.end())
        else:
            await play.honestly(moment)
            await do(play)

    async def scenario() -> None:
        liar, honest = Actor(0, act), Actor(1)
        liar.pause_s = pause_s
        async with stage(config_of(1 if alone else 2, "300ms", "300ms"), *([liar] if alone else [liar, honest])) as scene:
            first = scene.ask([1], 2)
            assert await read(first) == truth([1], 2)
            answer = scene.ask(prompt, max_tok)
            tokens = await read(answer)
            status = answer.ended()
            [failed] = scene.seen(Fail)
            assert failed.why in reasons
            assert tokens == truth(prompt, len(tokens)), "ids are contiguous and none is repeated"
            if alone and len(tokens) < max_tok:
                assert (status.outcome, status.reason) == (FAILED, failed.why)
            else:
                assert (status.outcome, len(tokens)) == (COMPLETED, max_tok)
            assert status.fee_nlai == fee_nlai(scene, answer)
            paid = [(one.node, one.output_tok) for one in scene.seen(Receipt) if one.request == answer.request]
            assert [one for one in paid if one[1]] == [
                (leg.node, leg.receipted_tok) for leg in answer.legs if leg.receipted_tok
            ]
            proved = [signed.progress.to_tok for signed in scene.storage.receipts if signed.progress.leg == failed.leg]
            assert max(proved, default=0) == sum(leg.receipted_tok for leg in answer.legs if leg.id == failed.leg)
            for signed in scene.storage.receipts:
                actor = scene.actors[signed.progress.node]
                assert actor.terms is not None
                check(digest(actor.terms.domain, TYPE, signed.progress), signed.signature, actor.address)
            account = scene.nexus.table("accounts")[0]
            assert (account["held_nlai"], account["in_flight"]) == (0, 0)
            assert account["debit_nlai"] == first.ended().fee_nlai + status.fee_nlai
        kept = scene.storage
        assert ["Fail", failed.leg, failed.why] in [[name, *rest[1:3]] for name, *rest in map(json.loads, kept.lines[1:])]
        assert replay(kept.lines, kept.decided, scene.nexus.digest().hex(), "journal") is None
        assert CANARY not in "".join((*kept.lines, *kept.decided))

    log = logged(scenario)
    assert "lattice: node 0: " in log
    assert CANARY not in log


def test_a_node_that_lies_about_its_model_is_asked_for_nothing() -> None:
    async def scenario() -> None:
        liar = Actor(0)
        liar.models = {"a": "cd" * 32}
        with pytest.raises(NodeFailure, match="another model, or another variant") as refused:
            async with stage(config_of(1), liar):
                pass
        assert refused.value.why == NODE_REFUSED
        assert not liar.plays

    run(scenario)


def test_a_node_that_comes_back_with_another_model_gets_no_more_prompts() -> None:
    async def scenario() -> None:
        liar, honest = Actor(0), Actor(1)
        async with stage(config_of(2), liar, honest) as scene:
            liar.models = {"a": "cd" * 32}
            liar.joined = False  # as if it had been started again
            assert not await scene.upstream.probe(0)
            answer = scene.ask([1, 2], 5)
            assert await read(answer) == truth([1, 2], 5)
            assert [leg.node for leg in answer.legs] == [1]
            assert not liar.plays
            assert [event.why for event in scene.seen(Fail)] == [NODE_REFUSED]

    run(scenario)


def test_a_node_that_stalls_delays_no_other_request() -> None:
    async def act(play: Play) -> None:
        if play.order["prompt"] == [1]:
            await stall(play)
        await play.honestly()

    async def scenario() -> None:
        async with stage(config_of(1, "2s", "2s"), Actor(0, act)) as scene:
            stalled = scene.ask([1], 10)
            for number in range(2, 20):
                assert await read(scene.ask([number], 10)) == truth([number], 10)
            assert stalled.status is None
            scene.driver.leave(stalled)
            await stalled.over.wait()
            assert stalled.ended().fee_nlai == 0

    run(scenario)
