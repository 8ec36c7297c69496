"""How much each concept counts in a merged model: pure decisions from what was seen of the model, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from esd_core.tuning import SHOWN_AT_MOST


class Search(NamedTuple):
    """How weights are looked for.

    first: of each concept in the first round; heavier: times that, what is still there, in the next; rounds: at most.
    disturbed: interference, in those of the first round, that no other round may exceed.
    """

    first: float
    heavier: float
    rounds: int
    disturbed: float


class Round(BaseModel):
    """What was seen of the model merged with these weights; one entry for each concept.

    remainders, interference: as in tuning.Check. shown: share of images that show the concept; None: nobody looked.
    """

    model_config = ConfigDict(frozen=True)

    weights: tuple[float, ...]
    remainders: tuple[float, ...]
    interference: float
    shown: tuple[float | None, ...]

    def excess(self, goals: Sequence[float]) -> list[float]:
        """How far each concept is from being gone, in its remainder and in images where they were looked at."""
        return [
            max(0.0, remainder - goal, (shown or 0.0) - SHOWN_AT_MOST)
            for remainder, goal, shown in zip(self.remainders, goals, self.shown, strict=True)
        ]

    @property
    def sentence(self) -> str:
        told = [f"weights {' '.join(f'{weight:g}' for weight in self.weights)}"]
        told.append(f"remainders {' '.join(f'{remainder:.2f}' for remainder in self.remainders)}")
        told.append(f"interference {self.interference:.2f}")
        if any(shown is not None for shown in self.shown):
            told.append(f"still shown {' '.join('-' if s is None else f'{s:.0%}' for s in self.shown)}")
        return ", ".join(told)


def next_weights(rounds: Sequence[Round], goals: Sequence[float], search: Search) -> tuple[float, ...] | None:
    """The weights to try next; None when every concept is gone, others would suffer, or enough rounds were tried.

    goals: the remainder at which each concept may count as gone; infinite where only images decide.
    """
    last = rounds[-1]
    excess = last.excess(goals)
    if not any(excess) or disturbs(last, rounds, search) or len(rounds) >= search.rounds:
        return None
    return tuple(weight * (search.heavier if left else 1.0) for weight, left in zip(last.weights, excess, strict=True))


def disturbs(round_: Round, rounds: Sequence[Round], search: Search) -> bool:
    """Whether the rest of the model changes much more than the first merging changed it."""
    return round_.interference > search.disturbed * rounds[0].interference


def best(rounds: Sequence[Round], goals: Sequence[float], search: Search) -> Round:
    """Of the rounds that do not disturb, the one that leaves least of the concepts, and the first of equals."""
    return min((r for r in rounds if not disturbs(r, rounds, search)), key=lambda r: sum(r.excess(goals)))
