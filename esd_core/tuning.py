"""Erasing without numbers set by hand: a learning rate from the model's response, eta in stages, a held-out stop.

The concept is gone when guidance no longer points to it. On held-out points x_t of frozen rollouts, with
g = eps*(x_t, c) - eps*(x_t, null) and the guided prediction G(x) = eps(x, null) + s (eps(x, c) - eps(x, null)),

    remainder = 1 + <G_edited(x_t) - G_frozen(x_t), g> / (s <g, g>)

is 1 for the frozen model, 0 when guidance has lost the concept, and negative when it steers away from it. All
decisions are pure functions of the recorded checks, so that a resumed erasure decides as one never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from esd_core.recipe import Anchor, Recipe


class Action(StrEnum):
    CONTINUE = "continue"
    RAISE = "raise"  # eta by one
    STOP = "stop"


class Plan(BaseModel):
    """What is the same for every base, found on two of them (docs/tuning.md)."""

    model_config = ConfigDict(frozen=True)

    move: float  # share of the gap that Adam's first step moves the prediction by
    first_eta: float
    highest_eta: float = 5.0
    stage_steps: int  # at one eta before it is raised
    first_check: int = 60
    check_every: int = 20
    most_steps: int = 280
    erased: float = -0.12  # remainder at which the concept counts as gone


STYLE = Plan(move=1.0, first_eta=1.0, stage_steps=100)
OBJECT = Plan(move=1.0, first_eta=3.0, stage_steps=80)
GLOBAL = Plan(move=4.0, first_eta=2.0, stage_steps=80)
PLANS = {"style": STYLE, "object": OBJECT, "global": GLOBAL}


class Check(BaseModel):
    """What held-out points say after `step` steps of the concept, the last of them at `eta`.

    interference: change of the guided prediction of retained and of random prompts, as a share of their guidance.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    total: int  # steps of all concepts of the job
    eta: float
    remainder: float
    interference: float


class Decision(BaseModel):
    model_config = ConfigDict(frozen=True)

    action: Action
    reason: str


class Tuned(BaseModel):
    """What was chosen for a concept, why it stopped, and every look on the way."""

    model_config = ConfigDict(frozen=True)

    concept: str
    learning_rate: float
    negative_guidance: float
    iterations: int
    reason: str
    checks: tuple[Check, ...]

    @property
    def sentence(self) -> str:
        return (
            f"{self.concept}: lr {self.learning_rate:.2g}, eta {self.negative_guidance:g}, "
            f"{self.iterations} steps; {self.reason}"
        )


def learning_rate_from_response(probe_step: float, moved: float, gap: float, fraction: float) -> float:
    """Adam's learning rate whose first step moves the prediction by `fraction` of the gap.

    moved: norm of the prediction's change when every parameter goes `probe_step` against its gradient's sign, which
    is Adam's first step; gap: norm of eps*(x, c) - eps*(x, null) at the same points. The response is linear.
    """
    return fraction * gap * probe_step / moved


def first_eta(recipe: Recipe, plan: Plan) -> float:
    """The eta of the first stage; anchored on the concept it is one larger for the same target."""
    if recipe.negative_guidance is not None:
        return recipe.negative_guidance
    return plan.first_eta + (recipe.anchor is Anchor.CONCEPT)


def most_steps(recipe: Recipe, plan: Plan) -> int:
    """How many steps the concept is taught at most."""
    return recipe.iterations or plan.most_steps


def is_due(step: int, recipe: Recipe, plan: Plan) -> bool:
    """Whether to look at the held-out points after this step. Fixed iterations and eta leave nothing to decide."""
    if not recipe.is_tuned or (recipe.iterations and recipe.negative_guidance):
        return False
    last = step == most_steps(recipe, plan)
    return last or (step >= plan.first_check and step % plan.check_every == 0)


def eta_after(checks: Sequence[Check], recipe: Recipe, plan: Plan) -> float:
    """The eta of the next step."""
    if not checks:
        return first_eta(recipe, plan)
    return checks[-1].eta + (decide(checks, recipe, plan).action is Action.RAISE)


def decide(checks: Sequence[Check], recipe: Recipe, plan: Plan) -> Decision:
    """What to do after the last check."""
    last = checks[-1]
    looked = f"guidance remainder {last.remainder:.2f} on held-out points"
    if last.remainder <= plan.erased and recipe.iterations is None:
        return Decision(action=Action.STOP, reason=f"gone: {looked}, at most {plan.erased:g} was asked")
    if last.step >= most_steps(recipe, plan):
        gone = "gone" if last.remainder <= plan.erased else "NOT gone"
        return Decision(action=Action.STOP, reason=f"{gone} after the most steps allowed: {looked}")
    before = max((check.step for check in checks if check.eta < last.eta), default=0)
    may_rise = recipe.negative_guidance is None and last.eta < plan.highest_eta
    if may_rise and last.remainder > plan.erased and last.step - before >= plan.stage_steps:
        return Decision(action=Action.RAISE, reason=f"{looked} after {last.step - before} steps at eta {last.eta:g}")
    return Decision(action=Action.CONTINUE, reason=looked)
