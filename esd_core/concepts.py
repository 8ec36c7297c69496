"""What is to be erased: concepts, how each is erased, and the jobs that follow from a list of them."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from esd_core import digest
from esd_core.errors import InvalidInput
from esd_core.recipe import (
    Anchor,
    Keep,
    ParameterSubset,
    Precision,
    Recipe,
    RecipeName,
    RolloutFrom,
    RolloutSampler,
    TimestepChoice,
    Updates,
    named_recipe,
)

MINIATURE = "miniature"


class ConceptKind(StrEnum):
    STYLE = "style"  # named in prompts: the paper erases it from cross-attention (esd-x)
    OBJECT = "object"  # a class of things (esd-u)
    GLOBAL = "global"  # appears without being named, as nudity does (esd-u)


def _plain_text(value: str) -> str:
    value = value.strip()
    if not value or not value.isprintable():
        raise ValueError("must be printable text that is not blank")
    return value


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain_text)]


def slug_of(name: str) -> str:
    """A name in letters, digits and dashes, for files, models and tasks; distinct for distinct names."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    short = "-".join(part for part in plain.split("-") if part)[:40]
    exact = short.replace("-", " ") == name.lower()
    return short if exact else f"{short or 'concept'}-{digest.of_bytes(name.encode())[:6]}"


class Concept(BaseModel):
    """A concept as the text encoder reads it.

    `erase_from`: erase it only from pictures of this (an attribute). `also_known_as`: other names, erased with it.
    `retain`: prompts whose pictures are held to what the frozen model draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    kind: ConceptKind
    erase_from: Text | None = None
    also_known_as: tuple[Text, ...] = ()
    retain: tuple[Text, ...] = ()

    @property
    def slug(self) -> str:
        return slug_of(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.also_known_as)

    def is_called(self, name: str) -> bool:
        return name.casefold() in {known.casefold() for known in self.names}


class ConceptEntry(BaseModel):
    """A row of a concept list. What is left out follows from the recipe's name and the kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Concept")

    name: Text = Field(title="Concept", description="The concept's name, as a prompt would name it, e.g. Van Gogh.")
    kind: ConceptKind = Field(title="Kind", description="style: esd-x; object and global: esd-u.")
    also_known_as: tuple[Text, ...] = Field(
        (), max_length=20, title="Also known as", description="Synonyms and paraphrases, erased and measured with it."
    )
    retain: tuple[Text, ...] = Field(
        (), max_length=50, title="Retain", description="Prompts to keep as they are, such as near neighbours."
    )
    erase_from: Text | None = Field(None, title="Erase from", description="Erase only from pictures of this text.")
    recipe: RecipeName = Field(
        RecipeName.AUTO,
        title="Recipe",
        description="auto: measured, stopped when the concept is gone; paper; authors-2025. Fields below overrule it.",
    )
    subset: ParameterSubset | None = Field(None, title="Subset", description="Parameters to train; follows the kind.")
    negative_guidance: float | None = Field(None, gt=0, le=20, title="Negative guidance (eta)")
    anchor: Anchor | None = Field(None, title="Anchor", description="What the target starts from.")
    iterations: int | None = Field(None, ge=1, le=10_000, title="Iterations")
    learning_rate: float | None = Field(None, gt=0, le=1, title="Learning rate")
    batch_size: int | None = Field(None, ge=1, le=64, title="Batch size")
    rollout_from: RolloutFrom | None = Field(None, title="Rollout from")
    sampler: RolloutSampler | None = Field(None, title="Rollout sampler")
    rollout_steps: int | None = Field(None, ge=2, le=1000, title="Rollout steps")
    start_guidance: float | None = Field(None, ge=1, le=30, title="Start guidance")
    points_per_rollout: int | None = Field(None, ge=1, le=1000, title="Points per rollout")
    reuse: int | None = Field(None, ge=1, le=100, title="Reuse of a point")
    timestep_choice: TimestepChoice | None = Field(None, title="Timestep choice")
    contexts: int | None = Field(
        None, ge=0, le=32, title="Contexts", description="Random words beside which the concept is erased too."
    )
    keep: Keep | None = Field(None, title="Keep", description="What is held to the frozen model at the same x_t.")
    keep_weight: float | None = Field(None, gt=0, le=100, title="Weight of what is kept")
    gives_back: bool | None = Field(
        None, title="Gives back", description="Whether a pushed erasure is merged with the original weights afterwards."
    )
    precision: Precision | None = Field(None, title="Precision")
    updates: Updates | None = Field(None, title="Updates")
    seed: int | None = Field(None, ge=0, lt=2**31, title="Seed")
    compare_with: ParameterSubset | None = Field(
        None, title="Compare with", description="Erase with this subset too, for the report only; never registered."
    )

    @property
    def erasure(self) -> Erasure:
        """The concept with its complete recipe: this row's settings over those of the named recipe."""
        concept = Concept(**self.model_dump(include=set(Concept.model_fields)))
        named = named_recipe(self.recipe, self.kind.value)
        own = self.model_dump(include=set(Recipe.model_fields), exclude_none=True)
        return Erasure(concept=concept, recipe=_one_of_equals(Recipe(**{**named, **own})))


