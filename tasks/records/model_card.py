"""What a version looks like to people: the before/after table, and the model card of a release."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from esd_core.concepts import ErasureJob
from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.pairs import PairCounts
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.loading_code import loading_code
from tasks.approvals.approval_log import ApprovalRecord

PAPER = "[Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023](https://arxiv.org/abs/2303.07345)"
TAGS = ("text-to-image", "stable-diffusion", "diffusers", "concept-erasure", "esd")


def figures_table(report: EvaluationReport) -> str:
    """Markdown table: every probe's rates with 95 % intervals, the erased concept first and in bold.

    Where it was measured, the last column says which images are pictures at all.
    """
    told = report.coherent_of_others is not None

    def pictures(counts: PairCounts | None) -> str:
        if counts is None:
            return ""
        after = counts.after_interval
        return f" {counts.before:.0%} -> {counts.after:.0%} ({after.lower:.0%} to {after.upper:.0%}) |"

    def row(probe: ProbeResult, emphasis: str = "") -> str:
        name = f"{emphasis}{cell(probe.probe)}{emphasis}"
        after, change = probe.after_interval, probe.change_interval
        rates = f"{probe.before:.1%} | {probe.after:.1%} ({after.lower:.0%} to {after.upper:.0%})"
        figures = f"| {name} | {probe.images} | {rates} | {100 * change.lower:+.0f} to {100 * change.upper:+.0f} |"
        return figures + pictures(probe.coherent)

    metrics = report.metrics
    means = f"{metrics['others_before']:.1%} | {metrics['others_after']:.1%}"
    drop = [-100 * metrics[f"others_mean_drop_{end}"] for end in ("upper", "lower")]
    mean = f"| *mean of all others* | | {means} | {drop[0]:+.1f} to {drop[1]:+.1f} |"
    return "\n".join(
        [
            "| probe | images | before | after | change, points |" + told * " pictures at all |",
            "|---|---:|---:|---:|---:|" + told * "---:|",
            *(row(probe, "**") for probe in report.erased),
            *(row(probe) for probe in report.others),
            mean + pictures(report.coherent_of_others),
        ]
    )


def version_description(job: ErasureJob, report: EvaluationReport, verdict: Verdict, code_version: str) -> str:
    """What the registry shows of a version, in Markdown; its history follows below (tasks/records/mirror.py)."""
    passed = "all gates passed" if verdict.passed else "**gates not passed**"
    reasons = "\n".join(f"- {'passed' if gate.passed else 'FAILED'}: {cell(gate.reason)}" for gate in verdict.gates)
    made_of = {
        "base model": job.base,
        "base digest": job.base_digest,
        "weights SHA-256": report.weights_digest,
        "job digest": job.digest,
        "evaluation suite": report.suite_digest,
        "code": f"esd-pipeline {code_version}",
        "recipe": ", ".join(f"{name} {value}" for name, value in job.settings.items()),
    }
    rows = "\n".join(f"| {name} | {cell(str(value))} |" for name, value in made_of.items())
    return (
        f"**{cell(job.name)}** erased from `{job.base}` with {job.method}: {passed}.\n\n"
        f"{reasons}\n\n{figures_table(report)}\n\n| made of | |\n|---|---|\n{rows}\n"
    )


def model_card(
    model: str,
    version: int,
    job: ErasureJob,
    report: EvaluationReport,
    approvals: Sequence[ApprovalRecord],
    code_version: str,
) -> str:
    """README.md of a release, with the front matter that model hubs read."""
    metrics, sources = report.metrics, [concept.erase_from for concept in job.concepts if concept.erase_from]
    scope = f" (erased from pictures of {cell(', '.join(sources))} only)" if sources else ""
    settings = "\n".join(f"| {name} | {cell(str(value))} |" for name, value in job.settings.items())
    allowed = "\n".join(_approval_row(entry) for entry in approvals)
    return f"""{_front_matter(job)}
# {model}, version {version}

`{job.base}` without **{cell(job.name)}**{scope}: its denoiser was fine-tuned with ESD until it no longer draws the
concept ({PAPER}).

## Load it

```python
{loading_code(job.base)}
```

`weights.safetensors` holds only the tensors that were trained, under the denoiser's own names.

## Intended use

Generating images where {cell(job.name)} must not appear, with the base model named here and no other: the weights
belong to base weights with digest `{job.base_digest}`. Not a filter for what people upload, and no proof that a concept
cannot be drawn by any prompt.

## Figures

Share of images in which a classifier sees the concept, same prompts and seeds before and after, with 95 % intervals:

{figures_table(report)}

Of the erased concept {metrics["erased_remaining"]:.1%} of its base rate is left, surely at most
{metrics["erased_remaining_upper"]:.1%}; all other concepts fall by {100 * metrics["others_mean_drop"]:.1f} points on
average, surely by {100 * metrics["others_mean_drop_lower"]:.1f} to {100 * metrics["others_mean_drop_upper"]:.1f}.

## Limits

- Measured with {metrics["images"]:.0f} images and the classifiers of one suite; other prompts may differ.
- Erasure is not deletion: paraphrases of the concept's name, and prompts made to attack the model, can bring part back.
- Neighbouring concepts may have lost quality that a classifier does not see.
- Whatever the base model must not be used for, this must not be used for either.

## Licences

The weights are derived from `{job.base}`: {_licence(report)} and its terms of use go on applying. The code that made
them, esd-pipeline, is under the MIT licence.

## Provenance

| | |
|---|---|
| job digest | `{job.digest}` |
| weights SHA-256 | `{report.weights_digest}` |
| evaluation suite | `{report.suite_digest}` |
| code | esd-pipeline {cell(code_version)} |
{allowed}
{settings}

`manifest.json` names the SHA-256 of every file of this release; `esd verify` checks them.
"""


def _licence(report: EvaluationReport) -> str:
    if report.base_licence is None:
        return "its licence, which its own files do not name,"
    return f"its licence ({cell(report.base_licence)})"


def _approval_row(entry: ApprovalRecord) -> str:
    against = ", **although a gate was not passed**" if entry.override else ""
    when = f"{entry.at:%Y-%m-%d}, entry {entry.entry} of the log, policy {entry.policy.value}"
    return f"| approved by | {cell(entry.by)} ({when}){against}: {cell(entry.reason)} |"


def _front_matter(job: ErasureJob) -> str:
    repository = job.base.partition("@")[0]
    of_hub = "@" in job.base and repository.count("/") == 1
    lines = [
        "---",
        "license: other",
        "license_name: same-as-base-model",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        *([f"base_model: {repository}", "base_model_relation: finetune"] if of_hub else []),
        "tags:",
        *(f"- {tag}" for tag in TAGS),
        "---",
    ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that cannot end a table cell or start markup."""
    return "".join(f"\\{c}" if c in "|*_`[]<>\\" else c for c in " ".join(text.split()))


def loading_config(job: ErasureJob, weights_digest: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """config.json of a release: what a loader needs, base model and tensors, as JSON."""
    name, _, revision = job.base.partition("@")
    config = {
        "base_model": name,
        "base_revision": revision or None,
        "base_digest": job.base_digest,
        "concepts": [concept.name for concept in job.concepts],
        "subsets": [subset.value for subset in job.subsets],
        "weights": {"file": "weights.safetensors", "sha256": weights_digest, "tensors": dict(sorted(shapes.items()))},
        "load": "the denoiser's load_state_dict(tensors, strict=False)",
    }
    return json.dumps(config, indent=1, ensure_ascii=False) + "\n"
