"""What a transaction's gas is spent on: each opcode's own share, as py-evm charges it."""

from collections import Counter
from typing import Any

from eth.vm.forks.prague.computation import PragueComputation

from lattice_core.chain.port import Receipt, Transaction
from lattice_core.chain.pyevm import PyEvm


def gas_by_opcode(chain: PyEvm, transaction: Transaction) -> tuple[Receipt, Counter[tuple[str, int]]]:
    """What `transact` would return, without effect, and the gas of each (mnemonic, gas of one execution).

    Calls count without what the called contract spends, which counts at its own opcodes. The sum is what execution spent: the
    transaction's base and its calldata come on top, refunds go off.
    """
    spent: Counter[tuple[str, int]] = Counter()
    total = 0

    def metered(opcode: Any) -> Any:
        def run(computation: Any) -> None:
            nonlocal total
            meter, before = computation._gas_meter, total
            remaining = meter.gas_remaining
            try:
                opcode(computation)
            finally:
                own = remaining - meter.gas_remaining - (total - before)
                spent[opcode.mnemonic, own] += own
                total += own

        return run

    class Metered(PragueComputation):
        opcodes = {value: metered(opcode) for value, opcode in PragueComputation.opcodes.items()}  # noqa: RUF012

    state: Any = chain._state
    state.computation_class = Metered
    try:
        return chain.simulate(transaction), spent
    finally:
        del state.computation_class