@lru_cache(maxsize=128)
def _one_of_equals(recipe: Recipe) -> Recipe:
    """The same object for equal recipes: a thousand rows mostly have the same, and it is most of their memory."""
    return recipe


class Erasure(BaseModel):
    """One concept and how it is erased."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: Concept
    recipe: Recipe

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, flat."""
        return {**self.concept.model_dump(mode="json"), **self.recipe.model_dump(mode="json")}


class ErasureJob(BaseModel):
    """One edited model, named by its digest: same digest, same weights.

    Separate jobs erase one concept, a joint job the concepts of a list; both start from the original weights. merged:
    the concepts are erased one by one and then merged, rather than trained in turn. judge: names the probes and
    classifiers that look at images before the erasure stops by itself, if any do.
    """

    model_config = ConfigDict(frozen=True)

    base: str  # as the person wrote it, a branch resolved: hub id with commit, folder, or "miniature"
    base_digest: str
    erasures: tuple[Erasure, ...] = Field(min_length=1)
    merged: bool = False
    judge: str | None = None

    def model_post_init(self, _: Any) -> None:
        for name in ("precision", "updates"):
            asked = {getattr(erasure.recipe, name).value: erasure.concept.name for erasure in self.erasures}
            if len(asked) > 1:
                told = " and ".join(f"{value} for {concept!r}" for value, concept in asked.items())
                raise InvalidInput(
                    f"one model has one {name}, but these concepts ask for {told}: give them all the same {name}, or "
                    "erase them with mode: separate"
                )

    @property
    def digest(self) -> str:
        unset = {name for name in ("merged", "judge") if not getattr(self, name)}
        return digest.of_json(self.model_dump(mode="json", exclude={"base", *unset}))

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(erasure.concept for erasure in self.erasures)

    @property
    def name(self) -> str:
        """The concepts' names, as people read them."""
        return " + ".join(concept.name for concept in self.concepts)

    @property
    def slug(self) -> str:
        if len(self.concepts) == 1:
            return self.concepts[0].slug
        return f"{'merged' if self.merged else 'joint'}-{slug_of(self.name)}"

    @property
    def scope(self) -> str:
        """What the one concept is erased from, as a slug; empty when it is erased everywhere."""
        source = self.concepts[0].erase_from if len(self.concepts) == 1 else None
        return slug_of(source) if source else ""

    @property
    def trainings(self) -> list[ErasureJob]:
        """The jobs that are trained for this one: itself, or of a merged one a job for each concept, erased alone.

        Only the merged model is looked at in images, and only merging gives back: an edit that was given back before is
        too weak to be merged (docs/lists.md).
        """
        if not self.merged:
            return [self]
        recipes = [erasure.recipe.model_copy(update={"gives_back": False}) for erasure in self.erasures]
        alone = [Erasure(concept=concept, recipe=r) for concept, r in zip(self.concepts, recipes, strict=True)]
        return [ErasureJob(base=self.base, base_digest=self.base_digest, erasures=(one,)) for one in alone]

    @property
    def subsets(self) -> tuple[ParameterSubset, ...]:
        """The subsets that are trained, each once."""
        return tuple(dict.fromkeys(erasure.recipe.subset for erasure in self.erasures))

    @property
    def method(self) -> str:
        """The subsets' names, as people read them."""
        return " + ".join(subset.value for subset in self.subsets)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the base that decides the result, flat; a joint job's begin with the concept's slug."""
        own: dict[str, Any] = {"merged": True} if self.merged else {}
        own |= {"judge": self.judge[:12]} if self.judge else {}
        if len(self.erasures) == 1:
            return self.erasures[0].settings | own
        return {f"{e.concept.slug}.{key}": value for e in self.erasures for key, value in e.settings.items()} | own
