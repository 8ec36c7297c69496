"""`esd export`: edited weights and the base they edit, in a format of somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.errors import BaseModelError, InvalidInput
from esd_core.exports.authors import export_authors
from esd_core.exports.diffusers_folder import export_diffusers
from esd_core.exports.lora import LoraReport, export_lora
from esd_core.exports.single_file import export_single_file
from esd_core.weights import EditedWeights, read_weights


class ExportFormat(StrEnum):
    DIFFUSERS = "diffusers"  # a complete folder
    SINGLE_FILE = "single-file"  # a checkpoint in the original key naming
    LORA = "lora"  # low-rank factors of the change
    AUTHORS = "authors"  # the trained tensors alone


@dataclass(frozen=True)
class Exported:
    """What was written. digest: SHA-256 of the file, None for a folder. notes: what the reader must know of it."""

    path: Path
    digest: str | None
    notes: tuple[str, ...] = ()


def export(
    file: Path, format_name: str, out: Path, *, base: str | None = None, rank: int | None = None, progress: bool = True
) -> Exported:
    """Export a weights file of ours. base: by default the one that the file names.

    Raises InvalidInput for an unknown format, a rank without lora, or an `out` that exists or is named wrongly;
    WeightsError and BaseModelError when file and base do not fit.
    """
    chosen = _format(format_name)
    _check_out(out, chosen)
    if rank is not None and chosen is not ExportFormat.LORA:
        raise InvalidInput(f"--rank is of --format lora; {chosen.value} holds the whole change")
    weights = read_weights(file)
    resolved = base_of(weights, base)
    match chosen:
        case ExportFormat.DIFFUSERS:
            left_out = export_diffusers(resolved, weights, out, progress=progress)
            return Exported(out, None, tuple(f"left out, since it is not edited: {path.name}" for path in left_out))
        case ExportFormat.SINGLE_FILE:
            digest = export_single_file(resolved, weights, out, progress=progress)
            return Exported(out, digest, _single_file_notes(resolved))
        case ExportFormat.LORA:
            digest, report = export_lora(resolved, weights, out, rank, progress=progress)
            return Exported(out, digest, _lora_notes(report))
        case ExportFormat.AUTHORS:
            return Exported(out, export_authors(resolved, weights, out, progress=progress))


def base_of(weights: EditedWeights, base: str | None) -> ResolvedBase:
    """The base that the weights edit: `base`, or the one that their file names where it can still be found."""
    if base is not None:
        return resolve_base(base)
    try:
        return resolve_base(weights.provenance.base)
    except BaseModelError as e:
        raise BaseModelError(
            f"the weights edit {weights.provenance.base!r}, which cannot be had here: name it with --base ({e})"
        ) from e


def _format(name: str) -> ExportFormat:
    try:
        return ExportFormat(name)
    except ValueError as e:
        raise InvalidInput(f"format {name!r} is not known: choose one of {', '.join(ExportFormat)}") from e


def _check_out(out: Path, chosen: ExportFormat) -> None:
    if out.exists():
        raise InvalidInput(f"--out {out} exists already: choose another name, or remove it first")
    if chosen is not ExportFormat.DIFFUSERS and out.suffix != ".safetensors":
        raise InvalidInput(f"--out {out} must end in .safetensors: {chosen.value} is written in that format only")


def _single_file_notes(base: ResolvedBase) -> tuple[str, ...]:
    match base.family.pipeline:
        case "FluxPipeline":
            return ("holds the transformer alone, as FLUX is published; use it with the base's text encoders and VAE",)
        case "StableDiffusion3Pipeline" if (base.folder / "text_encoder_3").is_dir():
            return ("after from_single_file call pipe.text_encoder_3.eval(): diffusers leaves dropout on there",)
    return ()


def _lora_notes(report: LoraReport) -> tuple[str, ...]:
    worst = f"at worst {report.per_layer[report.worst]:.2%} ({report.worst})"
    notes = [f"rank {report.rank}: relative error {report.error:.2%} over {len(report.per_layer)} layers, {worst}"]
    if report.not_held:
        notes.append(
            f"a LoRA holds no biases and norms: {len(report.not_held)} changed tensors are left out, "
            f"{report.not_held_share:.2%} of the change"
        )
    if report.skipped_by_kohya:
        notes.append(
            f"kohya's scripts leave out {len(report.skipped_by_kohya)} layers outside the blocks "
            f"({report.skipped_by_kohya[0]}); diffusers and ComfyUI read them"
        )
    notes.append(f"read by {', '.join(report.readers)}")
    return tuple(notes)
