"""The operations that kernels can be asked for, as rows of integers: what a program is made of.

An operation is cut into pieces that any thread may take, so all it needs is in its row: sizes and addresses. Fields
shared by all: KIND, UNITS (rows, or images times heads or groups), EACH (units of a piece), PIECES.
"""

from __future__ import annotations

KIND, UNITS, EACH, PIECES = range(4)
FIELDS = 32
"Integers of a row."

NORM, SUM, ADD, SIGN, LINEAR, ATTEND = range(6)
"""Kinds: layer norm; sums over BLOCK tokens; what a token-mean shift adds, from them; shift, sign and pack; sign and
linear layer; attention."""

# NORM, a unit is a row
N_X, N_OUT, N_WEIGHT, N_BIAS, N_EPS, N_CHANNELS = range(4, 10)

# SUM, a unit is BLOCK tokens of an image; ADD, a unit is GROUP channels of an image
BLOCK, GROUP = 32, 64
M_X, M_STRIDE, M_TOKENS, M_CHANNELS, M_SUMS, M_BIAS, M_SHARE, M_OUT = range(4, 12)

# SIGN, a unit is a row; LINEAR has the same fields for its input
S_X, S_STRIDE, S_CHANNELS, S_HEADS, S_ADD, S_ADD_EACH, S_OUT = range(4, 11)

# LINEAR, a unit is a row, or COLUMNS of its outputs where L_BY_COLUMN; S_X = 0: the input is packed in S_OUT already
(
    L_WEIGHT, L_OUTPUTS, L_SCALE, L_BIAS, L_SLOPE, L_ZETA, L_SHORTCUT, L_PARTS, L_INPUTS, L_RESIDUAL, L_OUT, L_ROWS,
    L_BY_COLUMN,
) = range(11, 24)  # fmt: skip

# ATTEND, a unit is a head of an image
(
    A_Q, A_K, A_V, A_STRIDE, A_TOKENS, A_HEAD_DIM, A_HEADS, A_TABLE, A_LEVEL, A_LIMIT, A_VALUES, A_MARGIN, A_OUT, A_NEAR,
) = range(4, 18)  # fmt: skip

TAKEN, DONE, DOUBTS = range(3)
"""Fields of a share of an operation while a program runs: pieces taken, pieces done, rows of attention near a tie.

The pieces are dealt into a share a thread, in order, so that a thread meets the rows again that it has in its cache;
who has finished his own takes of the others'."""
STATE_FIELDS = 8
"Integers of a share: a line of the cache, so that threads do not wait for each other's counts."

IDLE, POSTED, ASLEEP = range(3)
"What a thread that serves programs is doing."
MAIL_STATUS, MAIL_OPS, MAIL_COUNT, MAIL_STATE, MAIL_FIRST, MAIL_SHARE, MAIL_SHARES = range(7)
MAIL_FIELDS = 16
