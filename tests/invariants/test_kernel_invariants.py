"""Each of the kernel's invariants by its number, on the smallest story that could break it."""

import json
import pickle
import re
from collections.abc import Iterable
from math import inf, isnan, nan

import numpy as np
import pytest

from lattice_core import routing, state
from lattice_core.agenda import times
from lattice_core.events import (
    Arrive,
    Audited,
    BatchConfirmed,
    BatchFailed,
    BatchLapsed,
    CancelRequest,
    CloseEpoch,
    Command,
    Complete,
    Dispatch,
    Event,
    Fail,
    NodesListed,
    NodeUp,
    Probe,
    Probed,
    Proceed,
    Progress,
    Status,
    Submit,
    Tick,
    VoucherCollected,
)
from lattice_core.journal import read
from lattice_core.nexus import MAX_ROWS, Nexus
from lattice_core.routing import SIGNAL_AGE_S
from lattice_core.state import CLUSTER, LOCAL, OFFER_VIEW, REASONS, REQUEST, REQUEST_VIEW, WEIGHTS
from lattice_core.units import NANO, to_nlai
from tests.invariants import checks
from tests.invariants.town import FACTS, Town, config, every_town_is_whole, only

__all__ = ["every_town_is_whole"]

# --- INV-1: money ---


def test_inv_1_a_fee_moves_from_the_payer_to_the_node_and_the_rest_comes_back() -> None:
    town = Town()
    town.user(deposit=1, faucet=0.0001)
    town.node()
    sent = town.sent(prompt=100, most=200)
    checks.money(town.nexus)
    status = town.answer(sent.leg, tokens=150)
    checks.money(town.nexus)
    account = town.row("accounts")
    assert status.fee_nlai == account["debit_nlai"] + account["faucet_debit_nlai"] == town.row("nodes")["gross_nlai"]
    assert account["free_nlai"] + account["faucet_free_nlai"] == to_nlai("1.0001") - status.fee_nlai
    assert account["faucet_debit_nlai"] == to_nlai("0.0001"), "granted credit is spent first"


