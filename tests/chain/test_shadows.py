"""INV-9: the contracts and their shadows in Python do the same with the same inputs, to the nanoLAI.

What a chunk's settlement does is compared in `test_settlement`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts.nodes import NodeTerms
from lattice_core.chain.contracts.slashing import SlashTerms, sign_answer
from lattice_core.chain.contracts.tokenomics import BonusTerms, Claims, Earned
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from lattice_core.escrow import (
    SessionKey,
    covers,
    may_ask,
    may_become,
    payment,
    revoked,
    used,
    withdrawal_nlai,
)
from lattice_core.faucet import Budget, grant, grantable_nlai, left_nlai
from lattice_core.promises import Promise, due_nlai, presented, ripened
from lattice_core.registration import FREE, Joins, join, price_at, price_nlai
from lattice_core.rewards import LARGEST_WEIGHT, bonus, pool, sources
from lattice_core.slashing import Stake, equivocation_nlai, largest_proposal_nlai, slash
from lattice_core.split import Cuts, Parts, Rates, below_ceiling, split
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM
from tests.chain.networks import DAY_S, JOIN, NEXUS, SLASHING, address, chunk, end, go_to, key, start

NODES = 3
AGENT = NODES - 1
"""The only node that is an agent; the others serve models."""
MINTABLE_NLAI = 10**15
NETWORK, WHO = start(users=1, nodes=AGENT, supply_nlai=MAX_SUPPLY_NLAI - MINTABLE_NLAI, chain=PyEvm(history=False))
NETWORK.nodes.register(WHO.holder, [address("agent")], [address("agent")], [2], [0]).raise_for_revert()
FRESH = NETWORK.chain.snapshot()
EPOCHS = NETWORK.clock.epochs()

PPMS = st.one_of(st.integers(0, PPM), st.sampled_from([0, 1, PPM]))
AMOUNTS = st.one_of(st.integers(10**12, 10**16), st.integers(1, 1000))
WAITS = st.one_of(st.integers(0, 3 * DAY_S), st.sampled_from([0, 1, DAY_S]))
MOST = st.integers(PPM // 2, PPM)
RATES = st.builds(Rates, MOST, PPMS, PPMS, PPMS, st.sampled_from([1000, 10**15, 2**63 - 1]))

generated = settings(max_examples=20, phases=[Phase.generate])  # shrinking takes minutes


def steps[T](*actions: st.SearchStrategy[T]) -> st.SearchStrategy[list[tuple[int, T]]]:
    """What is done, each after a wait in seconds."""
    return st.lists(st.tuples(WAITS, st.one_of(*actions)), min_size=5, max_size=10)


def wait(seconds: int) -> int:
    """The time afterwards."""
    return NETWORK.chain.advance_block(seconds).timestamp_s


JOINS = st.builds(
    Joins,
    floor_nlai=st.one_of(AMOUNTS, AMOUNTS, st.sampled_from([0, 10**18, 2**64 - 1])),
    rise_ppm=PPMS,
    half_life_s=st.one_of(st.integers(1, 10 * DAY_S), st.sampled_from([1, 2**32 - 1])),
)


@generated
@given(JOINS, steps(st.integers(1, 4), st.integers(1, 4), JOINS))
def test_inv_9_joins_burn_what_their_shadow_says(first: Joins, acts: list[tuple[int, int | Joins]]) -> None:
    NETWORK.chain.revert(FRESH)
    terms, price, burned = Joins(*JOIN[:3]), FREE, 0
    held = NETWORK.token.balance_nlai(WHO.holder)
    for seconds, act in [(0, first), *acts]:
        now = wait(seconds)
        if isinstance(act, Joins):
            NETWORK.nodes.set_terms(WHO.owner, NodeTerms(*act, JOIN.thaw_s)).raise_for_revert()
            terms, price = act, price_at(terms, price, now)
        else:
            paid, after = 0, price
            for _ in range(act):
                nlai, after = join(terms, after, now)
                paid += nlai
            operators = [address("operator")] * act
            receipt = NETWORK.nodes.register(WHO.holder, operators, operators, [0] * act, [0] * act)
            assert receipt.ok == (paid <= held - burned)
            if receipt.ok:
                price, burned = after, burned + paid
        assert NETWORK.nodes.registration_price_nlai() == price_nlai(terms, price, now)
        assert NETWORK.nodes.total_burned_nlai() == burned == held - NETWORK.token.balance_nlai(WHO.holder)


class Endow(NamedTuple):
    nlai: int


class SetBudget(NamedTuple):
    left_nlai: int
    half_life_s: int


class Grant(NamedTuple):
    nlai: int
    part: float | None
    """Of what may be granted, in place of an amount."""


@generated
@given(
    steps(
        st.builds(Endow, AMOUNTS),
        st.builds(SetBudget, AMOUNTS, st.integers(1, 10 * DAY_S)),
        st.builds(Grant, AMOUNTS, st.one_of(st.none(), st.floats(0.0, 1.0), st.just(1.0))),
    )
)
def test_inv_9_the_faucet_grants_what_its_shadow_has_left(acts: list[tuple[int, Endow | SetBudget | Grant]]) -> None:
    NETWORK.chain.revert(FRESH)
    NETWORK.tokenomics.set_budget(WHO.owner, 10**16, DAY_S).raise_for_revert()
    budget, treasury, credit = Budget(10**16, NETWORK.chain.block().timestamp_s, DAY_S), 0, 0
    for seconds, act in [(0, Endow(10**15)), *acts]:
        now = wait(seconds)
        match act:
            case Endow(nlai):
                NETWORK.tokenomics.endow(WHO.holder, nlai).raise_for_revert()
                treasury += nlai
            case SetBudget(left, half_life):
                NETWORK.tokenomics.set_budget(WHO.owner, left, half_life).raise_for_revert()
                budget = Budget(left, now, half_life)
            case Grant(nlai, part):
                most = grantable_nlai(budget, treasury, now)
                nlai = max(1, nlai if part is None else int(most * part))
                receipt = NETWORK.tokenomics.grant_faucet(WHO.holder, [0], [nlai])
                assert receipt.ok == (nlai <= most)
                if receipt.ok:
                    budget, treasury, credit = grant(budget, nlai, now), treasury - nlai, credit + nlai
        assert NETWORK.tokenomics.budget_left_nlai() == left_nlai(budget, now)
        assert NETWORK.tokenomics.claims().treasury_nlai == treasury
        assert NETWORK.users.account(0).faucet_nlai == credit


class Round(NamedTuple):
    """What nodes earn of both kinds of credit, what the treasury is given, the weights (of one node more than there are), and
    for how long the pool grows and is then left unpaid."""

    purchased_nlai: list[int]
    faucet_nlai: list[int]
    endowed_nlai: int
    weights: list[int]
    grows_s: int
    overdue_s: int


def columns(amounts: st.SearchStrategy[int], rows: int = NODES) -> st.SearchStrategy[list[int]]:
    return st.lists(amounts, min_size=rows, max_size=rows)


WEIGHTS = st.one_of(st.integers(2**50, LARGEST_WEIGHT), st.sampled_from([0, 1, 2**63 - 1]))
GROWS = st.integers(DAY_S, 30 * DAY_S)
ROUNDS = st.builds(Round, columns(AMOUNTS), columns(AMOUNTS), AMOUNTS, columns(WEIGHTS, NODES + 1), GROWS, WAITS)
BONUS_TERMS = st.builds(
    BonusTerms,
    per_day_nlai=st.one_of(st.integers(10**11, 10**15), st.sampled_from([0, 1000, 2**64 - 1])),
    returned_ppm=st.one_of(st.integers(PPM // 2, PPM - 1), st.sampled_from([0, PPM - 1])),
    window_s=st.integers(0, 3 * DAY_S),
)


@generated
@given(RATES, BONUS_TERMS, st.lists(ROUNDS.filter(lambda r: any(r.weights)), min_size=1, max_size=2))
def test_inv_9_bonuses_are_paid_as_their_shadow_says(rates: Rates, terms: BonusTerms, rounds: list[Round]) -> None:
    NETWORK.chain.revert(FRESH)
    tokenomics = NETWORK.tokenomics
    tokenomics.set_rates(WHO.owner, rates).raise_for_revert()
    tokenomics.set_bonus_terms(WHO.owner, terms).raise_for_revert()
    paid_until, minted = NETWORK.chain.block().timestamp_s, 0
    ids = np.arange(NODES + 1)  # the last is nobody's
    for each in rounds:
        burned = _settle(each.purchased_nlai, each.faucet_nlai, rates)
        tokenomics.endow(WHO.holder, each.endowed_nlai).raise_for_revert()
        proposed = wait(each.grows_s)
        weights = np.array(each.weights)
        tokenomics.propose_bonus(WHO.oracle, NEXUS, ids, weights).raise_for_revert()
        wait(terms.window_s + each.overdue_s)
        earned, before = [tokenomics.earned(node) for node in range(NODES)], tokenomics.claims()
        assert [e.burned_nlai for e in earned] == burned
        receipt = tokenomics.pay_bonus(WHO.stranger, ids, weights).raise_for_revert()

        pot = pool(terms.per_day_nlai, paid_until, proposed, before.treasury_nlai, MINTABLE_NLAI - minted)
        rewards = bonus(pot, each.weights, [*burned, 0], terms.returned_ppm, rates.delegators_ppm)
        paid = sources(rewards, before.treasury_nlai)
        paid_until, minted = proposed, minted + paid.minted_nlai
        (event,) = tokenomics.logged("BonusPaid", receipt)
        assert (event["pool"], event["treasury"], event["minted"]) == (pot, *paid)
        assert tokenomics.bonus_paid_until_s() == paid_until
        for node, (had, reward) in enumerate(zip(earned, rewards, strict=False)):
            now_has = Earned(had.operator_nlai + reward.operator_nlai, had.delegators_nlai + reward.delegators_nlai, 0)
            assert tokenomics.earned(node) == now_has
        operators, delegators = (sum(column) for column in zip(*rewards, strict=True))
        assert tokenomics.claims() == Claims(
            before.treasury_nlai - paid.treasury_nlai,
            before.auditors_nlai,
            before.delegators_nlai + delegators,
            before.operators_nlai + operators,
        )
        assert NETWORK.token.minted_wei() == (MAX_SUPPLY_NLAI - MINTABLE_NLAI + minted) * NANO
        assert NETWORK.token.balance_nlai(tokenomics.address) == tokenomics.total_claims_nlai()


def _settle(purchased: Sequence[int], faucet: Sequence[int], rates: Rates) -> list[int]:
    """Let the only user pay the nodes for an epoch; what its shadow says was burned of each node's purchased fees."""
    epoch = NETWORK.clock.current()
    NETWORK.users.fund(WHO.holder, [0], [sum(purchased)]).raise_for_revert()
    NETWORK.tokenomics.set_budget(WHO.owner, sum(faucet), DAY_S).raise_for_revert()
    NETWORK.tokenomics.endow(WHO.holder, sum(faucet)).raise_for_revert()
    NETWORK.tokenomics.grant_faucet(WHO.holder, [0], [sum(faucet)]).raise_for_revert()
    end(NETWORK, epoch)
    nodes = dict(enumerate(zip(purchased, faucet, strict=True)))
    batch = chunk({0: (sum(purchased), sum(faucet))}, nodes, epoch=epoch)
    NETWORK.tokenomics.settle(WHO.oracle, batch).raise_for_revert()
    return [split(nlai, rates).burned_nlai for nlai in purchased]


