"""One linear sum assignment: pairs whose scores add up to the most."""

import numpy as np
from scipy.optimize import linear_sum_assignment


def assign(score: np.ndarray, dead_a: np.ndarray, dead_b: np.ndarray) -> np.ndarray:
    """Solve one linear sum assignment; dead rows and columns are matched last.

    Returns:
        for each row its column: a bijection; what is left is in order where scores do not tell
    """
    order = np.full(len(score), -1)
    rows, columns = np.flatnonzero(~dead_a), np.flatnonzero(~dead_b)
    at_row, at_column = linear_sum_assignment(score[np.ix_(rows, columns)], maximize=True)
    order[rows[at_row]] = columns[at_column]
    rows, columns = np.flatnonzero(order < 0), np.setdiff1d(np.arange(len(score)), order)
    at_row, at_column = linear_sum_assignment(score[np.ix_(rows, columns)], maximize=True)
    order[rows[at_row]] = columns[at_column]
    return order
