"""Erasing without numbers set by hand: a learning rate from the model's response, eta in stages, a held-out stop.

The concept is gone when guidance no longer points to it. On held-out points x_t of frozen rollouts, with
g = eps*(x_t, c) - eps*(x_t, null) and the guided prediction G(x) = eps(x, null) + s (eps(x, c) - eps(x, null)),

    remainder = 1 + <G_edited(x_t) - G_frozen(x_t), g> / (s <g, g>)

is 1 for the frozen model, 0 when guidance has lost the concept, and negative when it steers away from it. Where a
classifier is given, a few images are looked at too: gone is what they show no more, near the remainder's goal. All
decisions are pure functions of the recorded checks, so that a resumed erasure decides as one never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from esd_core.concepts import Erasure
from esd_core.recipe import Anchor, Recipe

IMAGES = 12  # looked at where a settling ended
SHOWN_AT_MOST = 0.1  # share of them in which a concept that is gone may still be seen


class Action(StrEnum):
    CONTINUE = "continue"
    SETTLE = "settle"  # the learning rate falls linearly to nothing: what single steps disturbed comes back
    RAISE = "raise"  # eta by one
    STOP = "stop"


class Plan(BaseModel):
    """What is the same for every base, found on several of them (docs/tuning.md)."""

    model_config = ConfigDict(frozen=True)

    move: float  # share of the gap that Adam's first step moves the prediction by
    first_eta: float
    highest_eta: float = 5.0
    stage_steps: int = 80  # at one eta before it is raised
    first_check: int
    check_every: int = 20
    settle_steps: int = 40
    most_steps: int
    spared: int = 0  # of them, where giving back follows
    enough: float  # remainder at which the concept is gone as a rule
    sure: float  # remainder to reach as long as the rest of the model stays as it was
    interference_limit: float = 0.75  # what counts as that
    settling_gains: float = 0.08  # by which the remainder falls while settling, as a rule
    judged: bool = False  # whether images are looked at where a settling ended
    shown_at_most: float = SHOWN_AT_MOST
    near: float = 0.05  # how far from its goal the remainder may be where no image shows the concept
    more_steps: float = 0.5  # beyond most_steps, as a share of them, as long as images show the concept


STYLE = Plan(move=0.5, first_eta=2.0, first_check=40, most_steps=160, enough=-0.1, sure=-0.2, near=0.15)
OBJECT = Plan(
    move=2.0,
    first_eta=1.0,
    stage_steps=100,
    first_check=60,
    most_steps=240,
    spared=20,
    enough=0.05,
    sure=-0.05,
    interference_limit=0.9,
)
GLOBAL = Plan(move=1.5, first_eta=2.0, first_check=40, most_steps=280, enough=0.15, sure=0.1)
PLANS = {"style": STYLE, "object": OBJECT, "global": GLOBAL}


class Check(BaseModel):
    """What held-out points say after `step` steps of the concept, the last of them at `eta`.

    interference: change of the guided prediction of retained and of random prompts, as a share of their guidance.
    settled: at the end of a settling. shown: share of images that show the concept, where they were looked at.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    total: int  # steps of all concepts of the job
    eta: float
    remainder: float
    interference: float
    settled: bool
    shown: float | None = None

    @property
    def sentence(self) -> str:
        held_out = f"guidance remainder {self.remainder:.2f}, interference {self.interference:.2f}"
        if self.shown is None:
            return held_out
        return f"{held_out}, still in {round(self.shown * IMAGES)} of {IMAGES} images"


class Decision(BaseModel):
    model_config = ConfigDict(frozen=True)

    action: Action
    reason: str


class Tuned(BaseModel):
    """What was chosen for a concept, why it stopped, and every look on the way.

    pushed: whether it took more than all the steps of its plan, or had none left to reach its goal with.
    """

    model_config = ConfigDict(frozen=True)

    concept: str
    learning_rate: float
    negative_guidance: float
    iterations: int
    reason: str
    checks: tuple[Check, ...]
    pushed: bool = False

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


def plan_of(erasures: Sequence[Erasure], part: int, judged: bool) -> Plan:
    """The plan of one of the concepts that are trained together.

    Of those that train the same weights each moves less at a time, since the steps of all add up (docs/lists.md). Where
    giving back follows, the steps that it costs are spared.
    """
    own = erasures[part]
    plan = PLANS[own.concept.kind]
    company = sum(own.recipe.subset.overlaps(other.recipe.subset) for other in erasures)
    spared = plan.spared if own.recipe.gives_back and len(erasures) == 1 else 0
    chosen = {"move": plan.move * 2 / (1 + company), "most_steps": plan.most_steps - spared}
    return plan.model_copy(update={"judged": judged, **chosen})


