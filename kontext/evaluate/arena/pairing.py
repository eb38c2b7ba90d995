"""Bradley-Terry strengths (by evalica), and which pair of editors is worth the next question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.arena.gold import QUESTIONS
from kontext.store.votes import Vote

Matrix = NDArray[np.float64]
PRIOR = 0.5  # ties that every pair begins with, so that who never lost has a finite rating


def wins(votes: Sequence[Vote], question: str, editors: Sequence[str]) -> Matrix:
    """[E, E]: how often the row's editor was chosen over the column's; a tie is half each."""
    index = {name: row for row, name in enumerate(editors)}
    found = np.zeros((len(editors), len(editors)))
    for vote in votes:
        left, right = index.get(vote.left_editor), index.get(vote.right_editor)
        share = vote.share(question, vote.left_editor)
        if left is not None and right is not None and share == share:
            found[left, right] += share
            found[right, left] += 1 - share
    return found


def strengths(won: Matrix) -> Matrix:
    """Natural logarithms of the Bradley-Terry strengths [E] of a matrix of wins, mean 0."""
    import evalica
    import pandas as pd

    rows, columns = np.nonzero(~np.eye(len(won), dtype=bool))
    scores = evalica.bradley_terry(
        rows.tolist(),
        columns.tolist(),
        [evalica.Winner.X] * len(rows),
        index=pd.Index(range(len(won))),
        weights=(won[rows, columns] + PRIOR / 2).tolist(),
        limit=10_000,
    ).scores
    logs = np.log(scores.sort_index().to_numpy(dtype=np.float64))
    return np.asarray(logs - logs.mean())


def value_of_asking(votes: Sequence[Vote], editors: Sequence[str]) -> Matrix:
    """[E, E]: what one more vote on a pair would tell, summed over the questions.

    It is the variance of the difference of their ratings, times the variance of the answer: a pair
    that was asked little and is close comes first, one whose answer is known comes last.
    """
    total = np.zeros((len(editors), len(editors)))
    for question in QUESTIONS:
        won = wins(votes, question, editors)
        theta = strengths(won)
        chance = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        answer = chance * (1 - chance)
        known = (won + won.T + PRIOR) * answer
        np.fill_diagonal(known, 0)
        covariance = np.linalg.pinv(np.diag(known.sum(axis=1)) - known)
        own = np.diag(covariance)
        total += answer * (own[:, None] + own[None, :] - 2 * covariance)
    np.fill_diagonal(total, 0)
    return total
