"""Tables as CSV that a spreadsheet reads and does not execute."""

from __future__ import annotations

import csv

import pandas as pd

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose text, column names included, no spreadsheet takes for a formula.

    Text that begins like a formula, blanks aside, gets a ' before it. Numbers, negative ones too, stay as they are.

    Args:
        table: Columns of numbers or text.
    """

    def plain(value: object) -> object:
        unsafe = isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA_STARTS)
        return f"'{value}" if unsafe else value

    kept = table.copy()
    for place, kind in enumerate(kept.dtypes):
        if len(kept) and not pd.api.types.is_numeric_dtype(kind):
            kept.isetitem(place, kept.iloc[:, place].map(plain))
    return kept.rename(columns=plain)


def csv_text(table: pd.DataFrame) -> str:
    r"""Return a table as CSV that a spreadsheet does not execute; all text is quoted.

    Args:
        table: Columns of numbers or text.

    Example:
        >>> csv_text(pd.DataFrame({"run": ["=1+1", "a"], "x": [-1.5, 2.0]}))
        '"run","x"\n"\'=1+1",-1.5\n"a",2.0\n'
    """
    text = without_formulas(table).to_csv(
        index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )
    return str(text)
