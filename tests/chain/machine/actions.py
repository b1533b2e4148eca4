"""What may be tried: each action makes one step out of what the model knows and what chance says."""

from collections.abc import Callable, Sequence
from typing import Any

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts.contract import name32
from lattice_core.chain.contracts.slashing import ANSWER
from lattice_core.chain.keys import Key
from lattice_core.chain.typed_data import digest, domain
from lattice_core.chain.vouchers import TYPE
from lattice_core.units import NANO, PPM
from tests.chain.machine.draw import HUGE, Draw
from tests.chain.machine.nodes import Nodes
from tests.chain.machine.shadow import NOBODY
from tests.chain.machine.token import ALL, PERMIT
from tests.chain.machine.tokenomics import DAY_S, packed
from tests.chain.machine.users import Entry
from tests.chain.machine.wire import Call
from tests.chain.machine.world import (
    ACTORS,
    EPOCH_S,
    FIRST_ORACLE,
    HOLDER,
    HOLDING,
    NEXUSES,
    OWNER,
    PERSONS,
    SECOND_ORACLE,
    SESSIONS,
    STRANGER,
    Jump,
    Step,
    World,
)

MOST_USERS, MOST_NODES = 12, 12
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
MODELS = tuple(keccak(b"model %d" % i) for i in range(3))
FOREVER = 2**40 - 1
_PERSONS = tuple(key.address for key in PERSONS)

type Action = Callable[[World, Draw], Step]
ACTIONS: dict[str, tuple[int, Action]] = {}


def action(weight: int) -> Callable[[Action], Action]:
    """An action that is drawn so many times as often as one of weight 1."""

    def added(act: Action) -> Action:
        ACTIONS[act.__name__] = (weight, act)
        return act

    return added


def drawn(world: World, draw: Draw) -> tuple[str, Step]:
    """An action by its weight, and its step."""
    name = draw.choices(NAMES, cum_weights=_WEIGHTS)[0]
    return name, ACTIONS[name][1](world, draw)


def by(draw: Draw, sender: bytes, contract: str, function: str, *args: Any) -> Call:
    """A call by the one who may make it; now and then by somebody else."""
    return Call(draw.pick(ACTORS) if draw.chance(0.04) else sender, contract, function, args)


# Time


