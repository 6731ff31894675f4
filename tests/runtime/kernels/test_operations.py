"""Records of operations: what Python writes under a name is what machine code reads under it."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest

from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels.memory import INPUT, OUTPUT, Address, Region
from bvit_analysis.runtime.kernels.programs import Program

LINEAR = op.Linear(
    rows=1,
    outputs=2,
    weight=Address(3),
    scale=Address(4),
    bias=Address(5),
    slope=Address(6),
    zeta=Address(7),
    shortcut=None,
    shortcut_parts=8,
    shortcut_channels=9,
    residual=Address(0),
    out=Address(10),
    by_column=True,
)


def test_a_record_has_every_field_under_its_name() -> None:
    for section, name in op.SECTIONS.items():
        assert op.OPERATION[name].names == section._fields == tuple(get_type_hints(section))
    record = np.zeros(1, op.OPERATION)
    assert op.write(record[0], LINEAR) == []
    [linear] = record["linear"]
    for name, value in LINEAR._asdict().items():
        if name in ("shortcut", "residual"):
            assert linear[name]["given"] == (value is not None)
        else:
            assert linear[name] == (value.at if isinstance(value, Address) else value)
    assert linear["residual"]["at"] == 0  # an address of 0 is one: what is missing has a flag
    for other in ("norm", "mean", "input", "attention"):
        assert not record[other].tobytes().strip(b"\0")


def test_counts_that_threads_change_are_alone_in_a_line_of_the_cache() -> None:
    assert op.SHARE.itemsize == 64
    assert op.MAIL.itemsize % 64 == 0
    assert op.SHARE.fields is not None
    assert op.SHARE.names == ("taken", "done", "doubts")
    assert all(offset % 8 == 0 for _, offset in op.SHARE.fields.values())


def test_regions_are_bound_where_they_were_used() -> None:
    program, space = Program(1), Region()
    for offset in (0, 16):
        source = op.Input(Address(0, INPUT), 1, 1, Address(offset, space), 1, Address(99))
        program.sign(source, 1, "sign")
    fixed = program.table().copy()
    program.bind({INPUT: 1000, OUTPUT: 7, space: 2000})
    bound = program.table()["input"]
    assert bound["x"]["at"].tolist() == [1000, 1000]
    assert bound["add"]["at"].tolist() == [2000, 2016]
    program.bind({space: 3000})
    assert bound["add"]["at"].tolist() == [3000, 3016]
    bound["x"]["at"], bound["add"]["at"] = 0, [0, 16]
    np.testing.assert_array_equal(program.table(), fixed)  # nothing else was touched


@pytest.mark.skipif(kernels.available() != "numba", reason="needs numba")
def test_machine_code_reads_the_fields_that_python_wrote() -> None:
    import numba

    from bvit_analysis.runtime.kernels.pointers import operations_at

    @numba.njit
    def read(at: int) -> tuple[int, int, bool, int, float, bool]:  # type: ignore[misc]
        record = numba.carray(operations_at(at), 2)[1]
        linear, attention = record.linear, record.attention
        return (record.cut.pieces, linear.residual.at, linear.residual.given, linear.out, attention.margin,
                linear.shortcut.given)  # fmt: skip

    table = np.zeros(2, op.OPERATION)
    table["cut"]["pieces"][1] = 11
    op.write(table[1], LINEAR._replace(residual=Address(12)))
    table["attention"]["margin"][1] = 0.25
    assert read(table.ctypes.data) == (11, 12, True, 10, 0.25, False)