def test_inv_1_a_batch_with_a_skipped_payer_pays_each_node_its_share_and_leaves_the_rest_to_the_vouchers() -> None:
    town = Town()
    for account in (0, 1, 2):
        town.user(account)
    town.nodes(3)
    fees_nlai = [town.answer(town.sent(account=i % 3).leg, 101 + 7 * i).fee_nlai for i in range(12)]
    town.handle(CloseEpoch(town.t_ns, 0))
    earned = town.rows("nodes")["gross_nlai"].tolist()
    skipped = sum(fees_nlai[1::3])
    applied, claimed = sum(fees_nlai) - skipped, sum(fees_nlai)

    town.handle(BatchConfirmed(town.t_ns, 0, 0, skipped=(1,)))
    checks.money(town.nexus)
    assert town.rows("nodes")["settled_nlai"].tolist() == [gross * applied // claimed for gross in earned]
    assert town.rows("accounts")["overdue_nlai"][:3].tolist() == [0, skipped, 0]
    assert not town.handle(CloseEpoch(town.t_ns, 1)), "it is not sent again"

    for node, nlai in enumerate((1, 2, skipped - 3)):
        town.handle(VoucherCollected(town.t_ns, 0, 1, node, nlai, 0))
    checks.money(town.nexus)
    assert town.rows("accounts")["overdue_nlai"].sum() == 0
    assert 0 <= claimed - town.rows("nodes")["settled_nlai"].sum() < 3, "rounding gives the treasury less than a nanoLAI a node"


# --- INV-2: requests ---


def test_inv_2_each_request_ends_once_and_is_counted_for_its_account_and_node() -> None:
    town = Town({"routing.retries": 0})
    town.user(0)
    town.user(1)
    town.node()
    town.answer(town.sent(account=0).leg, 10)
    town.fail(town.sent(account=1).leg)
    town.ask(account=0, prompt=0)
    town.sent(account=1)
    town.handle(CancelRequest(town.t_ns, town.requests))
    town.sent(account=1)
    checks.requests(town.nexus)
    ends = {name: town.rows("accounts")[name].tolist() for name in ("arrived", "completed", "failed", "rejected", "in_flight")}
    assert {name: counts[:2] for name, counts in ends.items()} == {
        "arrived": [2, 3],
        "completed": [1, 0],
        "failed": [0, 2],
        "rejected": [1, 0],
        "in_flight": [0, 1],
    }
    node = town.row("nodes")
    assert [node[name] for name in ("legs", "legs_done", "legs_lost", "legs_cancelled", "in_flight")] == [4, 1, 1, 1, 1]


# --- INV-3: causality ---


def test_inv_3_what_is_told_late_happens_when_it_is_told() -> None:
    journal: list[str] = []
    town = Town(journal=journal.append)
    town.user()
    town.node()
    town.t_ns = 10 * NANO
    sent = town.sent()
    status = only(Status, town.handle(Complete(3 * NANO, sent.leg, 20)))
    assert status.sent_ns == town.nexus.count("now_ns") == 10 * NANO
    times_ns = [json.loads(line)[1] for line in journal[1:]]
    assert times_ns == sorted(times_ns)
    assert times_ns[-1] == 10 * NANO


def test_inv_3_time_has_an_end_and_the_kernel_outlives_it() -> None:
    town = Town()
    town.user()
    town.node()
    town.t_ns = 2**63 - 1
    sent = town.sent(deadline_ns=2**63 - 1)
    due = [only(Probe, town.handle(Tick(town.t_ns)))]
    assert not town.handle(Tick(town.t_ns)), "no timer has wrapped around into the past"
    assert [probe.node for probe in due] == [0]
    assert town.answer(sent.leg, 10, first_s=0, rest_s=0).fee_nlai > 0
    checks.everything(town.nexus)


# --- INV-4: the oracle boundary ---


def test_inv_4_no_policy_and_no_table_knows_how_long_an_answer_will_be() -> None:
    seen = {name for view in (REQUEST, REQUEST_VIEW, OFFER_VIEW, WEIGHTS) for name in view.names or ()} | set(Arrive._fields)
    tokens = {name for name in seen if "tok" in name and name != "first_token_ns"}
    assert tokens == {"prompt_tok", "unpaid_tok", "max_tok", "from_tok", "expected_tok"}
    assert not [name for name in seen if re.search("output|answer|length|true|future|actual", name)]


def test_inv_4_a_policy_receives_an_offer_a_request_and_weights_and_nothing_else() -> None:
    assert [view.dtype for view in routing.VIEWS] == [OFFER_VIEW, REQUEST_VIEW, WEIGHTS]


def test_inv_4_the_expected_answer_is_the_groups_reference_and_not_the_nodes_answer() -> None:
    towns = [Town(), Town()]
    for town, tokens in zip(towns, (1, 200), strict=True):
        town.user()
        town.nodes(4)
        town.answer(town.sent().leg, tokens, rest_s=0)
    first, second = (town.nexus.explain(1) for town in towns)
    assert first == second


# --- INV-5: determinism ---


def day(town: Town, most: int = 100) -> list[Event]:
    """A day with a bit of everything, as the events that the kernel took."""
    journal: list[str] = []
    town.nexus = Nexus(town.nexus.config, journal.append, town.decisions.append)
    town.user(0)
    town.user(1, deposit=0.01, faucet=0.001, cluster=1)
    town.nodes(6)
    town.node(6, model=FACTS)
    town.node(7, cluster=1, owner=1)
    town.handle(NodesListed(town.t_ns, 1, False, (1, 3)))
    for i in range(40):
        town.wait(7)
        match i % 5:
            case 0:
                town.ask(held=True, max_fee_nlai=to_nlai("0.001"))
                town.ask(model=FACTS, prompt=20, most=30, parent=town.requests)
                for command in town.handle(Proceed(town.t_ns, town.requests - 1, 150)):
                    assert isinstance(command, Dispatch)
            case 1:
                town.ask(account=1, privacy=CLUSTER, cluster=1, most=most)
            case 2:
                sent = town.sent(prefer=i // 5 % 4, nodes=1)
                town.handle(Progress(town.t_ns, sent.leg, 16 * (i % 3)))
                town.fail(sent.leg, sent=i)
            case 3:
                town.answer(town.sent(deadline_ns=town.t_ns + 60 * NANO).leg, 50 + i)
                town.handle(Audited(town.t_ns, i % 8, i % 3 > 0, 1.0))
                town.handle(CancelRequest(town.t_ns, town.requests - 4))
            case 4:
                town.ask(deadline_ns=town.t_ns + NANO)
    town.handle(CloseEpoch(town.t_ns, 0))
    town.handle(BatchConfirmed(town.t_ns, 0, 0, (1,)))
    return list(read(journal, "journal")[1])


@pytest.fixture(scope="module")
def history() -> tuple[Town, list[Event]]:
    town = Town()
    return town, day(town)


def relive(events: Iterable[Event], nexus: Nexus | None = None) -> tuple[bytes, list[Command]]:
    """The digest and decisions of a Nexus, a fresh one unless given, that is told of these events."""
    nexus = nexus or Nexus(config())
    commands = [command for event in events for command in nexus.handle(event)]
    return nexus.digest(), [command for command in commands if not isinstance(command, Submit)]


def test_inv_5_the_same_events_give_the_same_decisions_and_digest(history: tuple[Town, list[Event]]) -> None:
    assert relive(history[1]) == relive(history[1])


def test_inv_5_a_kernel_pickled_on_the_way_goes_on_as_if_nothing_had_happened(history: tuple[Town, list[Event]]) -> None:
    _, events = history
    middle = next(i for i in range(len(events) // 2, len(events)) if isinstance(events[i], Proceed))  # a request is under way
    halves = events[: middle + 1], events[middle + 1 :]
    whole, pickled = Nexus(config()), Nexus(config())
    before = relive(halves[0], whole), relive(halves[0], pickled)
    assert before[0] == before[1]
    assert relive(halves[1], whole) == relive(halves[1], pickle.loads(pickle.dumps(pickled)))


# --- INV-7: replay ---


def test_inv_7_the_journal_alone_gives_the_same_decisions_and_digest(history: tuple[Town, list[Event]]) -> None:
    town, events = history
    decisions: list[str] = []
    again = Nexus(config(), decisions=decisions.append)
    for event in events:
        again.handle(event)
    assert decisions == town.decisions
    assert again.digest() == town.nexus.digest()
    for table in ("accounts", "nodes", "offers", "gross", "unsettled", "unsettled_gross"):
        assert again.table(table).tobytes() == town.nexus.table(table).tobytes()


def test_inv_7_one_altered_event_is_noticed(history: tuple[Town, list[Event]]) -> None:
    town, events = history
    asked = next(i for i, event in enumerate(events) if isinstance(event, Arrive))
    told = next(i for i, event in enumerate(events) if isinstance(event, Complete))
    lost = next(i for i, event in enumerate(events) if isinstance(event, Fail))
    for at, altered in (
        (asked, {"max_tok": 199}),
        (told, {"output_tok": 49}),
        (told, {"t_ns": events[told].t_ns + 1}),
        (lost, {"sent_tok": 100}),
    ):
        events_then = [*events[:at], events[at]._replace(**altered), *events[at + 1 :]]
        assert relive(events_then)[0] != town.nexus.digest(), altered
    assert relive([*events[:told], *events[told + 1 :]])[0] != town.nexus.digest()


def test_inv_7_one_altered_weight_is_noticed(history: tuple[Town, list[Event]]) -> None:
    town, events = history
    digest, _ = relive(events, Nexus(config({"routing.weights.quality": 0.5})))
    assert digest != town.nexus.digest()


def test_inv_7_a_journal_holds_any_event_even_a_weight_that_is_no_number() -> None:
    journal: list[str] = []
    town = Town(journal=journal.append)
    for weight in (nan, inf, 1e300, 1.0):
        town.handle(Audited(town.t_ns, 0, True, weight))
    weights = [event.weight for event in read(journal, "journal")[1] if isinstance(event, Audited)]
    assert isnan(weights[0])
    assert weights[1:] == [inf, 1e300, 1.0]


# --- INV-8: common random numbers ---


def drawn(town: Town, request: int) -> list[int]:
    """The offers that a request's first leg drew, in order."""
    return [factor.offer for factor in town.nexus.explain(request) if factor.leg == 0]


def test_inv_8_another_user_changes_nobodys_draws() -> None:
    changes = {"routing.explore": 0, "routing.newcomer_cap": 0}
    alone, crowded = Town(changes), Town(changes)
    for town in (alone, crowded):
        town.user(0)
        town.nodes(20, slots=100)
    crowded.user(1)
    for _ in range(50):
        alone.ask(account=0)
        crowded.ask(account=1)
        crowded.ask(account=0)
        assert drawn(alone, alone.requests) == drawn(crowded, crowded.requests)


def test_inv_8_one_more_node_moves_only_the_draws_that_it_wins() -> None:
    few, more = Town({"routing.explore": 0}), Town({"routing.explore": 0})
    few.nodes(20, slots=1000)
    more.nodes(21, slots=1000)
    won = 0
    for town in (few, more):
        town.user(0)
    for _ in range(300):
        for town in (few, more):
            town.sent()
            town.handle(CancelRequest(town.t_ns, town.requests))
        before, after = drawn(few, few.requests), drawn(more, more.requests)
        assert before == after or 20 in after
        won += 20 in after
    assert 0.6 * 4 / 21 < won / 300 < 1.5 * 4 / 21


def test_inv_8_one_more_node_changes_no_others_quality_draw_and_no_others_probe_times() -> None:
    few, more = Town({"routing.candidates": 64}), Town({"routing.candidates": 64})
    few.nodes(20)
    more.nodes(21)
    quality, probes = [], []
    for town in (few, more):
        town.user(0)
        town.ask()
        quality.append({factor.node: factor.seen["quality"] for factor in town.nexus.explain(1) if factor.node < 20})
        probes.append(times(town.rows("probe_timers"))[:20].tolist())
    assert len(quality[0]) == len(probes[0]) == 20
    assert quality[0] == quality[1]
    assert probes[0] == probes[1]


# --- INV-10: settlement is idempotent ---


def owing(town: Town) -> Submit:
    """A user has paid for an answer, and the epoch's batch is under way."""
    town.answer(town.sent().leg, 100)
    return only(Submit, town.handle(CloseEpoch(town.t_ns, town.nexus.count("epoch"))))


def test_inv_10_a_batch_that_is_confirmed_again_pays_nobody_again() -> None:
    town = Town()
    town.user()
    town.node()
    first = owing(town).batch
    town.handle(BatchConfirmed(town.t_ns, first.epoch, first.chunk))
    settled, accounts = town.row("nodes")["settled_nlai"], town.rows("accounts")
    assert settled == town.row("nodes")["gross_nlai"] > 0
    town.handle(BatchConfirmed(town.t_ns, first.epoch, first.chunk))
    assert (town.rows("accounts") == accounts).all()

    for epoch in (1, 2):
        town.handle(CloseEpoch(town.t_ns, epoch))
    second = owing(town).batch
    assert second.epoch == first.epoch + 3, "it stands where the first one stood"
    town.handle(BatchConfirmed(town.t_ns, first.epoch, first.chunk))
    town.handle(BatchFailed(town.t_ns, first.epoch, first.chunk))
    assert town.row("nodes")["settled_nlai"] == settled, "the old batch's confirmation says nothing of the new one"
    town.handle(BatchConfirmed(town.t_ns, second.epoch, second.chunk))
    assert town.row("nodes")["settled_nlai"] == town.row("nodes")["gross_nlai"]
    checks.money(town.nexus)


def test_inv_10_a_batch_that_failed_is_sent_again_unchanged_under_its_key_before_that_of_the_epoch() -> None:
    town = Town()
    town.user()
    town.node()
    first = owing(town).batch
    town.handle(BatchFailed(town.t_ns, first.epoch, first.chunk))
    charged = town.answer(town.sent().leg, 50).fee_nlai
    again, second = (submit.batch for submit in town.handle(CloseEpoch(town.t_ns, 1)) if isinstance(submit, Submit))
    assert (again.nexus, again.epoch, again.chunk, again.totals()) == (first.nexus, first.epoch, first.chunk, first.totals())
    assert (second.epoch, sum(second.totals()[0])) == (1, charged)
    assert not town.handle(CloseEpoch(town.t_ns, 2)), "neither has failed since"
    for batch in (second, again):
        town.handle(BatchConfirmed(town.t_ns, batch.epoch, batch.chunk))
    assert town.row("accounts")["spent_nlai"] == town.row("nodes")["gross_nlai"] == town.row("nodes")["settled_nlai"]


def test_inv_10_what_a_batch_skips_or_lets_lapse_is_left_to_the_vouchers_and_no_batch_pays_it() -> None:
    town = Town()
    town.user()
    town.node()
    skipped, lapsed = owing(town).batch, owing(town).batch
    town.handle(BatchConfirmed(town.t_ns, skipped.epoch, skipped.chunk, skipped=(0,)))
    town.handle(BatchLapsed(town.t_ns, lapsed.epoch, lapsed.chunk))
    owed = sum(skipped.totals()[0]) + sum(lapsed.totals()[0])
    assert town.row("accounts")["overdue_nlai"] == town.row("nodes")["gross_nlai"] == owed
    for batch in (skipped, lapsed):
        town.handle(BatchConfirmed(town.t_ns, batch.epoch, batch.chunk))
    assert not town.handle(CloseEpoch(town.t_ns, 2))
    assert town.row("accounts")["spent_nlai"] == town.row("nodes")["settled_nlai"] == 0
    town.handle(VoucherCollected(town.t_ns, skipped.epoch, 0, 0, owed, 0))
    assert town.row("accounts")["spent_nlai"] == town.row("nodes")["settled_nlai"] == owed


def test_inv_10_the_batches_of_the_grace_and_one_more_may_be_pending_and_an_older_one_lapses() -> None:
    town = Town({"chain.grace_epochs": 2})
    town.user()
    town.node()
    batches = [owing(town).batch for _ in range(4)]
    assert [batch.epoch for batch in batches] == [0, 1, 2, 3]
    account = town.row("accounts")
    assert account["overdue_nlai"] == sum(batches[0].totals()[0])
    assert account["unsettled_nlai"] == sum(sum(batch.totals()[0]) for batch in batches[1:])
    ignored = town.nexus.count("ignored")
    for batch in (batches[2], batches[0], batches[3], batches[1]):
        town.handle(BatchConfirmed(town.t_ns, batch.epoch, batch.chunk))
    assert town.nexus.count("ignored") == ignored + 1
    account = town.row("accounts")
    assert (account["unsettled_nlai"], account["overdue_nlai"]) == (0, sum(batches[0].totals()[0]))
    assert account["spent_nlai"] == town.row("nodes")["settled_nlai"]


def test_inv_10_an_epoch_that_pays_by_voucher_pays_by_batch_no_more() -> None:
    town = Town()
    town.user()
    town.node()
    batch = owing(town).batch
    owed = sum(batch.totals()[0])
    town.handle(VoucherCollected(town.t_ns, batch.epoch, 0, 0, owed, 0))
    town.handle(BatchConfirmed(town.t_ns, batch.epoch, batch.chunk))
    account = town.row("accounts")
    assert (account["spent_nlai"], account["overdue_nlai"], account["unsettled_nlai"]) == (owed, 0, 0)
    assert town.row("nodes")["settled_nlai"] == owed


def test_inv_10_a_voucher_for_more_than_is_overdue_takes_what_is_free_and_no_more() -> None:
    town = Town()
    town.user(deposit=0.001)
    town.node()
    batch = owing(town).batch
    town.handle(VoucherCollected(town.t_ns, batch.epoch, 0, 0, NANO, 0))
    account = town.row("accounts")
    assert (account["free_nlai"], account["overdue_nlai"], account["unsettled_nlai"]) == (0, 0, 0)
    assert account["spent_nlai"] == town.row("nodes")["settled_nlai"] == to_nlai("0.001")


def test_inv_10_a_voucher_for_an_epoch_that_is_not_over_or_for_nobody_is_ignored() -> None:
    town = Town()
    town.user()
    town.node()
    owing(town)
    before, ignored = town.rows("accounts"), town.nexus.count("ignored")
    sane = VoucherCollected(town.t_ns, epoch=0, account=0, node=0, nlai=1, faucet_nlai=1)
    for absurd in ({"epoch": 1}, {"account": 1}, {"account": -1}, {"node": 1}, {"node": -1}, {"nlai": -1}, {"faucet_nlai": -1}):
        town.handle(sane._replace(**absurd))
    assert (town.rows("accounts") == before).all()
    assert town.nexus.count("ignored") == ignored + 7


# --- INV-11: receipted tokens only ---


def test_inv_11_a_user_pays_for_receipted_tokens_and_never_more_than_was_reserved() -> None:
    town = Town()
    town.user(deposit=1)
    town.node(price=(0.2, 1))
    sent = town.sent(prompt=100, most=200)
    assert town.row("accounts")["held_nlai"] == sent.quote_nlai == 20_000 + 200_000
    town.handle(Progress(town.t_ns, sent.leg, 48))
    town.handle(Progress(town.t_ns, sent.leg, 32))
    status = only(Status, town.fail(sent.leg))
    assert status.fee_nlai == 20_000 + 48_000, "a receipt is cumulative, and the prompt is paid with the first one"
    assert town.row("accounts")["held_nlai"] == 0
    assert town.row("accounts")["free_nlai"] == NANO - status.fee_nlai
    greedy = town.sent(prompt=100, most=200)
    assert town.answer(greedy.leg, tokens=10**9).fee_nlai == greedy.quote_nlai


def test_inv_11_an_answer_of_several_nodes_pays_each_for_its_own_receipted_tokens_and_the_prompt_once() -> None:
    town = Town({"routing.policy": "round_robin"})
    town.user(deposit=1)
    for node, price in enumerate(((0.2, 1), (0.4, 2), (0.2, 1))):
        town.node(node, price=price)
    first = town.sent(prompt=100, most=200)
    second = only(Dispatch, town.fail(first.leg))
    assert second.quote_nlai == 40_000 + 400_000, "nobody is paid for the prompt yet"
    town.handle(Progress(town.t_ns, second.leg, 32))
    third = only(Dispatch, town.fail(second.leg, sent=40))
    assert third.quote_nlai == 160_000, "the rest of the answer"
    status = town.answer(third.leg, tokens=100)
    checks.money(town.nexus)
    assert [sent.node for sent in (first, second, third)] == [0, 1, 2]
    assert town.rows("nodes")["gross_nlai"][:3].tolist() == [0, 40_000 + 64_000, 60_000]
    assert status.fee_nlai == town.row("accounts")["debit_nlai"] == 40_000 + 64_000 + 60_000
    assert town.row("accounts")["free_nlai"] == NANO - status.fee_nlai


def test_inv_11_an_answer_of_no_token_costs_nothing() -> None:
    town = Town()
    town.user()
    town.node()
    assert town.answer(town.sent().leg, 0).fee_nlai == 0
    assert town.answer(town.sent().leg, -5).fee_nlai == 0


def test_inv_11_what_sub_requests_have_spent_counts_towards_the_cap_of_the_whole() -> None:
    town = Town()
    town.user()
    town.node(0)
    town.node(1, model=FACTS, price=(0.1, 0.1))
    town.ask(prompt=100, most=200, held=True, max_fee_nlai=230_000)
    root = town.requests
    child = town.sent(model=FACTS, prompt=100, most=100, parent=root)
    town.answer(child.leg, 100)
    assert town.row("accounts")["held_nlai"] == 230_000 - 20_000
    refused = only(Status, town.handle(Proceed(town.t_ns, root, 100)))
    assert REASONS[refused.reason] == "price_above_cap"
    assert refused.fee_nlai == 20_000


# --- INV-12: the age of what a policy sees ---


def test_inv_12_every_column_of_an_offer_declares_how_old_it_may_be() -> None:
    assert set(SIGNAL_AGE_S) == set(OFFER_VIEW.names or ())
    assert SIGNAL_AGE_S["quality"] == config().routing.refresh_ns / NANO
    assert SIGNAL_AGE_S["bond"] == config().chain.epoch_ns / NANO


def test_inv_12_quality_is_drawn_once_a_tick_whatever_the_audits_say_meanwhile() -> None:
    town = Town({"routing.refresh": "60s"})
    town.user()
    town.node(slots=100)

    def quality() -> float:
        town.sent()
        return town.nexus.explain(town.requests)[0].seen["quality"]

    town.t_ns = 0
    first = quality()
    for _ in range(20):
        town.handle(Audited(town.t_ns, 0, True))
    town.t_ns = 59 * NANO
    assert quality() == first
    town.t_ns = 60 * NANO
    assert quality() != first


def test_inv_12_all_other_columns_are_as_new_as_the_last_event() -> None:
    town = Town({"routing.newcomer_cap": 0})
    town.user()
    town.node(slots=10)

    def seen() -> dict[str, float]:
        town.sent()
        return town.nexus.explain(town.requests)[0].seen

    before = seen()
    town.answer(1 << 32, 100, first_s=4, rest_s=50)
    after = seen()
    assert after["in_flight"] == before["in_flight"] == 0
    assert seen()["in_flight"] == 1
    assert after["results"] == before["results"] + 1
    assert after["ttft_s"] == pytest.approx(4 - 0.1)
    assert after["itl_s"] == pytest.approx(50 / 99)
    assert after["reliability"] > before["reliability"]
    probe = town.row("nodes")["probe_serial"]
    town.handle(Probed(town.t_ns, 0, int(probe), False))
    commands = town.wait(3600)
    assert {type(command).__name__ for command in commands} >= {"Probe"}
    assert seen()["reliability"] < after["reliability"], "probes that nobody answers count against a node"


# --- INV-13: boundaries ---


def test_inv_13_a_clusters_request_stays_in_the_cluster_and_a_public_one_outside() -> None:
    town = Town()
    town.user(0)
    town.user(1, cluster=1)
    town.node(0)
    town.node(1, cluster=1)
    assert {town.sent(account=1, privacy=CLUSTER, cluster=1).node for _ in range(4)} == {1}
    assert {town.sent(account=1).node for _ in range(4)} == {0}
    assert town.refused(account=0, privacy=CLUSTER, cluster=1) == "boundary"
    assert town.refused(account=0, cluster=1) == "boundary"
    assert town.refused(account=1, cluster=1) == "boundary"
    assert town.refused(account=1, privacy=CLUSTER) == "boundary"


def test_inv_13_a_local_request_runs_on_its_owners_nodes_only() -> None:
    town = Town()
    town.user(0)
    town.user(1)
    town.node(0)
    town.node(1, owner=1)
    town.node(2, owner=0, up=False)
    assert {town.sent(account=1, privacy=LOCAL).node for _ in range(6)} == {1}
    assert town.refused(account=0, privacy=LOCAL) == "boundary", "rather no answer than one from elsewhere"


def test_inv_13_who_is_not_on_the_list_or_on_the_wrong_one_does_not_serve() -> None:
    town = Town()
    town.user()
    town.nodes(4)
    town.handle(NodesListed(town.t_ns, 1, True, (7, 2, 2)))
    town.handle(NodesListed(town.t_ns, 2, False, (2, 0)))
    town.handle(NodesListed(town.t_ns, 3, True, ()))
    assert {town.sent(nodes=1).node for _ in range(5)} == {2}
    assert {town.sent(nodes=2).node for _ in range(8)} == {1, 3}
    assert town.refused(nodes=3) == "not_listed"
    lost = town.sent(nodes=1)
    town.handle(Progress(town.t_ns, lost.leg, 16))
    assert only(Status, town.fail(lost.leg)).output_tok == 16, "rather no answer than one from elsewhere"
    town.node(7)
    assert {town.sent(nodes=1).node for _ in range(6)} >= {7}, "it was listed before it came"
    assert town.refused(nodes=4) == town.refused(nodes=-1) == "bad_request"


def test_inv_13_a_list_that_is_not_the_next_or_names_what_cannot_be_a_node_is_ignored() -> None:
    town = Town()
    before = town.nexus.digest()
    for list, nodes in ((0, ()), (2, ()), (1, (-1,)), (1, (MAX_ROWS,)), (1, (1.0,)), (1, ((),))):
        town.handle(NodesListed(town.t_ns, list, True, nodes))
    assert (town.nexus.digest(), town.nexus.count("lists"), town.nexus.count("ignored")) == (before, 0, 6)
    for list in range(1, 40):
        town.handle(NodesListed(town.t_ns, list, list % 2 == 0, tuple(range(list))))
    assert (town.nexus.count("lists"), town.nexus.count("listed")) == (39, 39 * 20)


def test_inv_13_an_owner_that_no_account_can_be_is_refused() -> None:
    town = Town()
    town.user(0)
    town.node(0, owner=2**32)
    assert town.refused(account=0, privacy=LOCAL) == "no_such_offer"


def test_inv_13_a_part_of_a_private_request_is_no_less_private() -> None:
    town = Town()
    town.user(0, cluster=1)
    town.node(0, cluster=1)
    town.node(1, model=FACTS)
    town.ask(held=True, max_fee_nlai=NANO, privacy=CLUSTER, cluster=1)
    assert town.refused(model=FACTS, prompt=10, most=10, parent=town.requests) == "boundary"


def test_inv_13_every_rejection_has_its_reason() -> None:
    town = Town()
    town.user(0)
    assert town.refused() == "no_such_offer"
    town.node(0, slots=1, queue=0, up=False)
    assert town.refused() == "node_down"
    town.handle(NodeUp(town.t_ns, 0))
    assert town.refused(model=17) == "no_such_offer"
    assert town.refused(most=4096) == "context_too_long"
    assert town.refused(prompt=0) == "bad_request"
    assert town.refused(privacy=7) == "bad_request"
    assert town.refused(held=True) == "bad_request"
    assert town.refused(account=5) == "unknown_account"
    assert town.refused(parent=77) == "unknown_parent"
    assert town.refused(max_fee_nlai=219_999) == "price_above_cap"
    town.sent()
    assert town.refused() == "busy"
    checks.everything(town.nexus)


# --- INV-15: work conservation ---


def test_inv_15_the_kernel_itself_queues_nothing() -> None:
    """Queues stand at the nodes: a request is dispatched, rejected or, if it asked to be, held."""
    town = Town()
    town.user()
    town.node(slots=1, queue=2)
    assert [len(town.ask()) for _ in range(3)] == [1, 1, 1]
    assert town.refused() == "busy"
    rows = town.rows("requests")
    assert not ((rows["state"] == state.HELD) & (rows["id"] != 0)).any()
    assert np.count_nonzero(rows["state"] == state.RUNNING) == 3
