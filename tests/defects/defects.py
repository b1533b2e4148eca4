"""The planted faults: for each invariant, one wrong line that its test must notice."""

from typing import NamedTuple


class Defect(NamedTuple):
    """A fault in `file`: its only occurrence of `find` becomes `replace`, and `test` (a pytest node id) must then fail."""

    invariant: str
    file: str
    find: str
    replace: str
    test: str


EQUALITY = "tests/sim/test_engine_equality.py::test_inv_6_both_engines_leave_the_same_state_to_the_bit"
DRIVER = "tests/live/test_driver.py"
KERNEL = "tests/invariants/test_kernel_invariants.py"
RELAY = f"{KERNEL}::test_inv_11_an_answer_of_several_nodes_pays_each_for_its_own_receipted_tokens_and_the_prompt_once"
SHADOWS = "tests/chain/test_shadows.py"

DEFECTS = [
    Defect(
        invariant="INV-1",
        file="lattice_core/ledger.py",
        find="    a.debit_nlai += purchased\n",
        replace="    a.debit_nlai += nlai\n",
        test=f"{KERNEL}::test_inv_1_a_fee_moves_from_the_payer_to_the_node_and_the_rest_comes_back",
    ),
    Defect(
        invariant="INV-2",
        file="lattice_core/requests.py",
        find="        a.failed += 1\n",
        replace="        a.completed += 1\n",
        test=f"{KERNEL}::test_inv_2_each_request_ends_once_and_is_counted_for_its_account_and_node",
    ),
    Defect(
        invariant="INV-3",
        file="lattice_core/transition.py",
        find="max(c.now_ns, min(t_ns, LAST_NS))",
        replace="min(t_ns, LAST_NS)",
        test=f"{KERNEL}::test_inv_3_what_is_told_late_happens_when_it_is_told",
    ),
    Defect(
        invariant="INV-4",
        file="lattice_core/state.py",
        find="    prefix=u8,\n",
        replace="    prefix=u8,\n    output_tok=i4,\n",
        test=f"{KERNEL}::test_inv_4_no_policy_and_no_table_knows_how_long_an_answer_will_be",
    ),
    Defect(
        invariant="INV-5",
        file="lattice_core/nexus.py",
        find='"_score": 0,',
        replace='"_score": 0, "_rows": {},',
        test=f"{KERNEL}::test_inv_5_a_kernel_pickled_on_the_way_goes_on_as_if_nothing_had_happened",
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="    if entity != m.entity:\n        return entity < m.entity\n",
        replace="    if entity != m.entity:\n        return entity > m.entity\n",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="    due_ns = next_timer_ns(S)\n    if due_ns < t_ns:\n",
        replace="    due_ns = next_timer_ns(S)\n    if due_ns <= t_ns:\n",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="    if _ask_at(E, chosen).began:\n",
        replace="    if True:\n",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="_ask_at(E, other).request < _ask_at(E, a).request",
        replace="_ask_at(E, other).request > _ask_at(E, a).request",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="account_at(S, ask.account).key, ask.arrival_ns)",
        replace="account_at(S, ask.account).key, core.now_ns)",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_sim/loop.py",
        find="ask.prompt_tok + ask.from_tok, left_tok",
        replace="ask.prompt_tok, left_tok",
        test=EQUALITY,
    ),
    Defect(
        invariant="INV-6",
        file="lattice_core/agenda.py",
        find="        i *= 8\n        while load(D, table, i) != t_ns:\n            i += 1\n",
        replace="        i = 8 * i + 7\n        while load(D, table, i) != t_ns:\n            i -= 1\n",
        test="tests/core/test_agenda.py::test_an_agenda_says_what_a_plain_list_of_times_says",
    ),
    Defect(
        invariant="INV-7",
        file="lattice_core/nexus.py",
        find="        if self._journal is not None:\n",
        replace="        if self._journal is not None and type(event) is not Tick:\n",
        test=f"{KERNEL}::test_inv_7_the_journal_alone_gives_the_same_decisions_and_digest",
    ),
    Defect(
        invariant="INV-8",
        file="lattice_core/streams.py",
        find="np.uint64(key)",
        replace="np.uint64(0)",
        test="tests/core/test_streams.py::test_another_entity_draws_something_else_and_leaves_mine_as_it_was",
    ),
    Defect(
        invariant="INV-8",
        file="lattice_core/routing.py",
        find="base = bits(p.seed, ROUTING, r.key,",
        replace="base = bits(p.seed, ROUTING, r.id,",
        test=f"{KERNEL}::test_inv_8_another_user_changes_nobodys_draws",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/split.py",
        find="(rest_nlai % PPM * rate_ppm + PPM - 1) // PPM",
        replace="rest_nlai % PPM * rate_ppm // PPM",
        test="tests/chain/test_settlement.py::test_inv_9_the_contract_settles_as_its_shadow_does",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/registration.py",
        find="paid - -paid * terms.rise_ppm // PPM",
        replace="paid + paid * terms.rise_ppm // PPM",
        test=f"{SHADOWS}::test_inv_9_joins_burn_what_their_shadow_says",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/faucet.py",
        find="Budget(left - nlai, now_s, budget.half_life_s)",
        replace="Budget(left - nlai, budget.since_s, budget.half_life_s)",
        test=f"{SHADOWS}::test_inv_9_the_faucet_grants_what_its_shadow_has_left",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/rewards.py",
        find="min(grown, treasury_nlai + mintable_nlai)",
        replace="grown",
        test=f"{SHADOWS}::test_inv_9_bonuses_are_paid_as_their_shadow_says",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/slashing.py",
        find="taken * reporter_ppm // PPM",
        replace="-(-taken * reporter_ppm // PPM)",
        test=f"{SHADOWS}::test_inv_9_slashes_take_what_their_shadow_says",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/escrow.py",
        find="now_s >= closed_s",
        replace="now_s > closed_s",
        test=f"{SHADOWS}::test_inv_9_vouchers_session_keys_and_withdrawals_pay_what_their_shadow_says",
    ),
    Defect(
        invariant="INV-9",
        file="lattice_core/chain/contracts/tokenomics.py",
        find="= ids, faucet, purchased",
        replace="= ids, purchased, faucet",
        test="tests/chain/test_settlement.py::test_inv_9_the_contract_settles_as_its_shadow_does",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_core/batches.py",
        find=" and batch_at(S, batch).epoch == epoch",
        replace="",
        test=f"{KERNEL}::test_inv_10_a_batch_that_is_confirmed_again_pays_nobody_again",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_core/batches.py",
        find="    a.overdue_nlai += owed.nlai\n",
        replace="    a.debit_nlai += owed.nlai\n",
        test=f"{KERNEL}::test_inv_10_what_a_batch_skips_or_lets_lapse_is_left_to_the_vouchers_and_no_batch_pays_it",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_core/requests.py",
        find="r.unpaid_tok, delivered) if delivered > 0 else 0",
        replace="r.unpaid_tok, r.max_tok)",
        test=f"{KERNEL}::test_inv_11_a_user_pays_for_receipted_tokens_and_never_more_than_was_reserved",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_core/requests.py",
        find="        r.unpaid_tok = 0\n",
        replace="        pass\n",
        test=RELAY,
    ),
    Defect(
        invariant="INV-11",
        file="lattice_core/requests.py",
        find="    delivered = le.to_tok - le.from_tok\n",
        replace="    delivered = le.to_tok\n",
        test=RELAY,
    ),
    Defect(
        invariant="INV-11",
        file="lattice_core/requests.py",
        find="    r.from_tok = max(r.from_tok, min(sent_tok, r.max_tok))\n",
        replace="    r.from_tok = max(r.from_tok, sent_tok)\n",
        test="tests/invariants/test_kernel_machine.py",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_core/promises.py",
        find="promise.paid_nlai\n",
        replace="0\n",
        test="tests/chain/test_shadows.py::test_inv_9_vouchers_session_keys_and_withdrawals_pay_what_their_shadow_says",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_core/chain/typed_data.py",
        find='keccak(b"1"), chain_id, contract]',
        replace='keccak(b"1"), 1, contract]',
        test="tests/chain/test_vouchers.py::test_the_digest_of_a_voucher_is_eip_712s",
    ),
    Defect(
        invariant="INV-12",
        file="lattice_core/reputation.py",
        find="    if o.quality_tick != tick:\n",
        replace="    if True:\n",
        test=f"{KERNEL}::test_inv_12_quality_is_drawn_once_a_tick_whatever_the_audits_say_meanwhile",
    ),
    Defect(
        invariant="INV-13",
        file="lattice_core/routing.py",
        find=" or (r.privacy == LOCAL and n.owner != r.account)",
        replace="",
        test=f"{KERNEL}::test_inv_13_a_local_request_runs_on_its_owners_nodes_only",
    ),
    Defect(
        invariant="INV-13",
        file="lattice_core/routing.py",
        find="        return NOT_LISTED\n",
        replace="        pass\n",
        test=f"{KERNEL}::test_inv_13_who_is_not_on_the_list_or_on_the_wrong_one_does_not_serve",
    ),
    Defect(
        invariant="INV-14",
        file="lattice_core/rewards.py",
        find="min(pool_nlai * part // total, cap(burned, returned_ppm))",
        replace="pool_nlai * part // total",
        test="tests/core/test_rewards.py::test_inv_14_no_bonus_exceeds_the_returned_part_of_what_was_burned",
    ),
    Defect(
        invariant="INV-15",
        file="lattice_core/service.py",
        find="    _fill_slots(V, j.node)\n",
        replace="",
        test="tests/core/test_service.py::test_cancelling_frees_the_slot_for_the_first_in_the_queue_at_once",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_live/driver.py",
        find="            self._storage.after(lambda: answer.end(command))\n",
        replace="            answer.end(command)\n",
        test=f"{DRIVER}::test_the_end_of_an_answer_is_told_once_it_is_durable_and_its_tokens_before",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_live/driver.py",
        find="            await self._storage.durable()\n            outcome",
        replace="            outcome",
        test=f"{DRIVER}::test_a_batch_goes_to_the_chain_once_what_it_rests_on_is_durable",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_live/sqlite.py",
        find='_RECEIPTS = "INSERT OR REPLACE',
        replace='_RECEIPTS = "INSERT OR IGNORE',
        test="tests/live/test_recovery.py"
        "::test_what_was_under_way_is_charged_by_its_last_durable_receipt_and_all_else_is_as_it_was",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_live/node/receipts.py",
        find="            check(digest(self.leg.terms.domain, TYPE, signed.progress), signed.signature, self._owner)\n",
        replace="            pass\n",
        test="tests/live/test_hostile.py"
        "::test_whatever_a_node_does_the_answer_is_whole_or_breaks_off_and_costs_what_was_proved",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_live/settlement.py",
        find="                for work in self._past:\n",
        replace="                for work in ():\n",
        test="tests/live/test_recovery.py::test_a_network_goes_on_from_its_snapshot_or_without_it_as_what_it_was",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_live/settlement.py",
        find="            self._trying.append(batch.epoch)",
        replace="            pass",
        test="tests/live/test_settlement.py"
        "::test_in_this_process_too_the_chain_settles_nothing_that_the_kernel_has_given_up_which_waits_for_what_is_queued",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_live/recovery.py",
        find='        _agree(f"{at}: what was settled", outcome.settled, settled)\n',
        replace="",
        test="tests/live/test_recovery.py::test_a_journal_that_does_not_lead_to_what_is_held_is_refused_in_one_line",
    ),
    Defect(
        invariant="INV-10",
        file="lattice_live/vouchers.py",
        find="                return  # at the next epoch's end, or when a node comes, again\n",
        replace="                pass\n",
        test="tests/live/test_vouchers.py::test_each_payers_receipts_of_an_epoch_become_one_voucher_for_each_node",
    ),
    Defect(
        invariant="INV-11",
        file="lattice_live/vouchers.py",
        find="                if receipt.epoch > done:\n",
        replace="                if receipt.epoch > done + 1:\n",
        test="tests/live/test_vouchers.py::test_a_process_that_ended_before_it_signed_signs_at_the_next_start",
    ),
    Defect(
        invariant="INV-13",
        file="lattice_live/membership.py",
        find='            if kept is None or signer.hex() != kept["operator"]:\n',
        replace="            if kept is None:\n",
        test="tests/live/test_membership.py::test_an_errand_is_the_nodes_own_or_an_admins_and_is_done_once",
    ),
    Defect(
        invariant="INV-13",
        file="lattice_live/membership.py",
        find="            if model.model_hash != asked.model_hash:\n",
        replace="            if False:\n",
        test="tests/live/test_membership.py::test_an_application_that_is_not_as_it_must_be_registers_nobody",
    ),
    Defect(
        invariant="INV-5",
        file="lattice_live/driver.py",
        find="[*ask.prompt, *answer.ids[: leg.from_tok]]",
        replace="[*ask.prompt]",
        test=f"{DRIVER}::test_an_answer_goes_on_at_another_node_when_its_own_is_killed_as_if_nothing_had_happened",
    ),
    Defect(
        invariant="INV-5",
        file="lattice_live/node/engine.py",
        find="row.sampler.draw(logits, row.read)",
        replace="row.sampler.draw(logits, row.n)",
        test="tests/live/test_engine.py::test_a_prompt_and_first_tokens_are_continued_with_the_rest",
    ),
]