@action(10)
def time_passes(world: World, draw: Draw) -> Step:
    kind = draw.random()
    if kind < 0.5:
        return Jump(draw.randint(1, EPOCH_S // 4))
    if kind < 0.9:
        return Jump(draw.randint(EPOCH_S // 2, 2 * EPOCH_S))
    return Jump(draw.randint(2, 12) * EPOCH_S)


@action(4)
def an_epoch_ends(world: World, draw: Draw) -> Step:
    """To the second, or one before or after it."""
    end_s = world.model.epochs.end_s(world.model.epoch_at(world.now_s()))
    return Jump(max(1, end_s - world.now_s() + draw.pick((-1, 0, 0, 1))))


@action(3)
def the_same_is_sent_again(world: World, draw: Draw) -> Step:
    recent = [step for step in world.steps[-40:] if isinstance(step, Call)]
    return draw.pick(recent) if recent else Jump(1)


# Users


@action(2)
def users_register(world: World, draw: Draw) -> Step:
    room = MOST_USERS - len(world.model.users.users)
    count = draw.randint(0, max(0, min(2, room)))
    identities = [draw.pick((draw.bytes32(), draw.bytes32(), bytes(32), keccak(b"popular"))) for _ in range(count)]
    owners = [draw.pick((*_PERSONS, *_PERSONS, NOBODY, world.addresses["NodeRegistry"])) for _ in range(count)]
    if draw.chance(0.1):
        owners.append(STRANGER)
    return by(draw, HOLDER, "UserRegistry", "register", draw.pick(NEXUSES), tuple(identities), tuple(owners))


@action(1)
def a_person_joins(world: World, draw: Draw) -> Step:
    if len(world.model.users.users) >= MOST_USERS:
        return Jump(1)
    return by(draw, draw.pick(_PERSONS), "UserRegistry", "join", draw.pick((*NEXUSES, 0)))


@action(6)
def credit_is_bought(world: World, draw: Draw) -> Step:
    payer = draw.pick((HOLDER, *_PERSONS))
    return by(draw, payer, "UserRegistry", "fund", *_rows(world, draw, 200 * NANO))


@action(4)
def credit_is_granted(world: World, draw: Draw) -> Step:
    most = min(world.model.tokenomics.budget_left(world.now_s()), world.model.tokenomics.claims.treasury)
    return by(draw, HOLDER, "Tokenomics", "grantFaucet", *_rows(world, draw, most // 4))


@action(3)
def the_treasury_is_endowed(world: World, draw: Draw) -> Step:
    return by(draw, draw.pick((HOLDER, *_PERSONS)), "Tokenomics", "endow", draw.amount(200 * NANO))


@action(1)
def a_budget_is_set(world: World, draw: Draw) -> Step:
    return by(draw, OWNER, "Tokenomics", "setBudget", draw.amount(1_000 * NANO), draw.pick((0, 1, EPOCH_S, 30 * DAY_S)))


@action(4)
def a_withdrawal_is_requested(world: World, draw: Draw) -> Step:
    user = draw.id(len(world.model.users.users))
    held = world.model.users.users[user].purchased if user < len(world.model.users.users) else 0
    return by(draw, _owner(world, user), "UserRegistry", "requestWithdrawal", user, draw.amount(held))


@action(4)
def credit_is_withdrawn(world: World, draw: Draw) -> Step:
    asked = list(world.model.users.asked)
    user = draw.pick(asked) if asked and draw.chance(0.9) else draw.id(len(world.model.users.users))
    return by(draw, _owner(world, user), "UserRegistry", "withdraw", user)


@action(4)
def a_session_key_is_set(world: World, draw: Draw) -> Step:
    user, key = draw.id(len(world.model.users.users)), draw.pick(SESSIONS).address
    old = world.model.users.keys.get((user, key))
    cap = draw.amount(50 * NANO) + (old.cap if old and draw.chance(0.8) else 0)
    nexus = world.model.users.users[user].nexus if user < len(world.model.users.users) and draw.chance(0.9) else 1
    kinds = (old.kinds if old else 0) | draw.pick((0, 1, 2, 7))
    expiry = draw.pick((FOREVER, FOREVER, world.now_s() + draw.randint(0, 8 * EPOCH_S), 0))
    key = NOBODY if draw.chance(0.02) else key
    return by(draw, _owner(world, user), "UserRegistry", "setSessionKey", user, key, min(cap, HUGE), nexus, kinds, expiry)


@action(2)
def a_session_key_is_revoked(world: World, draw: Draw) -> Step:
    known = list(world.model.users.keys)
    user, key = draw.pick(known) if known and draw.chance(0.9) else (0, SESSIONS[0].address)
    return by(draw, _owner(world, user), "UserRegistry", "revokeSessionKey", user, key)


# Nodes


@action(2)
def nodes_register(world: World, draw: Draw) -> Step:
    room = MOST_NODES - len(world.model.nodes.nodes)
    count = draw.randint(0, 2)
    operators = [draw.pick((*_PERSONS, *_PERSONS, NOBODY)) if room >= count else NOBODY for _ in range(count)]
    signers = [draw.pick((*_PERSONS, *_PERSONS, NOBODY)) for _ in range(count)]
    kinds = [draw.pick((0, 0, 1, 2, 2, 3)) for _ in range(count)]
    clusters = [draw.randrange(4) for _ in range(count + draw.chance(0.05))]
    columns = tuple(map(tuple, (operators, signers, kinds, clusters)))
    return by(draw, draw.pick((HOLDER, *_PERSONS)), "NodeRegistry", "register", *columns)


@action(4)
def nodes_are_bonded(world: World, draw: Draw) -> Step:
    nodes = draw.ids(len(world.model.nodes.nodes), 3)
    amounts = tuple(draw.amount(50 * NANO) for _ in range(len(nodes) + draw.chance(0.03)))
    return by(draw, draw.pick((HOLDER, *_PERSONS)), "NodeRegistry", "bond", tuple(nodes), amounts)


@action(3)
def a_bond_starts_to_thaw(world: World, draw: Draw) -> Step:
    node = draw.id(len(world.model.nodes.nodes))
    bond = world.model.nodes.nodes[node].bond if node < len(world.model.nodes.nodes) else 0
    return by(draw, _operator(world, node), "NodeRegistry", "unbond", node, draw.amount(bond))


@action(2)
def a_bond_is_restored(world: World, draw: Draw) -> Step:
    return _operators_call(world, draw, "rebond")


@action(4)
def a_bond_is_withdrawn(world: World, draw: Draw) -> Step:
    return _operators_call(world, draw, "withdrawBond")


@action(1)
def a_node_leaves(world: World, draw: Draw) -> Step:
    if draw.chance(0.9):
        return _operators_call(world, draw, "setEndpoint", "e" * draw.pick((0, 9, 256, 257)))
    return _operators_call(world, draw, "deregister")


@action(1)
def a_node_changes_hands(world: World, draw: Draw) -> Step:
    return _operators_call(world, draw, "setOperator", draw.pick((*_PERSONS, NOBODY)))


@action(1)
def a_node_changes_its_signer(world: World, draw: Draw) -> Step:
    return _operators_call(world, draw, "setSigner", draw.pick((*_PERSONS, NOBODY)))


@action(2)
def offers_are_posted(world: World, draw: Draw) -> Step:
    node = draw.id(len(world.model.nodes.nodes))
    own = [i for i, it in enumerate(world.model.nodes.nodes) if it.operator == _operator(world, node)] or [node]
    rows = [draw.pick(own) for _ in range(draw.randint(1, 2))]
    columns = [tuple(draw.pick(values) for _ in rows) for values in (MODELS, (0, 1), (0, NANO), (NANO, 2**64 - 1))]
    return by(draw, _operator(world, node), "NodeRegistry", "postOffers", tuple(rows), *columns)


@action(1)
def an_offer_is_withdrawn(world: World, draw: Draw) -> Step:
    return _operators_call(world, draw, "withdrawOffer", draw.pick(MODELS))


@action(1)
def terms_of_joining_change(world: World, draw: Draw) -> Step:
    thaw_s = draw.pick((EPOCH_S, 4 * EPOCH_S, 4 * EPOCH_S, 0, 91 * DAY_S))
    terms = (draw.pick((0, 1, NANO)), draw.pick((0, 200_000, PPM, PPM + 1)), draw.pick((0, 60, EPOCH_S)), thaw_s)
    return by(draw, OWNER, "NodeRegistry", "setTerms", terms)


# Settlement


@action(16)
def a_chunk_is_settled(world: World, draw: Draw) -> Step:
    """Mostly of an epoch whose batch is open; late, early and unbalanced ones, unknown users and nodes, repeated payers."""
    now, nexus = world.model.epoch_at(world.now_s()), _nexus(draw)
    epoch = max(0, now - draw.pick((1, 1, 1, 2, 2, 2, 0, 3, -1)))
    ours = [i for i, user in enumerate(world.model.users.users) if user.nexus == nexus] or [0]
    users = draw.sample(ours, draw.randint(0, min(4, len(ours)))) if draw.chance(0.9) else draw.ids(MOST_USERS, 4)
    debits = [Entry(user, *(draw.amount(held // 4) for held in _held(world, user))) for user in users]
    if debits and draw.chance(0.05):
        debits.append(draw.pick(debits)._replace(purchased=draw.amount(NANO)))
    totals = [sum(entry[part] for entry in debits) for part in (1, 2)]
    nodes = draw.ids(len(world.model.nodes.nodes), 3)
    grosses = [Entry(*row) for row in zip(nodes, *(_parts(draw, total, len(nodes)) for total in totals), strict=True)]
    if grosses and draw.chance(0.05):
        grosses[0] = grosses[0]._replace(purchased=grosses[0].purchased + 1)
    lines = [packed(debits), packed(grosses)]
    if draw.chance(0.02):
        lines[draw.randrange(2)] += b"\1"
    oracle = world.model.book.oracles.get(nexus, OWNER)
    return by(draw, oracle, "Tokenomics", "settle", nexus, epoch, draw.randrange(4), *lines)


@action(1)
def a_batch_is_sent_again_under_another_chunk(world: World, draw: Draw) -> Step:
    for step in reversed(world.steps):
        if isinstance(step, Call) and step.function == "settle":
            nexus, epoch, chunk, *lines = step.args
            return step._replace(args=(nexus, epoch, chunk ^ draw.randint(1, 7), *lines))
    return Jump(1)


@action(16)
def a_voucher_is_presented(world: World, draw: Draw) -> Step:
    """Mostly of an epoch whose grace has passed; growing values; and everything that can be wrong with a signature."""
    model = world.model
    now = model.epoch_at(world.now_s())
    epoch = max(0, now - draw.pick((3, 3, 4, 4, 5, 6, 7, 8, 2, 9, 1)))
    payer, node = draw.id(len(model.users.users)), draw.id(len(model.nodes.nodes))
    nexus = model.users.users[payer].nexus if payer < len(model.users.users) and draw.chance(0.97) else 2
    presented = model.tokenomics.presented.get((nexus, epoch, payer, node))
    before = presented.value_nlai if presented else 0
    value = before + draw.amount(30 * NANO) if draw.chance(0.9) else draw.amount(before)
    voucher = (nexus, epoch, payer, node, value, draw.randrange(10**6), draw.bytes32())
    allowed = [key for user, key in model.users.keys if user == payer]
    signer = draw.pick(allowed) if allowed and draw.chance(0.5) else _owner(world, payer)
    key = draw.pick((*PERSONS, *SESSIONS)) if draw.chance(0.04) else world.keys.get(signer, PERSONS[0])
    contract = draw.pick(HOLDING) if draw.chance(0.03) else "Tokenomics"
    chain_id = model.chain_id + draw.chance(0.03)
    signature = key.sign(digest(domain(chain_id, world.addresses[contract]), TYPE, voucher))
    if draw.chance(0.03):
        voucher = (*voucher[:4], value + 1, *voucher[5:])
    return by(draw, draw.pick(ACTORS), "Tokenomics", "present", voucher, _spoiled(draw, signature))


@action(12)
def a_voucher_is_collected(world: World, draw: Draw) -> Step:
    """Mostly one that has waited."""
    presented = world.model.tokenomics.presented
    unpaid = [key for key, it in list(presented.items())[-40:] if it.value_nlai > it.paid_nlai]
    waited = [key for key in unpaid if world.model.epochs.lapse_s(presented[key].since) <= world.now_s()]
    some = draw.pick((waited, waited, waited, unpaid)) or list(presented)
    key = draw.pick(some) if some and draw.chance(0.95) else (1, 0, draw.id(MOST_USERS), draw.id(MOST_NODES))
    return by(draw, draw.pick(ACTORS), "Tokenomics", "collect", *key)


@action(1)
def books_are_opened(world: World, draw: Draw) -> Step:
    return by(draw, STRANGER, "Tokenomics", "openBooks", tuple(draw.ids(len(world.model.nodes.nodes), 3)))


@action(6)
def a_node_claims(world: World, draw: Draw) -> Step:
    return by(draw, STRANGER, "Tokenomics", "claim", draw.id(len(world.model.nodes.nodes)))


@action(2)
def delegators_are_paid(world: World, draw: Draw) -> Step:
    node = draw.id(len(world.model.nodes.nodes))
    return by(draw, world.addresses["StakingPools"], "Tokenomics", "claimForDelegators", node)


@action(2)
def the_treasury_or_the_auditors_are_paid(world: World, draw: Draw) -> Step:
    claims = world.model.tokenomics.claims
    function, owed = draw.pick((("payTreasury", claims.treasury), ("payAuditors", claims.auditors)))
    to = draw.pick((*_PERSONS, *_PERSONS, *_PERSONS, world.addresses["LAIToken"], NOBODY))
    return by(draw, OWNER, "Tokenomics", function, to, draw.amount(owed))


@action(1)
def the_split_changes(world: World, draw: Draw) -> Step:
    shares = [draw.pick((0, 10_000, 50_000, 200_000, PPM, PPM + 1 if draw.chance(0.1) else 0)) for _ in range(4)]
    rates = (*shares, draw.pick((0, 50 * NANO, 5_000 * NANO)))
    return by(draw, OWNER, "Tokenomics", "setRates", rates)


# The bonus


@action(2)
def a_bonus_is_proposed(world: World, draw: Draw) -> Step:
    nodes = draw.ids(len(world.model.nodes.nodes), 4)
    weights = packed([Entry(node, draw.amount(1_000), draw.randrange(2)) for node in nodes])
    if draw.chance(0.02):
        weights += b"\1"
    nexus = _nexus(draw)
    return by(draw, world.model.book.oracles.get(nexus, OWNER), "Tokenomics", "proposeBonus", nexus, weights)


@action(1)
def a_bonus_is_rejected(world: World, draw: Draw) -> Step:
    return by(draw, OWNER if draw.chance(0.5) else STRANGER, "Tokenomics", "rejectBonus")


@action(4)
def a_bonus_is_paid(world: World, draw: Draw) -> Step:
    proposal = world.model.tokenomics.proposal
    weights = proposal.weights if proposal and draw.chance(0.95) else packed([Entry(0, 1, 0)])
    return by(draw, STRANGER, "Tokenomics", "payBonus", weights)


@action(1)
def terms_of_the_bonus_change(world: World, draw: Draw) -> Step:
    per_day = draw.pick((0, NANO, 100 * NANO, 10**6 * NANO))
    terms = (per_day, draw.pick((0, 500_000, 900_000, 900_000, PPM)), draw.pick((0, EPOCH_S)))
    return by(draw, OWNER, "Tokenomics", "setTerms", terms)


# Slashing


@action(3)
def two_answers_are_shown(world: World, draw: Draw) -> Step:
    node, request = draw.id(len(world.model.nodes.nodes)), draw.randrange(40)
    known = node < len(world.model.nodes.nodes)
    signer = world.model.nodes.nodes[node].signer if known else PERSONS[0].address
    retired = [key for (i, key) in world.model.nodes.retired if i == node]
    keys = [world.keys[draw.pick(retired) if retired and draw.chance(0.3) else signer] for _ in range(2)]
    if draw.chance(0.1):
        keys[draw.randrange(2)] = draw.pick(PERSONS)
    contract = "Tokenomics" if draw.chance(0.03) else "Slashing"
    separator = domain(world.model.chain_id + draw.chance(0.03), world.addresses[contract])
    hashes = [draw.bytes32(), draw.bytes32()]
    if draw.chance(0.03):
        hashes[1] = hashes[0]
    answers = [(it, _spoiled(draw, _answer(key, separator, request, node, it))) for it, key in zip(hashes, keys, strict=True)]
    return by(draw, draw.pick(ACTORS), "Slashing", "proveEquivocation", node, request, *answers[0], *answers[1])


@action(3)
def a_slash_is_proposed(world: World, draw: Draw) -> Step:
    nodes, nexus = world.model.nodes, _nexus(draw)
    node = draw.id(len(nodes.nodes))
    stake = nodes.nodes[node].stake if node < len(nodes.nodes) else 0
    oracle = world.model.book.oracles.get(nexus, OWNER)
    return by(draw, oracle, "Slashing", "propose", nexus, node, draw.amount(stake // 8), draw.bytes32())


@action(2)
def a_slash_is_appealed(world: World, draw: Draw) -> Step:
    number = _proposal(world, draw, 1)
    known = number < len(world.model.slashing.proposals)
    operator = _operator(world, world.model.slashing.proposals[number].node) if known else STRANGER
    return by(draw, operator, "Slashing", "appeal", number)


@action(2)
def an_appeal_is_decided(world: World, draw: Draw) -> Step:
    return by(draw, OWNER, "Slashing", "decide", _proposal(world, draw, 2), draw.chance(0.5))


@action(4)
def a_slash_is_executed_or_lapses(world: World, draw: Draw) -> Step:
    state, function = draw.pick(((1, "execute"), (2, "lapse")))
    return by(draw, STRANGER, "Slashing", function, _proposal(world, draw, state))


@action(1)
def penalties_change(world: World, draw: Draw) -> Step:
    shares = draw.pick((0, 500_000, PPM, PPM + 1)), draw.pick((100_000, 200_000, PPM)), draw.pick((0, 100_000, 500_001))
    return by(draw, OWNER, "Slashing", "setTerms", (*shares, draw.pick((EPOCH_S, 2 * EPOCH_S, 0))))


# Reports


@action(3)
def a_nexus_reports(world: World, draw: Draw) -> Step:
    nexus = _nexus(draw)
    epoch = max(0, world.model.epoch_at(world.now_s()) - draw.pick((1, 1, 2, 0)))
    count = draw.randint(0, len(world.model.nodes.nodes) + draw.chance(0.05))
    health, reputation = draw.randbytes((count + 7) // 8 + draw.chance(0.03)), draw.randbytes(2 * count + draw.chance(0.03))
    oracle = world.model.book.oracles.get(nexus, OWNER)
    return by(draw, oracle, "NetworkStatus", "post", nexus, epoch, health, reputation)


@action(1)
def a_report_is_overruled(world: World, draw: Draw) -> Step:
    nexus = draw.pick(NEXUSES)
    epoch = max(0, world.model.status.heads.get(nexus, 0) - draw.pick((1, 1, 1, 2)))
    if draw.chance(0.1):
        return by(draw, OWNER, "NetworkStatus", "setChallengeWindow", draw.pick((EPOCH_S, 2 * EPOCH_S, 0)))
    return by(draw, OWNER, "NetworkStatus", "overrule", nexus, epoch)


# The token


@action(4)
def lai_is_sent(world: World, draw: Draw) -> Step:
    sender = draw.pick((HOLDER, *_PERSONS))
    to = draw.pick((*_PERSONS, *_PERSONS, *world.addresses.values(), NOBODY))
    if to == world.addresses["AddressBook"]:
        to = STRANGER  # which the book does not list as a contract of the network
    wei = draw.amount(world.model.token.balance(sender) // 10)
    if draw.chance(0.2):
        return by(draw, draw.pick(_PERSONS), "LAIToken", "transferFrom", sender, to, wei)
    return by(draw, sender, "LAIToken", "transfer", to, wei)


@action(1)
def lai_is_burned(world: World, draw: Draw) -> Step:
    sender = draw.pick(_PERSONS)
    wei = draw.amount(world.model.token.balance(sender) // 50)
    if draw.chance(0.3):
        return by(draw, draw.pick(_PERSONS), "LAIToken", "burnFrom", sender, wei)
    return by(draw, sender, "LAIToken", "burn", wei)


@action(1)
def an_allowance_is_given_or_taken(world: World, draw: Draw) -> Step:
    spender = draw.pick((*_PERSONS, *(world.addresses[name] for name in HOLDING), NOBODY))
    return by(draw, draw.pick(_PERSONS), "LAIToken", "approve", spender, draw.pick((ALL, ALL, 0)))


@action(1)
def an_allowance_is_signed_for(world: World, draw: Draw) -> Step:
    key, spender = draw.pick(PERSONS), draw.pick((*_PERSONS, *(world.addresses[name] for name in HOLDING)))
    nonce = world.model.token.nonces.get(key.address, 0) - (draw.chance(0.1) and 1)
    deadline_s = world.now_s() + draw.pick((0, EPOCH_S, -1))
    values = (key.address, spender, draw.pick((ALL, 0)), max(0, nonce), deadline_s)
    separator = domain(world.model.chain_id + draw.chance(0.05), world.addresses["LAIToken"])
    r_s_v = _spoiled(draw, draw.pick((key, key, key, PERSONS[0])).sign(digest(separator, PERMIT, values)))
    r_s_v = r_s_v.ljust(65, b"\0")
    arguments = (*values[:3], deadline_s, r_s_v[64], r_s_v[:32], r_s_v[32:64])
    return by(draw, STRANGER, "LAIToken", "permit", *arguments)


@action(1)
def votes_are_delegated(world: World, draw: Draw) -> Step:
    return by(draw, draw.pick((HOLDER, *_PERSONS)), "LAIToken", "delegate", draw.pick((*_PERSONS, NOBODY)))


# The book, and what only a contract may do


@action(1)
def a_role_changes_hands(world: World, draw: Draw) -> Step:
    if draw.chance(0.5):
        return by(draw, OWNER, "AddressBook", "setRole", name32("Faucet"), HOLDER)
    nexus = draw.pick(NEXUSES)
    oracle = draw.pick((FIRST_ORACLE, SECOND_ORACLE, SECOND_ORACLE, PERSONS[0].address))
    return by(draw, OWNER, "AddressBook", "setOracle", nexus, oracle)


@action(1)
def somebody_poses_as_a_contract(world: World, draw: Draw) -> Step:
    someone = draw.pick(ACTORS)
    contract, function, *args = draw.pick(
        (
            ("UserRegistry", "debit", 1, 0, packed([Entry(0, NANO, 0)])),
            ("UserRegistry", "authorise", 1, 0, 0, 0, NANO, someone),
            ("UserRegistry", "debitVoucher", 0, NANO),
            ("UserRegistry", "grantFaucet", (0,), (NANO,)),
            ("NodeRegistry", "slash", 0, NANO, someone, 0),
            ("NodeRegistry", "freeze", 0),
            ("NodeRegistry", "unfreeze", 0),
            ("LAIToken", "mint", someone, NANO),
            ("Tokenomics", "claimForDelegators", 0),
        )
    )
    return Call(someone, contract, function, tuple(args))


def _nexus(draw: Draw) -> int:
    """One of the two; now and then one that there is not."""
    return 3 if draw.chance(0.04) else draw.pick(NEXUSES)


def _owner(world: World, user: int) -> bytes:
    """Who can act for a user: nobody if a contract owns it."""
    users = world.model.users.users
    owned = user < len(users) and users[user].owner not in world.model.contracts
    return users[user].owner if owned else STRANGER


def _operator(world: World, node: int) -> bytes:
    nodes = world.model.nodes.nodes
    return nodes[node].operator if node < len(nodes) else STRANGER


def _operators_call(world: World, draw: Draw, function: str, *args: Any) -> Call:
    node = draw.id(len(world.model.nodes.nodes))
    return by(draw, _operator(world, node), Nodes.NAME, function, node, *args)


def _held(world: World, user: int) -> tuple[int, int]:
    users = world.model.users.users
    return (users[user].purchased, users[user].faucet) if user < len(users) else (NANO, NANO)


def _rows(world: World, draw: Draw, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A few users and as many amounts."""
    users = draw.ids(len(world.model.users.users), 3)
    return tuple(users), tuple(draw.amount(most) for _ in range(len(users) + draw.chance(0.02)))


def _parts(draw: Draw, total: int, pieces: int) -> Sequence[int]:
    """So many amounts that add up to `total`."""
    at = sorted(draw.randint(0, total) for _ in range(pieces - 1))
    return [b - a for a, b in zip([0, *at], [*at, total], strict=True)]


def _proposal(world: World, draw: Draw, state: int) -> int:
    """Mostly one in that state."""
    proposals = world.model.slashing.proposals
    fitting = [i for i, it in enumerate(proposals) if it.state == state]
    return draw.pick(fitting) if fitting and draw.chance(0.9) else draw.id(len(proposals))


def _answer(key: Key, separator: bytes, request: int, node: int, content: bytes) -> bytes:
    return key.sign(digest(separator, ANSWER, (request, node, content)))


def _spoiled(draw: Draw, signature: bytes) -> bytes:
    """Now and then its mirror image, which is as valid but not the one that was given; one cut short; one of nobody."""
    kind = draw.random()
    if kind < 0.03:
        s = ORDER - int.from_bytes(signature[32:64])
        return signature[:32] + s.to_bytes(32) + bytes([55 - signature[64]])
    if kind < 0.05:
        return signature[:64]
    if kind < 0.07:
        return signature[:64] + b"\0"
    return signature


NAMES = list(ACTIONS)
_WEIGHTS = [sum(weight for weight, _ in list(ACTIONS.values())[: i + 1]) for i in range(len(ACTIONS))]
