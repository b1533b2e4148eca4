"""The planted faults: for each invariant, one wrong line that its test must notice."""

from typing import NamedTuple


class Defect(NamedTuple):
    """A fault in `file`: its only occurrence of `find` becomes `replace`, and `test` (a pytest node id) must then fail."""

    invariant: str
    file: str
    find: str
    replace: str
    test: str


DEFECTS = [
    Defect(
        invariant="INV-8",
        file="lattice_core/streams.py",
        find="np.uint64(key)",
        replace="np.uint64(0)",
        test="tests/core/test_streams.py::test_another_entity_draws_something_else_and_leaves_mine_as_it_was",
    ),
]
