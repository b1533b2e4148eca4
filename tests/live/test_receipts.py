"""A node's receipts before the Nexus's eyes: what was delivered is accepted, and nothing else is."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.chain.keys import Key, key_of
from lattice_core.chain.typed_data import digest
from lattice_core.service import RECEIPT_TOK
from lattice_live.node.identity import Terms
from lattice_live.node.receipts import PROOF_MS, TYPE, Auditor, Book, Leg, Progress, ReceiptError, Signed

NODE, OTHER = key_of(1), key_of(2)
LEG = Leg(Terms(nexus=0, node=3, chain_id=31337, registry=bytes(range(20))), leg=17, model_hash=bytes(32), prompt_tok=5)

TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50)
CHOICES = st.lists(st.booleans(), min_size=50, max_size=50)
"""After which tokens the clock brings a receipt."""


def parties(key: Key = NODE, leg: Leg = LEG) -> tuple[Book, Auditor]:
    return Book(leg, key), Auditor(LEG, NODE.address)


def written(book: Book, tokens: Sequence[int], timed: Sequence[bool]) -> list[int | Signed]:
    """What the node sends: its tokens, and receipts among them."""
    sent: list[int | Signed] = []
    for t_ms, (token, due) in enumerate(zip(tokens, timed, strict=False)):
        sent.append(token)
        if book.add(token) or due or t_ms + 1 == len(tokens):
            sent.append(book.sign(t_ms))
    return sent


def read(auditor: Auditor, sent: Sequence[int | Signed]) -> None:
    for part in sent:
        if isinstance(part, Signed):
            take(auditor, part)
        else:
            auditor.add(part)


def take(auditor: Auditor, signed: Signed) -> None:
    auditor.check(signed)
    assert auditor.prove() == signed


@given(TOKENS, CHOICES)
def test_an_honest_node_is_receipted_for_all_that_came_and_never_for_more(tokens: list[int], timed: list[bool]) -> None:
    book, auditor = parties()
    for part in written(book, tokens, timed):
        read(auditor, [part])
        assert auditor.count - RECEIPT_TOK <= auditor.receipted <= auditor.count
    auditor.finish()
    assert auditor.receipted == len(tokens)


@given(TOKENS, CHOICES, st.integers(1, 1_000))
def test_signatures_are_checked_every_16_tokens_every_four_seconds_and_at_the_end(
    tokens: list[int], timed: list[bool], ms_a_token: int
) -> None:
    book, auditor = parties()
    proven, proven_ms, last = 0, 0, None
    for number, token in enumerate(tokens, 1):
        auditor.add(token)
        if not (book.add(token) or timed[number % len(timed)] or number == len(tokens)):
            continue
        last = book.sign(number * ms_a_token)
        due = number - proven >= RECEIPT_TOK or number * ms_a_token - proven_ms >= PROOF_MS
        assert auditor.check(last) == due
        if due:
            assert auditor.prove() == last
            proven, proven_ms = number, number * ms_a_token
    assert auditor.prove() == (None if proven == len(tokens) else last)


@given(TOKENS, CHOICES, st.data())
def test_a_receipt_with_any_field_altered_is_refused(tokens: list[int], timed: list[bool], data: st.DataObject) -> None:
    book, auditor = parties()
    *before, last = written(book, tokens, timed)
    read(auditor, before)
    assert isinstance(last, Signed)
    name = data.draw(st.sampled_from(Progress._fields))
    value = getattr(last.progress, name)
    other = st.binary(min_size=32, max_size=32) if isinstance(value, bytes) else st.integers(0, 2**16 - 1)
    forged = last.progress._replace(**{name: data.draw(other.filter(lambda other: other != value))})
    if name == "t_ms":  # which only the node knows
        with pytest.raises(ReceiptError):
            take(auditor, Signed(forged, last.signature))
        return
    for signature in (last.signature, NODE.sign(digest(LEG.terms.domain, TYPE, forged))):  # also if the node itself signs it
        with pytest.raises(ReceiptError, match=f"{name}: must be"):
            auditor.check(Signed(forged, signature))
    read(auditor, [last])  # they left no mark
    auditor.finish()


@given(TOKENS, CHOICES, st.integers(0, 64), st.integers(0, 7))
def test_a_signature_with_any_bit_flipped_is_refused(tokens: list[int], timed: list[bool], byte: int, bit: int) -> None:
    book, auditor = parties()
    *before, last = written(book, tokens, timed)
    read(auditor, before)
    assert isinstance(last, Signed)
    signature = bytearray(last.signature)
    signature[byte] ^= 1 << bit
    with pytest.raises(ReceiptError):
        take(auditor, Signed(last.progress, bytes(signature)))


@given(TOKENS, CHOICES)
def test_no_receipt_is_taken_twice(tokens: list[int], timed: list[bool]) -> None:
    book, auditor = parties()
    seen: list[Signed] = []
    for part in written(book, tokens, timed):
        read(auditor, [part])
        seen += [part] if isinstance(part, Signed) else []
        for old in seen:
            with pytest.raises(ReceiptError):
                auditor.check(old)


@given(TOKENS, CHOICES, st.data())
def test_a_receipt_for_a_token_that_did_not_come_is_refused(tokens: list[int], timed: list[bool], data: st.DataObject) -> None:
    sent = written(parties()[0], tokens, timed)
    places = [i for i, part in enumerate(sent) if not isinstance(part, Signed)]
    lost = data.draw(st.sampled_from(places))
    with pytest.raises(ReceiptError):
        read(parties()[1], sent[:lost] + sent[lost + 1 :])


@given(TOKENS, CHOICES, st.data())
def test_a_receipt_for_other_tokens_than_came_is_refused(tokens: list[int], timed: list[bool], data: st.DataObject) -> None:
    sent = written(parties()[0], tokens, timed)
    place = data.draw(st.sampled_from([i for i, part in enumerate(sent) if not isinstance(part, Signed)]))
    with pytest.raises(ReceiptError, match="tokens_hash"):
        read(parties()[1], [*sent[:place], sent[place] ^ 1, *sent[place + 1 :]])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "leg", "said"),
    [
        (OTHER, LEG, "must be signed by 0x"),
        (NODE, LEG._replace(terms=LEG.terms._replace(chain_id=1)), "must be signed by 0x"),
        (NODE, LEG._replace(terms=LEG.terms._replace(registry=bytes(20))), "must be signed by 0x"),
        (NODE, LEG._replace(terms=LEG.terms._replace(node=4)), "node: must be 3, not 4"),
        (NODE, LEG._replace(leg=18), "leg: must be 17, not 18"),
        (NODE, LEG._replace(prompt_tok=6), "prompt_tok: must be 5, not 6"),
    ],
)
def test_a_receipt_of_another_key_registry_node_or_leg_is_refused(key: Key, leg: Leg, said: str) -> None:
    book, auditor = parties(key, leg)
    with pytest.raises(ReceiptError, match=said):
        read(auditor, written(book, [1, 2, 3], [False] * 3))


def test_tokens_must_have_their_receipt_in_time() -> None:
    _, auditor = parties()
    for token in range(RECEIPT_TOK):
        auditor.add(token)
    with pytest.raises(ReceiptError, match="16 tokens without a receipt"):
        auditor.add(RECEIPT_TOK)
    with pytest.raises(ReceiptError, match="ends with 16 tokens without a receipt"):
        auditor.finish()


def test_time_does_not_go_back_and_a_receipt_of_nothing_is_none() -> None:
    book, auditor = parties()
    read(auditor, [1])
    book.add(1)
    auditor.check(book.sign(100))
    with pytest.raises(ReceiptError, match="no tokens"):
        auditor.check(book.sign(100))
    read(auditor, [2])
    book.add(2)
    with pytest.raises(ReceiptError, match="t_ms: 99 after 100"):
        auditor.check(book.sign(99))


@given(TOKENS, CHOICES)
def test_a_receipt_survives_json(tokens: list[int], timed: list[bool]) -> None:
    for part in written(parties()[0], tokens, timed):
        if isinstance(part, Signed):
            assert Progress.from_json(part.progress.to_json()) == part.progress


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(Progress._fields), inner, max_size=9),
    max_leaves=9,
)


@given(JSON)
def test_what_is_no_receipt_is_refused(content: object) -> None:
    with pytest.raises(ReceiptError, match="not a receipt"):
        Progress.from_json(content)
