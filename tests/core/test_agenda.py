"""An agenda is a plain list of times, read faster."""

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.agenda import NONE, first_row, first_time, new_agenda, next_row, set_time, time_of
from lattice_core.directory import Directory
from lattice_core.units import NEVER_NS

times_ns = st.integers(0, 9) | st.just(NEVER_NS) | st.integers(0, NEVER_NS)


def rows_due(agenda: Directory, table: int) -> list[int]:
    """All rows at the first time, as the agenda walks them."""
    found, row = [], first_row(agenda.handle, table)
    while row != NONE:
        found.append(row)
        row = next_row(agenda.handle, table, row)
    return found


@given(st.data(), st.integers(1, 40))
def test_an_agenda_says_what_a_plain_list_of_times_says(data: st.DataObject, capacity: int) -> None:
    """Its first time, the rows that are due then from the lowest up, and each row's own time; it grows as the list does."""
    agenda = Directory({"beside": new_agenda(1), "agenda": new_agenda(capacity)})
    table, plain = 1, [NEVER_NS] * capacity
    for row, t_ns in data.draw(st.lists(st.tuples(st.integers(0, capacity - 1), times_ns), max_size=60)):
        set_time(agenda.handle, table, row, t_ns)
        plain[row] = t_ns
        assert first_time(agenda.handle, table) == min(plain)
    more = data.draw(st.integers(0, 40))
    agenda.put("agenda", new_agenda(capacity + more, agenda.agenda))
    plain += [NEVER_NS] * more
    for row, t_ns in data.draw(st.lists(st.tuples(st.integers(0, len(plain) - 1), times_ns), max_size=10)):
        set_time(agenda.handle, table, row, t_ns)
        plain[row] = t_ns
    assert [time_of(agenda.handle, table, row) for row in range(len(plain))] == plain
    assert first_time(agenda.handle, table) == min(plain)
    if min(plain) < NEVER_NS:
        assert rows_due(agenda, table) == [row for row, t_ns in enumerate(plain) if t_ns == min(plain)]
    assert first_time(agenda.handle, 0) == NEVER_NS, "another table is left alone"
