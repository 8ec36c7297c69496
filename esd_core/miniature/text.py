"""Captions -> CLIPTokenizer and CLIPTextModel.

The text encoder is trained first, alone, to say what a caption *names*, and is frozen then: as in Stable Diffusion,
the U-Net learns from finished embeddings. What a caption only implies (the sun of a beach) is not in the embedding's
training, so that it has to live in the U-Net.

Two readings were used, one after the other. `Reading.END` puts everything named into the tokens after the caption's
end; a U-Net learns to draw from it quickly. But there a concept's embedding changes with all else that the caption
says, and an erasure of the bare name hardly reaches longer prompts (1.00 -> .5 to 1.00 with esd-x, five styles).
`Reading.WORD`, the final one, keeps what a word means at that word, whatever stands around it.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from esd_core.miniature.world import ARTISTS, COLOURS, OBJECTS, PLACES, SYNONYMS, Named, caption, sample_scene

LENGTH = 32  # tokens, with the two special ones
WIDTH = 128
MERGES = 95  # few enough that long names take several tokens
START, END = "<|startoftext|>", "<|endoftext|>"
QUIET_WEIGHT = 3.0  # of keeping the tokens that name nothing the same in every caption
FACTORS: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "style": ARTISTS,
    "place": tuple(PLACES),
    "colour": tuple(COLOURS),
    "sun": ("sun",),
}


Captions = Sequence[tuple[str, Named]]


def captions(seed: int, count: int) -> Captions:
    rng = random.Random(seed)
    return [caption(sample_scene(rng), rng) for _ in range(count)]


def build_tokenizer(texts: list[str], length: int = LENGTH, learned: int = MERGES) -> CLIPTokenizer:
    """Byte-level BPE as CLIP's, with so many merges learned from the captions; `length` is the longest prompt."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(set("".join(texts).lower())) * 2 + learned, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(sorted(set(texts)), trainer)
    merges = [(a, b) for a, b in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *(a + b for a, b in merges), START, END])
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=length)


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, L) token ids, padded as StableDiffusionPipeline pads."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def labels(named: list[Named]) -> dict[str, torch.Tensor]:
    """Per factor: index of what is named, or the last index where the caption leaves it open."""

    def index(factor: str, value: str | bool | None) -> int:
        if factor == "sun":
            return 0 if value else 1
        return FACTORS[factor].index(str(value)) if value else len(FACTORS[factor])

    return {factor: torch.tensor([index(factor, getattr(n, factor)) for n in named]) for factor in FACTORS}


class Reading(StrEnum):
    END = "end"  # from the caption's end on, every token tells all that is named
    WORD = "word"  # every word tells its own meaning; the end tells nothing


def last_word(name: str) -> str:
    return name.lower().split()[-1]


VALUES = tuple(value for values in FACTORS.values() for value in values)
MEANING = {last_word(value): i for i, value in enumerate(VALUES)} | {
    last_word(synonym): VALUES.index(value) for value, synonym in SYNONYMS.items()
}
NAMES_NOTHING, UNDECIDED = len(VALUES), -100  # UNDECIDED: a piece of a word that is not its last


def meanings(tokenizer: CLIPTokenizer, texts: list[str], length: int) -> torch.Tensor:
    """(B, length) int64: index into VALUES at the last token of each word that names something."""
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True)
    rows = []
    for text, offsets in zip(texts, encoded["offset_mapping"], strict=True):
        ends = {m.end(): m for m in re.finditer(r"[a-z]+", text.lower()) if m.group() in MEANING}
        inside = {i for m in ends.values() for i in range(m.start(), m.end())}
        row = []
        for start, end in offsets:
            if end > start and end in ends:
                row.append(MEANING[ends[end].group()])
            else:
                row.append(UNDECIDED if end > start and start in inside else NAMES_NOTHING)
        rows.append(row)
    return torch.tensor(rows)


class EndHeads(torch.nn.Module):
    """Reading.END: one linear head per factor, at every token from the end on."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleDict({f: torch.nn.Linear(WIDTH, len(values) + 1) for f, values in FACTORS.items()})

    def loss(self, hidden: torch.Tensor, ids: torch.Tensor, tokenizer: CLIPTokenizer, batch: Captions) -> torch.Tensor:
        past_end = (ids == tokenizer.eos_token_id).float()
        truth = labels([named for _, named in batch])
        losses = []
        for factor, head in self.heads.items():
            wanted = truth[factor][:, None].expand_as(ids)
            each = F.cross_entropy(head(hidden).transpose(1, 2), wanted, reduction="none")
            losses.append((each * past_end).sum() / past_end.sum())
        return torch.stack(losses).sum()


class WordHead(torch.nn.Module):
    """Reading.WORD: one linear head over all values, at every token; tokens from the end on are held constant."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(WIDTH, len(VALUES) + 1)

    def loss(self, hidden: torch.Tensor, ids: torch.Tensor, tokenizer: CLIPTokenizer, batch: Captions) -> torch.Tensor:
        truth = meanings(tokenizer, [text for text, _ in batch], ids.shape[1])
        read = F.cross_entropy(self.head(hidden).transpose(1, 2), truth, ignore_index=UNDECIDED)
        past_end = hidden[ids == tokenizer.eos_token_id]
        return read + QUIET_WEIGHT * (past_end - past_end.mean(0, keepdim=True)).pow(2).mean()


HEADS: dict[Reading, Callable[[], EndHeads | WordHead]] = {Reading.END: EndHeads, Reading.WORD: WordHead}


def train(
    out: Path,
    steps: int,
    seed: int,
    reading: Reading,
    length: int,
    batch: int = 128,
    peak_lr: float = 1e-3,
) -> None:
    """Train and save tokenizer and encoder under `out`."""
    torch.manual_seed(seed)
    pool = captions(seed, steps * batch)
    tokenizer = build_tokenizer([text for text, _ in pool[:20_000]], length)
    encoder = build_encoder(tokenizer)
    heads = HEADS[reading]()
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        rows = pool[step * batch : (step + 1) * batch]
        ids = tokenize(tokenizer, [text for text, _ in rows])
        loss = heads.loss(encoder(ids).last_hidden_state, ids, tokenizer, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"text {reading.value} {step}/{steps} loss {loss.item():.4f}", flush=True)
    encoder.save_pretrained(out / "text_encoder")
    tokenizer.save_pretrained(out / "tokenizer")