def first_eta(recipe: Recipe, plan: Plan) -> float:
    """The eta of the first stage; anchored on the concept it is one larger for the same target."""
    if recipe.negative_guidance is not None:
        return recipe.negative_guidance
    return plan.first_eta + (recipe.anchor is Anchor.CONCEPT)


def most_steps(recipe: Recipe, plan: Plan) -> int:
    """How many steps the concept is taught at most."""
    return recipe.iterations or plan.most_steps + plan.judged * round(plan.more_steps * plan.most_steps)


def learning_rate_share(checks: Sequence[Check], step: int, recipe: Recipe, plan: Plan) -> float:
    """Share of the learning rate for the concept's step number `step`, from 1: it falls linearly while settling."""
    if not checks or decide(checks, recipe, plan).action is not Action.SETTLE:
        return 1.0
    return 1.0 - (step - checks[-1].step) / (plan.settle_steps + 1)


def is_due(checks: Sequence[Check], step: int, recipe: Recipe, plan: Plan) -> bool:
    """Whether to look at the held-out points after this step; a fixed number of steps leaves nothing to decide."""
    if recipe.iterations is not None:
        return False
    if checks and decide(checks, recipe, plan).action is Action.SETTLE:
        return step == checks[-1].step + plan.settle_steps
    return step >= plan.first_check and step % plan.check_every == 0


def eta_after(checks: Sequence[Check], recipe: Recipe, plan: Plan) -> float:
    """The eta of the next step."""
    if not checks:
        return first_eta(recipe, plan)
    return checks[-1].eta + (decide(checks, recipe, plan).action is Action.RAISE)


def wanted(interference: float, plan: Plan) -> float:
    """The remainder to reach: further than enough as long as the rest of the model stays as it was."""
    return plan.enough if interference >= plan.interference_limit else plan.sure


def refuted(checks: Sequence[Check], plan: Plan) -> Check | None:
    """The last look at images, if it showed the concept."""
    looks = [check for check in checks if check.shown is not None]
    return looks[-1] if looks and (looks[-1].shown or 0) > plan.shown_at_most else None


def is_gone(check: Check, plan: Plan) -> bool:
    """Whether held-out points, and images where they were looked at, say so at the end of a settling."""
    goal = wanted(check.interference, plan)
    if check.shown is None:
        return check.remainder <= goal
    return check.shown <= plan.shown_at_most and check.remainder <= goal + plan.near * (check.shown == 0)


def was_pushed(checks: Sequence[Check], plan: Plan) -> bool:
    """Whether an erasure took more than all the steps of its plan, or had none left to reach its goal with."""
    return bool(checks) and (checks[-1].step > plan.most_steps or not is_gone(checks[-1], plan))


def settles_at(checks: Sequence[Check], plan: Plan) -> float:
    """The remainder at which settling is worth a try: what images refuted must be reached before settling then."""
    goal = wanted(checks[-1].interference, plan) + plan.settling_gains + plan.near * plan.judged
    last = refuted(checks, plan)
    return goal if last is None else min(goal, last.remainder)


def decide(checks: Sequence[Check], recipe: Recipe, plan: Plan) -> Decision:
    """What to do after the last check."""
    last = checks[-1]
    goal = wanted(last.interference, plan)
    most = most_steps(recipe, plan) if refuted(checks, plan) else plan.most_steps
    out_of_steps = last.step + plan.settle_steps >= most
    if last.settled and is_gone(last, plan):
        return Decision(action=Action.STOP, reason=f"gone: {last.sentence}")
    if last.settled and out_of_steps:
        short = "gone" if last.remainder <= plan.enough else f"short of its goal {goal:g}, look at the evaluation"
        verdict = "still seen" if refuted(checks, plan) else short
        return Decision(action=Action.STOP, reason=f"{most} steps are the most, {verdict}: {last.sentence}")
    if not last.settled and (out_of_steps or last.remainder <= settles_at(checks, plan)):
        return Decision(action=Action.SETTLE, reason=last.sentence)
    stage_start = max((check.step for check in checks if check.eta < last.eta), default=0)
    may_rise = recipe.negative_guidance is None and last.eta < plan.highest_eta
    if may_rise and (last.settled or last.step - stage_start >= plan.stage_steps):
        return Decision(action=Action.RAISE, reason=last.sentence)
    return Decision(action=Action.CONTINUE, reason=last.sentence)
