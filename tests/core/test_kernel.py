"""What the kernel does, told as small stories: who serves, who pays, who is left alone and for how long."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lattice_core.events import (
    Audited,
    BatchConfirmed,
    BatchLapsed,
    Cancel,
    CancelRequest,
    CloseEpoch,
    Deposited,
    Dispatch,
    FirstToken,
    NodeDown,
    NodeUp,
    OfferPosted,
    Probe,
    Probed,
    Proceed,
    Progress,
    Status,
    Submit,
    VoucherCollected,
    VoucherPresented,
    WithdrawalRequested,
    Withdrawn,
)
from lattice_core.nexus import Factor, Nexus
from lattice_core.pricing import fee_nlai
from lattice_core.reputation import decay, peak_ewma
from lattice_core.routing import latency_factor
from lattice_core.state import (
    BAD_ANSWER,
    CLOSED,
    CLUSTER,
    HALF_OPEN,
    NODE_LOST,
    NODE_REFUSED,
    OPEN,
    OUTCOMES,
    REASONS,
)
from lattice_core.units import DAY_NS, MAX_PRICE_NLAI, MAX_SUPPLY_NLAI, MAX_TOKENS, NANO, PPM, to_nlai
from tests.invariants.town import CHAT, FACTS, Town, config, every_town_is_whole, only

__all__ = ["every_town_is_whole"]

NEVER_EXPLORE = {"routing.explore": 0}


# --- a request and its parts ---


def test_a_look_up_and_the_chat_that_asked_for_it_share_one_payer_and_one_reservation_and_pay_two_nodes() -> None:
    town = Town()
    town.user(deposit=1)
    town.node(0, price=(0.2, 1))
    town.node(1, model=FACTS, price=(0.1, 0.4))

    assert town.ask(prompt=100, most=200, held=True, max_fee_nlai=to_nlai("0.001")) == []
    root = town.requests
    account = town.row("accounts")
    assert account["held_nlai"] == to_nlai("0.001")

    look_up = town.sent(model=FACTS, prompt=20, most=50, parent=root)
    assert look_up.node == 1
    found = town.answer(look_up.leg, 50)
    assert (OUTCOMES[found.outcome], found.fee_nlai) == ("completed", 2_000 + 20_000)

    chat = only(Dispatch, town.handle(Proceed(town.t_ns, root, prompt_tok=150)))
    assert (chat.request, chat.node, chat.quote_nlai) == (root, 0, 30_000 + 200_000)
    answered = town.answer(chat.leg, 120)
    assert answered.fee_nlai == 22_000 + 30_000 + 120_000

    assert town.rows("nodes")["gross_nlai"].tolist()[:2] == [150_000, 22_000]
    account = town.row("accounts")
    assert account["held_nlai"] == 0
    assert account["free_nlai"] == NANO - answered.fee_nlai
    assert account["arrived"] == account["completed"] == 2


def test_when_the_whole_ends_its_parts_end_with_it_and_are_paid_for_what_they_delivered() -> None:
    town = Town()
    town.user(deposit=1)
    town.node(0)
    town.node(1, model=FACTS, price=(0, 1))
    town.ask(held=True, max_fee_nlai=to_nlai("0.001"))
    root = town.requests
    legs = [town.sent(model=FACTS, prompt=5, most=100, parent=root).leg for _ in range(3)]
    town.handle(Progress(town.t_ns, legs[1], 32))
    ended = town.handle(CancelRequest(town.t_ns, root))
    assert {command.leg for command in ended if isinstance(command, Cancel)} == set(legs)
    statuses = [command for command in ended if isinstance(command, Status)]
    assert [status.request for status in statuses][-1] == root
    assert statuses[-1].fee_nlai == town.row("nodes", 1)["gross_nlai"] == 32_000


def test_a_part_cannot_cost_more_than_the_whole_has_left() -> None:
    town = Town()
    town.user(deposit=1)
    town.node(0, model=FACTS, price=(0, 1))
    town.ask(held=True, max_fee_nlai=150_000)
    root = town.requests
    town.sent(model=FACTS, prompt=1, most=100, parent=root)
    assert town.refused(model=FACTS, prompt=1, most=100, parent=root) == "no_funds"
    town.sent(model=FACTS, prompt=1, most=50, parent=root)


def test_only_an_open_root_of_the_same_account_takes_parts_and_sixteen_at_most() -> None:
    town = Town({"routing.newcomer_cap": 0})
    town.user(0)
    town.user(1)
    town.node(0, model=FACTS, slots=100)
    town.ask(held=True, max_fee_nlai=NANO)
    root = town.requests
    assert town.refused(account=1, model=FACTS, prompt=1, most=1, parent=root) == "unknown_parent"
    part = town.sent(model=FACTS, prompt=1, most=1, parent=root)
    assert town.refused(model=FACTS, prompt=1, most=1, parent=part.request) == "unknown_parent"
    for _ in range(15):
        town.sent(model=FACTS, prompt=1, most=1, parent=root)
    assert town.refused(model=FACTS, prompt=1, most=1, parent=root) == "unknown_parent"
    assert len(town.handle(CancelRequest(town.t_ns, root))) == 2 * 16 + 1
    assert town.refused(model=FACTS, prompt=1, most=1, parent=root) == "unknown_parent"


def test_a_held_request_that_waits_too_long_gives_its_reservation_back() -> None:
    town = Town({"routing.reservation": "15m"})
    town.user(deposit=1)
    town.ask(held=True, max_fee_nlai=NANO)
    assert town.refused() == "no_such_offer"
    assert not town.wait(15 * 60 - 1)
    expired = only(Status, town.wait(1))
    assert REASONS[expired.reason] == "reservation_expired"
    assert town.row("accounts")["free_nlai"] == NANO


# --- money ---


def test_funds_that_run_out_are_a_rejection_with_that_reason_and_a_deposit_cures_it() -> None:
    town = Town()
    town.user(deposit=0, faucet=0.000_25)
    town.node(price=(0.2, 1))
    first = town.sent(prompt=100, most=200)
    assert town.refused(prompt=100, most=200) == "no_funds"
    town.answer(first.leg, 10)
    town.sent(prompt=100, most=199)
    assert town.refused(prompt=100, most=200) == "no_funds"
    town.user(deposit=1)
    town.sent(prompt=100, most=200)


def test_a_price_cap_is_kept_to_the_nanolai() -> None:
    town = Town()
    town.user()
    town.node(price=(0.2, 1))
    assert town.sent(prompt=100, most=200, max_fee_nlai=220_000).quote_nlai == 220_000
    assert town.refused(prompt=100, most=200, max_fee_nlai=219_999) == "price_above_cap"


def test_an_account_has_several_keys_and_one_purse() -> None:
    town = Town()
    town.user(deposit=0.000_3)
    town.node()
    town.sent(principal=1, session=5)
    assert town.refused(principal=2, session=6) == "no_funds"


def test_an_epochs_batch_takes_from_each_payer_and_gives_to_each_node_what_was_charged() -> None:
    town = Town({"chain.chunk_users": 2, "routing.policy": "random"})
    for account in range(3):
        town.user(account, deposit=1, faucet=0.0001)
    town.nodes(2)
    fees = Counter[int]()
    for i in range(12):
        fees[i % 3] += town.answer(town.sent(account=i % 3).leg, 50 + i).fee_nlai
    batches = [command.batch for command in town.handle(CloseEpoch(town.t_ns, 0)) if isinstance(command, Submit)]
    assert [(batch.epoch, batch.chunk, batch.users.tolist()) for batch in batches] == [(0, 0, [0, 1]), (0, 1, [2])]
    for batch in batches:
        debits, grosses = batch.totals()
        assert debits == grosses
        assert sum(debits) == sum(fees[user] for user in batch.users.tolist())
        assert debits.faucet_nlai == 100_000 * len(batch.users)
        town.handle(BatchConfirmed(town.t_ns, batch.epoch, batch.chunk))
    nodes = town.rows("nodes")
    assert (nodes["settled_nlai"] + nodes["settled_faucet_nlai"] == nodes["gross_nlai"]).all()
    assert town.handle(CloseEpoch(town.t_ns, 1)) == [], "nothing is owed, so nothing is sent"


def test_what_a_user_is_withdrawing_is_reserved_no_more_and_what_was_reserved_before_stays_reserved() -> None:
    town = Town()
    town.user(deposit=0.001, faucet=0.0001)
    town.node(price=(0.2, 1))
    open_one = town.sent(prompt=100, most=200)
    assert town.row("accounts")["held_nlai"] == 120_000, "faucet credit goes first, and nobody can withdraw that"
    town.handle(WithdrawalRequested(town.t_ns, 0, 770_000))
    town.sent(prompt=100, most=90)
    assert town.refused(prompt=100, most=100) == "no_funds"
    assert town.refused(held=True, max_fee_nlai=1) == "no_funds"
    assert town.answer(open_one.leg, 200).fee_nlai == 220_000
    town.handle(WithdrawalRequested(town.t_ns, 0, 0))
    town.sent(prompt=100, most=100)


def test_what_a_voucher_waits_for_is_reserved_no_more_until_it_is_collected() -> None:
    town = Town()
    town.user(deposit=0.001, faucet=0.0001)
    town.node(price=(0, 1))
    town.handle(VoucherPresented(town.t_ns, 0, 1_000_000))
    assert town.refused(most=101) == "no_funds"
    open_one = town.sent(most=100)
    account = town.row("accounts")
    held = account["held_nlai"], account["faucet_held_nlai"]
    assert held == (100_000, 0), "the chain pays vouchers from faucet credit first"
    town.answer(open_one.leg, 100)
    town.handle(CloseEpoch(town.t_ns, 0))
    town.handle(BatchConfirmed(town.t_ns, 0, 0))
    town.handle(VoucherCollected(town.t_ns, 0, 0, 0, 500_000, 100_000))
    account = town.row("accounts")
    assert (account["promised_nlai"], account["free_nlai"], account["faucet_free_nlai"]) == (400_000, 400_000, 0)
    assert town.refused(most=1) == "no_funds", "what was promised and not paid stays promised"
    town.handle(Deposited(town.t_ns, 0, 100_000))
    town.sent(most=100)


def test_a_withdrawal_takes_what_is_free_and_then_what_nobody_has_collected() -> None:
    town = Town()
    town.user(deposit=0.001)
    town.node(price=(0, 1))
    town.answer(town.sent(most=100).leg, 100)
    town.handle(WithdrawalRequested(town.t_ns, 0, NANO))
    town.handle(CloseEpoch(town.t_ns, 0))
    town.handle(Withdrawn(town.t_ns, 0, 400_000))
    account = town.row("accounts")
    assert (account["free_nlai"], account["withdrawn_nlai"], account["withdrawing_nlai"]) == (500_000, 400_000, 0)
    town.handle(BatchLapsed(town.t_ns, 0, 0))
    town.handle(VoucherCollected(town.t_ns, 0, 0, 0, 30_000, 0))
    town.handle(Withdrawn(town.t_ns, 0, 560_000))
    account = town.row("accounts")
    assert (account["free_nlai"], account["overdue_nlai"], account["spent_nlai"]) == (0, 10_000, 30_000)
    town.handle(Withdrawn(town.t_ns, 0, NANO))
    assert town.row("accounts")["withdrawn_nlai"] == 1_000_000 - 30_000, "there was no more"


@pytest.mark.parametrize("nlai", [-1, MAX_SUPPLY_NLAI + 1])
def test_a_withdrawal_of_an_impossible_amount_or_by_nobody_is_ignored(nlai: int) -> None:
    town = Town()
    town.user()
    before, ignored = town.rows("accounts"), town.nexus.count("ignored")
    for account, amount in ((0, nlai), (1, 5), (-1, 5)):
        town.handle(WithdrawalRequested(town.t_ns, account, amount))
        town.handle(Withdrawn(town.t_ns, account, amount))
    assert (town.rows("accounts") == before).all()
    assert town.nexus.count("ignored") == ignored + 6


# --- time ---


def test_a_deadline_ends_a_request_and_the_node_is_told() -> None:
    town = Town()
    town.user()
    town.node()
    sent = town.sent(deadline_ns=town.t_ns + 5 * NANO)
    town.handle(Progress(town.t_ns, sent.leg, 16))
    assert not town.wait(4.999)
    ended = town.wait(0.001)
    assert only(Cancel, ended).leg == sent.leg
    assert REASONS[only(Status, ended).reason] == "deadline"
    assert only(Status, ended).fee_nlai == 20_000 + 16_000
    assert town.refused(deadline_ns=town.t_ns) == "deadline"


def test_an_answer_in_time_leaves_no_timer_behind() -> None:
    town = Town()
    town.user()
    town.node()
    probe_ns = town.nexus.next_timer_ns()
    sent = town.sent(deadline_ns=town.t_ns + NANO)
    assert town.nexus.next_timer_ns() == NANO
    town.answer(sent.leg, 10, first_s=0.1, rest_s=0.1)
    assert town.nexus.next_timer_ns() == probe_ns


# --- attempts ---


def test_a_request_is_tried_again_elsewhere_before_its_first_token() -> None:
    town = Town({"routing.retries": 2, "routing.policy": "random"})
    town.user()
    town.nodes(4)
    nodes = [town.sent()]
    for _ in range(2):
        nodes.append(only(Dispatch, town.fail(nodes[-1].leg, NODE_REFUSED)))
        assert nodes[-1].node != nodes[-2].node
        assert nodes[-1].request == nodes[0].request
    status = only(Status, town.fail(nodes[-1].leg, NODE_LOST))
    assert (OUTCOMES[status.outcome], REASONS[status.reason], status.fee_nlai) == ("failed", "node_lost", 0)


def test_after_the_first_token_another_node_goes_on_behind_what_has_reached_the_user() -> None:
    town = Town()
    town.user()
    town.nodes(4)
    first = town.sent(prompt=100, most=200)
    town.t_ns += NANO
    town.handle(FirstToken(town.t_ns, first.leg))
    town.handle(Progress(town.t_ns, first.leg, 16))
    second = only(Dispatch, town.fail(first.leg, BAD_ANSWER, sent=21))
    assert second.node != first.node
    assert (second.request, second.from_tok, second.quote_nlai) == (first.request, 21, 179_000), "the prompt is paid"
    third = only(Dispatch, town.fail(second.leg, NODE_REFUSED, sent=3))
    assert third.from_tok == 21, "what has reached the user does not go back"
    town.t_ns += NANO
    status = town.answer(third.leg, 50)
    assert (OUTCOMES[status.outcome], status.node, status.output_tok) == ("completed", third.node, 50)
    assert status.fee_nlai == 20_000 + 16_000 + 29_000, "of what was sent and not receipted, nothing"
    assert (status.sent_ns, status.first_token_ns) == (0, NANO), "the user has waited for the first node"
    assert town.rows("nodes")["output_tok"].sum() == 16 + 29


def test_an_answer_that_has_reached_the_user_as_far_as_it_may_go_is_complete_whatever_its_node_does() -> None:
    town = Town()
    town.user()
    town.nodes(4)
    sent = town.sent(prompt=100, most=200)
    town.handle(Progress(town.t_ns, sent.leg, 192))
    status = only(Status, town.fail(sent.leg, sent=10**9))
    assert (OUTCOMES[status.outcome], REASONS[status.reason], status.output_tok) == ("completed", "", 200)
    assert status.fee_nlai == 20_000 + 192_000
    assert town.rows("nodes")["legs_lost"].sum() == 1


@pytest.mark.parametrize(("progress", "sent"), [([16], 0), ([], 7)], ids=["receipted", "only sent"])
def test_without_resume_a_failure_after_the_first_token_is_final_and_what_was_receipted_is_paid(
    progress: list[int], sent: int
) -> None:
    town = Town({"routing.resume": False})
    town.user()
    town.nodes(4)
    leg = town.sent(prompt=100).leg
    for upto_tok in progress:
        town.handle(Progress(town.t_ns, leg, upto_tok))
    status = only(Status, town.fail(leg, BAD_ANSWER, sent))
    assert (REASONS[status.reason], status.output_tok) == ("bad_answer", max(*progress, sent, 0))
    assert status.fee_nlai == (36_000 if progress else 0)


def test_failures_count_before_and_after_the_first_token_alike() -> None:
    town = Town({"routing.retries": 2, "routing.policy": "random"})
    town.user()
    town.nodes(6)
    leg = town.sent(prompt=100, most=200).leg
    for upto_tok in (0, 32):
        town.handle(Progress(town.t_ns, leg, upto_tok))
        leg = only(Dispatch, town.fail(leg)).leg
    town.handle(Progress(town.t_ns, leg, 48))
    status = only(Status, town.fail(leg))
    assert (OUTCOMES[status.outcome], REASONS[status.reason]) == ("failed", "node_lost")
    assert (status.output_tok, status.fee_nlai) == (48, 20_000 + 48_000)


def test_whoever_goes_on_with_an_answer_is_chosen_by_what_it_must_read_and_may_still_write() -> None:
    towns = [Town({"routing.policy": "argmax"}) for _ in range(2)]
    for town in towns:
        town.user()
        town.nodes(3)
    resumed, long = towns
    leg = resumed.sent(prompt=100, most=1000).leg
    resumed.handle(Progress(resumed.t_ns, leg, 900))
    second = only(Dispatch, resumed.fail(leg))
    long.ask(prompt=1000, most=100)
    behind = {factor.node: factor.seen for factor in resumed.nexus.explain(1) if factor.leg == 1 and factor.seen}
    afresh = {factor.node: factor.seen for factor in long.nexus.explain(1)}
    assert second.node in behind
    for node, seen in behind.items():
        assert seen["eta_s"] == afresh[node]["eta_s"]
    resumed.handle(FirstToken(resumed.t_ns + 2 * NANO, second.leg))
    offers = resumed.rows("offers")
    assert offers["ttft_s"][second.offer] == pytest.approx(1.0), "2 s, less a second for 1,000 tokens"


def test_a_part_of_a_request_goes_on_elsewhere_within_the_reservation_of_the_whole() -> None:
    town = Town()
    town.user()
    town.node(0)
    for node in (1, 2):
        town.node(node, model=FACTS, price=(0.1, 0.1))
    town.ask(prompt=100, most=200, held=True, max_fee_nlai=230_000)
    root = town.requests
    part = town.sent(model=FACTS, prompt=50, most=60, parent=root)
    town.handle(Progress(town.t_ns, part.leg, 20))
    rest = only(Dispatch, town.fail(part.leg))
    assert (rest.from_tok, rest.quote_nlai) == (20, 4_000)
    assert town.answer(rest.leg, 30).fee_nlai == 5_000 + 3_000
    assert town.row("accounts")["held_nlai"] == 230_000 - 8_000
    assert only(Status, town.handle(CancelRequest(town.t_ns, root))).fee_nlai == 8_000


def test_a_failed_request_that_nobody_else_may_serve_says_how_it_failed() -> None:
    town = Town()
    town.user()
    town.node()
    status = only(Status, town.fail(town.sent().leg))
    assert (OUTCOMES[status.outcome], REASONS[status.reason]) == ("failed", "node_lost")


def test_what_is_said_twice_or_of_nobody_changes_nothing() -> None:
    town = Town()
    town.user()
    town.node()
    sent = town.sent()
    again = town.nexus.table("requests").tobytes()
    town.requests -= 1
    assert town.ask() == [], "a request's id is used once"
    assert town.nexus.table("requests").tobytes() == again
    town.answer(sent.leg, 10)
    before = town.nexus.digest(), town.rows("accounts").tobytes(), town.rows("nodes").tobytes()
    ignored = town.nexus.count("ignored")
    for leg in (sent.leg, 0, -1, sent.leg + 1, sent.leg + (1 << 32), 2**63 - 1, -(2**63)):
        assert town.handle(FirstToken(town.t_ns, leg)) == town.handle(Progress(town.t_ns, leg, 5)) == town.fail(leg) == []
    assert (town.nexus.digest(), town.rows("accounts").tobytes(), town.rows("nodes").tobytes()) == before
    assert town.nexus.count("ignored") == ignored + 21


def test_a_client_can_still_leave_after_its_request_was_sent_twice() -> None:
    town = Town()
    town.user()
    town.node()
    town.sent()
    town.requests -= 1
    town.ask()
    assert REASONS[only(Status, town.handle(CancelRequest(town.t_ns, town.requests))).reason] == "client_left"


# --- the breaker ---


def breaker(town: Town, node: int = 0) -> int:
    return int(town.row("nodes", node)["breaker"])


def lose(town: Town, times: int) -> None:
    """The only node fails this often in a row."""
    for _ in range(times):
        town.fail(town.sent().leg)


def test_five_failures_in_a_row_open_the_breaker_for_thirty_seconds_and_two_successes_close_it() -> None:
    town = Town({"routing.retries": 0})
    town.user()
    town.node()
    lose(town, 4)
    town.answer(town.sent().leg, 5)
    lose(town, 4)
    assert breaker(town) == CLOSED, "a success in between starts the count again"
    lose(town, 1)
    assert breaker(town) == OPEN
    assert town.refused() == "breaker_open"

    assert not [command for command in town.wait(29.999) if not isinstance(command, Probe)]
    assert breaker(town) == OPEN
    probe = only(Probe, town.wait(0.001))
    assert breaker(town) == HALF_OPEN

    probe = only(Probe, town.handle(Probed(town.t_ns, probe.node, probe.serial, True)))
    assert breaker(town) == HALF_OPEN
    town.handle(Probed(town.t_ns, probe.node, probe.serial, True))
    assert breaker(town) == CLOSED
    town.sent()


def test_a_half_open_node_gets_one_request_at_a_time_and_one_failure_opens_it_again() -> None:
    town = Town({"routing.retries": 0})
    town.user()
    town.node(slots=4)
    lose(town, 5)
    town.wait(30)
    only_one = town.sent()
    assert town.refused() == "breaker_open"
    town.fail(only_one.leg)
    assert breaker(town) == OPEN
    town.wait(30)
    town.answer(town.sent().leg, 5)
    assert breaker(town) == HALF_OPEN
    town.answer(town.sent().leg, 5)
    assert breaker(town) == CLOSED


@pytest.mark.parametrize(("nodes", "most"), [(3, 1), (10, 1), (20, 2)])
def test_however_many_fail_at_most_a_tenth_of_a_group_is_ejected_and_one_node_may_be(nodes: int, most: int) -> None:
    town = Town({"routing.retries": 0, "routing.policy": "random", "routing.breaker.open": "1h"})
    town.user()
    town.nodes(nodes)
    for _ in range(12 * nodes):
        town.fail(town.sent().leg)
        assert (town.rows("nodes")["breaker"] != CLOSED).sum() <= most
    assert (town.rows("nodes")["breaker"] == OPEN).sum() == most


def test_an_ejected_node_that_leaves_makes_room_for_another() -> None:
    town = Town({"routing.retries": 0, "routing.policy": "random"})
    town.user()
    town.nodes(2)
    while not (ejected := (town.rows("nodes")["breaker"] == OPEN).nonzero()[0].tolist()):
        town.fail(town.sent().leg)
    town.handle(NodeDown(town.t_ns, ejected[0]))
    while breaker(town, 1 - ejected[0]) == CLOSED:
        town.fail(town.sent().leg)


def test_a_node_that_answers_no_probe_leaves_routing_and_returns_when_it_answers() -> None:
    town = Town({"reputation.probe_interval": "10s", "routing.breaker.open": "30s"})
    town.user()
    town.nodes(2)
    silent = 1

    def ten_minutes(answers: bool) -> set[int]:
        """The nodes that were sent requests; `silent` answers probes or not."""
        served = set()
        for _ in range(600):
            probes = town.wait(1)
            while probes:
                probe = probes.pop()
                assert isinstance(probe, Probe)
                if answers or probe.node != silent:
                    probes += town.handle(Probed(town.t_ns, probe.node, probe.serial, True))
            served.add(town.sent().node)
            town.handle(CancelRequest(town.t_ns, town.requests))
        return served

    ten_minutes(answers=False)
    assert ten_minutes(answers=False) == {0}
    assert ten_minutes(answers=True) == {0, 1}
    assert breaker(town, silent) == CLOSED
    assert town.row("nodes", silent)["probes_ok"] < town.row("nodes", silent)["probes"]


def test_strangers_find_room_beside_the_nodes_of_the_config_and_may_leave_and_come_back() -> None:
    """Of either model, in a cluster or outside, while requests are under way: each group serves with whoever is there."""
    town = Town({"routing.policy": "round_robin"})
    town.user()
    town.user(1, cluster=1)
    town.node()
    under_way = town.sent(nodes=0)
    for node in range(1, 61):
        town.node(node, model=FACTS if node % 3 == 0 else CHAT, cluster=int(node % 3 == 2))
    groups = {"chat": {0, *range(1, 61, 3)}, "facts": {*range(3, 61, 3)}, "clinic": {*range(2, 61, 3)}}
    asked = {
        "chat": {},
        "facts": {"model": FACTS, "prompt": 20, "most": 30},
        "clinic": {"account": 1, "privacy": CLUSTER, "cluster": 1},
    }

    def everyone_but(gone: set[int]) -> None:
        for group, nodes in groups.items():
            sent = [town.sent(**asked[group]) for _ in nodes - gone]
            assert {one.node for one in sent} == nodes - gone
            for one in sent:
                town.answer(one.leg, 10, first_s=0, rest_s=0)

    town.answer(under_way.leg, 10, first_s=0, rest_s=0)
    everyone_but(set())
    gone = {*range(1, 61, 7)}
    for node in gone:
        town.handle(NodeDown(town.t_ns, node))
    everyone_but(gone)
    for node in gone:
        town.handle(NodeUp(town.t_ns, node))
    everyone_but(set())


def test_a_node_that_goes_finishes_what_it_has_and_takes_no_more() -> None:
    town = Town()
    town.user()
    town.node()
    sent = town.sent()
    town.handle(NodeDown(town.t_ns, 0))
    assert town.refused() == "node_down"
    assert OUTCOMES[town.answer(sent.leg, 10).outcome] == "completed"
    assert town.row("nodes")["status"] == 0
    town.handle(NodeUp(town.t_ns, 0))
    town.sent()


# --- who is chosen ---


def sample(town: Town, requests: int) -> Counter[int]:
    """Which nodes are chosen for requests that leave at once."""
    chosen: Counter[int] = Counter()
    for _ in range(requests):
        chosen[town.sent().node] += 1
        town.handle(CancelRequest(town.t_ns, town.requests))
    return chosen


def test_random_chooses_each_node_as_often() -> None:
    town = Town({"routing.policy": "random"})
    town.user()
    town.nodes(10)
    chosen = sample(town, 1000)
    assert sum((count - 100) ** 2 / 100 for count in chosen.values()) < 27.9, "χ² with 9 degrees of freedom, p = 0.001"


def test_random_goes_on_to_any_node_with_room_when_its_draw_has_none() -> None:
    town = Town({"routing.policy": "random"})
    town.user()
    town.nodes(8, slots=1, queue=0)
    assert sorted(town.sent().node for _ in range(8)) == list(range(8))
    assert town.refused() == "busy"


def test_power_of_two_takes_the_less_loaded_of_the_two_it_draws() -> None:
    town = Town({"routing.policy": "power_of_two", "routing.newcomer_cap": 0})
    town.user()
    town.nodes(6, slots=2, queue=20)
    decided = 0
    for _ in range(60):
        town.sent()
        first, second = town.nexus.explain(town.requests)
        loads = first.seen["load"], second.seen["load"]
        assert first.node != second.node
        assert first.chosen == (loads[0] <= loads[1])
        assert loads == (first.seen["in_flight"] / 2 + 0.5, second.seen["in_flight"] / 2 + 0.5)
        decided += loads[0] != loads[1]
    assert decided > 10
    assert town.rows("nodes")["in_flight"][:6].tolist() == pytest.approx([10] * 6, abs=2)


@pytest.mark.parametrize(
    ("better", "worse"),
    [({"price": (0.1, 0.5)}, {"price": (0.4, 2)}), ({"slots": 8}, {"slots": 1}), ({"bond": 2000}, {"bond": 101})],
)
def test_score_sampled_prefers_the_cheaper_the_freer_and_the_better_bonded(better: dict, worse: dict) -> None:
    town = Town(NEVER_EXPLORE | {"reputation.history": 1e6})
    town.user()
    for node in range(12):
        town.node(node, **(better if node % 2 else worse))
    chosen = sample(town, 200)
    assert sum(count for node, count in chosen.items() if node % 2) > 170


def test_score_sampled_prefers_the_audited_and_the_reliable() -> None:
    town = Town(NEVER_EXPLORE | {"routing.retries": 0})
    town.user()
    town.nodes(6)
    for node in (1, 3, 5):
        for _ in range(60):
            town.handle(Audited(town.t_ns, node, True))
    town.wait(60)
    assert sum(count for node, count in sample(town, 100).items() if node % 2) > 85


def test_a_users_own_policy_is_used_by_module_and_name_and_drops_what_it_cannot_score() -> None:
    town = Town({"routing.policy": "tests.core.own_policy:dearest"})
    town.user(deposit=1)
    for node, price in enumerate((1, 3, 2, 9)):
        town.node(node, price=(0, price))
    assert town.sent(most=200).node == 1
    dropped = {factor.node: factor.dropped for factor in town.nexus.explain(1)}
    assert dropped == {0: "", 1: "", 2: "", 3: "bad_score"}
    assert town.refused(most=3000) == "bad_score"


@pytest.mark.parametrize(
    "spec", ["tests.core.own_policy:cheapest", "tests.core.no_such_file:f", "tests.core.own_policy:policy"]
)
def test_a_policy_that_cannot_be_loaded_is_refused_with_what_is_allowed(spec: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: argmax, .*, score_sampled, sticky or module:Name"):
        Nexus(config({"routing.policy": spec}))


def test_a_newcomer_gets_eight_requests_at_once_and_more_with_each_audit_passed() -> None:
    town = Town()
    town.user()
    town.node(slots=100)
    for _ in range(8):
        town.sent()
    assert town.refused() == "newcomer_cap"
    for _ in range(25):
        town.handle(Audited(town.t_ns, 0, True))
    for _ in range(4):
        town.sent()
    assert town.refused() == "newcomer_cap"


def test_a_bond_below_the_minimum_gets_nothing() -> None:
    town = Town()
    town.user()
    town.node(bond=99)
    assert town.refused() == "bond_too_low"


def test_exploring_draws_an_offer_with_few_results_each_time() -> None:
    town = Town({"routing.explore": 1, "routing.under_observed": 1, "routing.candidates": 2})
    town.user()
    town.nodes(12)
    for _ in range(60):
        town.answer(town.sent().leg, 10)
    assert town.rows("offers")["results"][:12].all(), "each was drawn until it had a result"
    town.node(12)
    town.node(13)
    for _ in range(20):
        town.sent()
        assert {12, 13} & {factor.offer for factor in town.nexus.explain(town.requests)}
        town.handle(CancelRequest(town.t_ns, town.requests))


def test_an_offer_stands_in_its_group_once_however_often_it_is_posted() -> None:
    town = Town()
    town.node(0)
    town.handle(OfferPosted(town.t_ns, 0, CHAT, NANO, NANO))
    assert town.nexus.count("offers") == 1


# --- why ---


def test_an_explanation_holds_each_candidates_factors_and_they_give_its_score() -> None:
    town = Town({"routing.candidates": 8, "routing.explore": 0})
    town.user(deposit=10)
    for node in range(6):
        town.node(node, price=(0.1 * node, 0.5 + node), bond=100 + 100 * node, slots=1 + node)
        town.handle(Audited(town.t_ns, node, node % 2 == 0, 1.0 + node))
    town.node(6, bond=1)
    town.handle(NodeDown(town.t_ns, 5))
    for _ in range(30):
        town.t_ns += NANO
        town.answer(town.sent().leg, 20, first_s=0.3)
    sent = town.sent(prompt=300, most=400)
    factors = town.nexus.explain(sent.request)
    assert sorted(factor.node for factor in factors) == [0, 1, 2, 3, 4, 6]
    assert [factor.dropped for factor in factors if factor.node == 6] == ["bond_too_low"]
    able = [factor for factor in factors if not factor.dropped]
    for factor in able:
        seen = factor.seen
        score = seen["quality"] ** 2 * seen["reliability"] ** 4 * seen["latency"] * seen["price"] * seen["bond"] ** 0.25
        assert factor.score == pytest.approx(score, rel=1e-12)
        assert seen == pytest.approx(plain_view(town, factor, sent, 300, 400), rel=1e-12)
    assert [factor.node for factor in factors if factor.chosen] == [max(able, key=lambda factor: factor.score).node]
    assert town.nexus.explain(0) == town.nexus.explain(10**6) == []


def plain_view(town: Town, factor: Factor, sent: Dispatch, prompt: int, most: int) -> dict[str, float]:
    """What a policy sees, by the formulas, from the tables as they are just after the decision."""
    offer, node = town.row("offers", factor.offer), town.row("nodes", factor.node)
    reference, reputation = config().models["chat"].reference, config().reputation
    in_flight = int(node["in_flight"]) - (factor.node == sent.node)
    load = (in_flight + 1) / int(node["slots"])
    since = town.t_ns  # no landmark has passed
    parts = [
        (
            (node[f"{name}_ok"] * 0.5 ** (since / half_life) + reputation.prior_reliability * reputation.prior_count)
            / (node[f"{name}_n"] * 0.5 ** (since / half_life) + reputation.prior_count)
        )
        for name, half_life in (("fast", reputation.fast_half_life_ns), ("slow", reputation.slow_half_life_ns))
    ]
    fee = math.ceil((offer["price_in"] * prompt + offer["price_out"] * most) / PPM)
    fair = math.ceil((reference.price_input_nlai * prompt + reference.price_output_nlai * most) / PPM)
    answer_s = prompt / reference.prefill_tok_s + min(most, reference.output_tok) * offer["itl_s"]
    eta_s = (offer["ttft_s"] + answer_s) * load
    knee_s = 2 * (reference.ttft_ns + reference.itl_ns * reference.output_tok) / NANO
    step = (1 + math.exp(-knee_s / (knee_s / 2))) / (1 + math.exp((eta_s - knee_s) / (knee_s / 2)))
    return {
        "quality": factor.seen["quality"],  # a draw: see the test of its posterior
        "reliability": 0.8 * parts[0] + 0.2 * parts[1],
        "latency": max(1e-3, step),
        "price": (1 + fair) / (1 + fee),
        "bond": 1 - math.exp(-int(node["bond_nlai"]) / config().economics.bonds.reference_nlai),
        "eta_s": eta_s,
        "ttft_s": float(offer["ttft_s"]),
        "itl_s": float(offer["itl_s"]),
        "fee_nlai": fee,
        "load": load,
        "in_flight": in_flight,
        "slots": int(node["slots"]),
        "results": int(offer["results"]),
        "noise": factor.seen["noise"],
        "place": factor.seen["place"],
    }


# --- the formulas ---


def test_reliability_is_two_discounted_shares_drawn_to_the_prior() -> None:
    """S ← S·w + x, N ← N·w + 1, s = (S + 0.9·5)/(N + 5), half-lives of a minute and an hour mixed 0.8 : 0.2."""
    town = Town({"routing.retries": 0, "reputation.probe_interval": "1d"})
    town.user()
    town.node()
    told = [(7, True), (30, False), (30, False), (95, True), (400, False), (401, True)]
    for t_s, ok in told:
        town.t_ns = t_s * NANO
        sent = town.sent()
        if ok:
            town.answer(sent.leg, 1, first_s=0, rest_s=0)
        else:
            town.fail(sent.leg)
    town.t_ns = 460 * NANO
    town.sent()
    parts = []
    for half_life_s in (60, 3600):
        weight = [0.5 ** ((460 - t_s) / half_life_s) for t_s, _ in told]
        good = sum(w for w, (_, ok) in zip(weight, told, strict=True) if ok)
        parts.append((good + 0.9 * 5) / (sum(weight) + 5))
    seen = town.nexus.explain(town.requests)[0].seen
    assert seen["reliability"] == pytest.approx(0.8 * parts[0] + 0.2 * parts[1], rel=1e-12)


def test_quality_is_a_beta_posterior_of_audits_that_fades_to_the_prior_of_one_in_five() -> None:
    """α₀ = 2, β₀ = 8; each verdict counts its weight, halved every seven days."""
    town = Town()
    town.node()
    told = [(0, True, 1.0), (2, True, 5.0), (3, False, 2.0), (30, True, 1.0)]
    for day, passed, weight in told:
        town.handle(Audited(day * DAY_NS, 0, passed, weight))
    offer = town.row("offers")
    worth = [weight * 0.5 ** ((30 - day) / 7) for day, _, weight in told]
    assert offer["alpha"] == pytest.approx(2 + worth[0] + worth[1] + worth[3])
    assert offer["beta"] == pytest.approx(8 + worth[2])
    assert (town.row("nodes")["audits"], town.row("nodes")["audits_passed"]) == (4, 3)


def test_the_quality_that_routing_sees_is_drawn_from_that_posterior() -> None:
    town = Town({"routing.candidates": 64, "reputation.history": 40, "routing.newcomer_cap": 0})
    town.user()
    town.nodes(64, slots=1000)
    draws = []
    for minute in range(8):
        town.t_ns = minute * 60 * NANO
        town.sent()
        draws += [factor.seen["quality"] for factor in town.nexus.explain(town.requests)]
        town.handle(CancelRequest(town.t_ns, town.requests))
    assert len(set(draws)) == len(draws) > 400
    assert stats.kstest(draws, "beta", args=(42, 8)).pvalue > 0.01


def test_the_first_token_delay_is_a_peak_ewma_less_the_prompts_reference_prefill() -> None:
    town = Town({"routing.candidates": 1})
    town.user()
    town.node()
    estimate, at_s = 1.0, 0.0
    for delay_s, rest_s in ((0.5, 3.0), (4.0, 1.0), (0.2, 12.0), (0.05, 0.5)):
        town.answer(town.sent(prompt=100).leg, 10, delay_s, rest_s)
        observed_s, now_s = max(0.0, delay_s - 100 / 1000), town.t_ns / NANO - rest_s
        weight = math.exp(-(now_s - at_s) / 10)
        estimate = observed_s if observed_s > estimate else estimate * weight + observed_s * (1 - weight)
        at_s = now_s
        assert town.row("offers")["ttft_s"] == pytest.approx(estimate, rel=1e-9)


TIMES_NS = st.one_of(st.integers(0, 2**62), st.sampled_from([0, 1, 2**62]))
PERIODS_NS = st.one_of(st.integers(1, 3650 * DAY_NS), st.sampled_from([1, 3650 * DAY_NS]))
SECONDS = st.floats(0, 1e10)


@given(SECONDS, SECONDS, TIMES_NS, PERIODS_NS)
def test_a_peak_ewma_jumps_to_the_worse_and_forgets_towards_the_better(c: float, x: float, dt_ns: int, tau_ns: int) -> None:
    """c ← x if x > c else c·w + x·(1−w), w = e^(−Δt/τ) (Finagle)."""
    found = peak_ewma(c, x, dt_ns, tau_ns)
    assert found == peak_ewma.py_func(c, x, dt_ns, tau_ns)  # type: ignore[attr-defined]
    weight = math.exp(-(dt_ns / tau_ns))
    assert found == (x if x > c else pytest.approx(c * weight + x * (1 - weight), rel=1e-9, abs=1e-300))
    assert x <= found <= max(c, x) or found == pytest.approx(x)


@given(TIMES_NS, PERIODS_NS)
def test_weight_halves_with_each_half_life(elapsed_ns: int, half_life_ns: int) -> None:
    weight = decay(elapsed_ns, half_life_ns)
    assert weight == decay.py_func(elapsed_ns, half_life_ns)  # type: ignore[attr-defined]
    assert 0 <= weight <= 1
    assert weight == pytest.approx(0.5 ** min(1e5, elapsed_ns / half_life_ns), rel=1e-9, abs=1e-300)


@given(SECONDS, st.floats(1e-9, 1e10))
def test_the_latency_factor_is_a_soft_step_between_one_and_a_thousandth(eta_s: float, knee_s: float) -> None:
    factor = latency_factor(eta_s, knee_s)
    assert factor == latency_factor.py_func(eta_s, knee_s)  # type: ignore[attr-defined]
    assert 1e-3 <= factor <= 1
    assert latency_factor(0.0, knee_s) == 1
    assert latency_factor(knee_s, knee_s) == pytest.approx((1 + math.exp(-2)) / 2)
    assert latency_factor(1e3 * knee_s, knee_s) == 1e-3
    assert latency_factor(eta_s, knee_s) >= latency_factor(eta_s * 1.01, knee_s)


PRICES = st.one_of(st.integers(0, MAX_PRICE_NLAI), st.sampled_from([0, 1, MAX_PRICE_NLAI]))
TOKENS = st.one_of(st.integers(0, MAX_TOKENS), st.sampled_from([0, 1, MAX_TOKENS]))


@given(PRICES, PRICES, TOKENS, TOKENS)
def test_a_fee_is_the_exact_sum_rounded_up_once(price_in: int, price_out: int, prompt: int, output: int) -> None:
    """⌈(p_in·n_in + p_out·n_out)/10⁶⌉, up to the largest prices and answers, compiled as in Python."""
    exact = -(-(price_in * prompt + price_out * output) // PPM)
    assert fee_nlai(price_in, price_out, prompt, output) == exact
    assert fee_nlai.py_func(price_in, price_out, prompt, output) == exact  # type: ignore[attr-defined]
    assert exact <= MAX_SUPPLY_NLAI


def test_the_largest_network_wraps_nowhere() -> None:
    """All LAI there can be in one account, the largest prices, the longest prompt and answer."""
    town = Town({"models.chat.context": MAX_TOKENS, "economics.bonds.reference": 1})
    town.user(deposit=9e9)
    town.node(price=(1000, 1000), bond=9e9, slots=2**31 - 1, queue=2**31 - 1)
    half = MAX_TOKENS // 2
    sent = town.sent(prompt=half, most=half)
    assert sent.quote_nlai == 1000 * NANO * MAX_TOKENS // PPM
    assert town.answer(sent.leg, half).fee_nlai == sent.quote_nlai
    town.user(deposit=1)
    assert town.row("accounts")["deposited_nlai"] == MAX_SUPPLY_NLAI, "there is no more LAI than that"