class Bond(NamedTuple):
    nlai: int


class Unbond(NamedTuple):
    part: float


class Prove(NamedTuple):
    pass


class Propose(NamedTuple):
    nlai: int
    part: float | None
    """Of what may be proposed, in place of an amount."""


class Execute(NamedTuple):
    pass


SLASH_TERMS = st.builds(SlashTerms, MOST, MOST, st.integers(0, PPM // 2), st.integers(1, DAY_S))
PARTS = st.one_of(st.floats(0.0, 1.0), st.just(1.0))


@generated
@given(
    SLASH_TERMS,
    steps(
        st.builds(Bond, AMOUNTS),
        st.builds(Unbond, PARTS),
        st.builds(Prove),
        st.builds(Propose, AMOUNTS, PARTS),
        st.builds(Propose, AMOUNTS, st.one_of(st.none(), PARTS)),
        st.builds(Execute),
        st.builds(Execute),
        SLASH_TERMS,
    ),
)
def test_inv_9_slashes_take_what_their_shadow_says(
    first: SlashTerms,
    acts: list[tuple[int, Bond | Unbond | Prove | Propose | Execute | SlashTerms]],
) -> None:
    NETWORK.chain.revert(FRESH)
    nodes, slashing = NETWORK.nodes, NETWORK.slashing
    terms, stake, open_nlai = SLASHING, Stake(0, 0), dict[int, int]()
    rewards, burned = {WHO.stranger: 0, WHO.oracle: 0}, 0
    operator, our_domain = key("operator 0"), domain(NETWORK.chain.chain_id, slashing.address)
    for request, (seconds, act) in enumerate([(0, first), (0, Bond(10**12)), (0, Unbond(0.5)), *acts]):
        now = wait(seconds)
        match act:
            case Bond(nlai):
                nodes.bond(WHO.holder, [0], [nlai]).raise_for_revert()
                stake = stake._replace(bond_nlai=stake.bond_nlai + nlai)
            case Unbond(part):
                nlai = int(stake.bond_nlai * part)
                assert nodes.unbond(operator.address, 0, nlai).ok == (nlai > 0)
                stake = Stake(stake.bond_nlai - nlai, stake.thawing_nlai + nlai)
            case SlashTerms():
                slashing.set_terms(WHO.owner, act).raise_for_revert()
                terms = act
            case Propose(nlai, part):
                most = largest_proposal_nlai(stake, sum(open_nlai.values()), terms.proposal_ppm)
                nlai = nlai if part is None else int(most * part)
                receipt = slashing.propose(WHO.oracle, NEXUS, 0, nlai, bytes(32))
                assert receipt.ok == (0 < nlai <= most)
                if receipt.ok:
                    open_nlai[slashing.proposal_count() - 1] = nlai
            case Prove() | Execute():
                if isinstance(act, Prove):
                    answers = [sign_answer(request, 0, keccak(word), operator, our_domain) for word in (b"yes", b"no")]
                    asked, reporter = equivocation_nlai(stake, terms.equivocation_ppm), WHO.stranger
                    slashing.prove_equivocation(reporter, 0, request, *answers).raise_for_revert()
                elif open_nlai:
                    go_to(NETWORK, now + SLASHING.appeal_window_s)  # the longest
                    proposal = min(open_nlai)
                    asked, reporter = open_nlai.pop(proposal), WHO.oracle
                    slashing.execute(WHO.stranger, proposal).raise_for_revert()
                else:
                    continue
                slashed = slash(stake, asked, terms.reporter_ppm)
                stake = slashed.left
                rewards[reporter] += slashed.reporter_nlai
                burned += slashed.burned_nlai
        node = nodes.node(0)
        assert Stake(node.bond_nlai, node.thawing_nlai) == stake
        assert nodes.total_bonded_nlai() == sum(stake)
        assert {reporter: NETWORK.token.balance_nlai(reporter) for reporter in rewards} == rewards
        assert NETWORK.token.burned_wei() == burned * NANO


class Fund(NamedTuple):
    purchased_nlai: int
    faucet_nlai: int


class Present(NamedTuple):
    epoch: int
    """Relative to the present one."""
    node: int
    value_nlai: int
    by_key: bool


class More(NamedTuple):
    which: int
    """Of what was presented."""
    epochs: int
    """From now."""
    nlai: int
    by_key: bool


class Collect(NamedTuple):
    which: int
    epochs: int


class SetKey(NamedTuple):
    cap_nlai: int
    nexus: int
    kinds: int
    epochs: int
    """From now until it expires."""


class Revoke(NamedTuple):
    pass


class Ask(NamedTuple):
    nlai: int


class Withdraw(NamedTuple):
    epochs: int
    """After the request."""


CREDIT = st.integers(1, 10**6)
VALUES = st.one_of(st.integers(10**4, 10**6), st.sampled_from([1, 10**6, 3 * 10**6]))
WHICH = st.sampled_from([0, 0, 1, 2, 3])
KEYS = st.builds(
    SetKey,
    cap_nlai=VALUES,
    nexus=st.sampled_from([NEXUS, NEXUS, NEXUS, 2]),
    kinds=st.sampled_from([1, 4, 5, 7]),
    epochs=st.integers(-6, 3),
)


@generated
@given(
    RATES,
    st.builds(SetKey, VALUES, st.just(NEXUS), st.just(0b101), st.sampled_from([-4, 30])),
    st.lists(
        st.one_of(
            st.builds(Present, st.integers(-5, -3), st.integers(0, AGENT), VALUES, st.booleans()),
            st.builds(Present, st.integers(-15, -2), st.integers(0, AGENT), VALUES, st.booleans()),
            st.builds(More, WHICH, st.integers(0, 2), VALUES, st.booleans()),
            st.builds(More, WHICH, st.integers(0, 1), VALUES, st.just(False)),
            st.builds(Collect, WHICH, st.integers(0, 3)),
            st.builds(Collect, WHICH, st.integers(1, 3)),
            st.builds(Fund, CREDIT, CREDIT),
            KEYS,
            st.builds(Revoke),
            st.builds(Ask, VALUES),
            st.builds(Withdraw, st.integers(14, 16)),
        ),
        min_size=8,
        max_size=16,
    ),
)
def test_inv_9_vouchers_session_keys_and_withdrawals_pay_what_their_shadow_says(
    rates: Rates, first: SetKey, acts: list[Fund | Present | More | Collect | SetKey | Revoke | Ask | Withdraw]
) -> None:
    NETWORK.chain.revert(FRESH)
    users, tokenomics = NETWORK.users, NETWORK.tokenomics
    tokenomics.set_rates(WHO.owner, rates).raise_for_revert()
    owner, spender, our_domain = key("owner 0"), key("session"), domain(NETWORK.chain.chain_id, tokenomics.address)
    go_to(NETWORK, EPOCHS.end_s(20))
    balance, session, asked, withdrawn = Parts(0, 0), SessionKey(0, 0, 0, 0, 0), (0, 0), 0
    promises: dict[tuple[int, int], Promise] = {}
    earned, claims = [Earned(0, 0, 0)] * NODES, Claims(0, 0, 0, 0)

    def lapsed(epoch: int) -> bool:
        return NETWORK.chain.block().timestamp_s >= EPOCHS.lapse_s(epoch)

    opening = [Fund(10**6, 10**6), first, Ask(10**5), Present(-3, 0, 10**4, False), Present(-4, AGENT, 100, True)]
    for act in [*opening, *acts]:
        if isinstance(act, More | Collect):
            go_to(NETWORK, NETWORK.chain.block().timestamp_s + act.epochs * EPOCHS.length_s)
            epoch, node = list(promises)[act.which % len(promises)]
        now, current = NETWORK.chain.block().timestamp_s, NETWORK.clock.current()
        match act:
            case Fund(purchased, faucet):
                users.fund(WHO.holder, [0], [purchased]).raise_for_revert()
                tokenomics.endow(WHO.holder, faucet).raise_for_revert()
                tokenomics.set_budget(WHO.owner, faucet, DAY_S).raise_for_revert()
                tokenomics.grant_faucet(WHO.holder, [0], [faucet]).raise_for_revert()
                balance = Parts(balance.purchased_nlai + purchased, balance.faucet_nlai + faucet)
            case SetKey(cap, nexus, kinds, epochs):
                new = SessionKey(cap, session.used_nlai, nexus, kinds, EPOCHS.end_s(current + epochs))
                receipt = users.set_session_key(owner.address, 0, spender.address, cap, nexus, kinds, new.expiry_s)
                assert receipt.ok == may_become(session, new)
                session = new if receipt.ok else session
            case Revoke():
                users.revoke_session_key(owner.address, 0, spender.address).raise_for_revert()
                session = revoked(session, EPOCHS.end_s(current))
            case Ask(nlai):
                receipt = users.request_withdrawal(owner.address, 0, nlai)
                assert receipt.ok == may_ask(balance.purchased_nlai, nlai)
                asked = (nlai, current) if receipt.ok else asked
            case Withdraw(epochs):
                go_to(NETWORK, EPOCHS.end_s(asked[1] + epochs))
                now = NETWORK.chain.block().timestamp_s
                nlai = withdrawal_nlai(balance.purchased_nlai, asked[0], EPOCHS.closed_s(asked[1]), now)
                assert users.withdraw(owner.address, 0).ok == (nlai > 0)
                if nlai:
                    balance, asked = Parts(balance.purchased_nlai - nlai, balance.faucet_nlai), (0, 0)
                    withdrawn += nlai
            case Present() | More():
                if isinstance(act, Present):
                    epoch, node = current + act.epoch, act.node
                promise = promises.get((epoch, node), Promise())
                value = act.value_nlai if isinstance(act, Present) else promise.value_nlai + act.nlai
                more = value - promise.value_nlai
                covered = not act.by_key or covers(session, more, NEXUS, 2 if node == AGENT else 0, EPOCHS.end_s(epoch))
                open_ = EPOCHS.lapse_s(epoch) <= now < EPOCHS.lapse_s(epoch + EPOCHS.collection)
                voucher = Voucher(NEXUS, epoch, 0, node, value, 0, bytes(32))
                receipt = tokenomics.present(WHO.stranger, sign(voucher, spender if act.by_key else owner, our_domain))
                assert receipt.ok == (more > 0 and covered and open_)
                if receipt.ok:
                    promises[epoch, node] = presented(promise, value, current, lapsed)
                    session = used(session, more) if act.by_key else session
            case Collect():
                promise = promises[epoch, node]
                paid = payment(balance, due_nlai(promise, lapsed))
                receipt = tokenomics.collect(WHO.stranger, NEXUS, epoch, 0, node)
                assert receipt.ok == any(paid)
                if receipt.ok:
                    balance = Parts(balance.purchased_nlai - paid.purchased_nlai, balance.faucet_nlai - paid.faucet_nlai)
                    promises[epoch, node] = promise._replace(paid_nlai=promise.paid_nlai + sum(paid))
                    in_force = below_ceiling(rates, claims.treasury_nlai)
                    bought, granted = (split(nlai, in_force) for nlai in paid)
                    cuts = Cuts(*(a + b for a, b in zip(bought, granted, strict=True)))
                    assert NETWORK.collected(receipt) == (epoch, 0, node, paid, cuts)
                    gain = (cuts.operators_nlai, cuts.delegators_nlai, bought.burned_nlai)
                    earned[node] = Earned(*(a + b for a, b in zip(earned[node], gain, strict=True)))
                    claims = Claims(*(a + b for a, b in zip(claims, cuts[1:], strict=True)))
    for (epoch, node), promise in promises.items():
        assert ripened(tokenomics.presented(NEXUS, epoch, 0, node), lapsed) == ripened(promise, lapsed)
    assert users.account(0) == (*balance, NEXUS)
    assert users.session_key(0, spender.address) == session
    assert NETWORK.token.balance_nlai(owner.address) == withdrawn
    assert [tokenomics.earned(node) for node in range(NODES)] == earned
    assert tokenomics.claims() == claims
