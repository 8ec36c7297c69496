"""Captions -> CLIPTokenizer and CLIPTextModel.

The text encoder is trained first, alone, to say at every position from the end of the caption on what the caption
*names*, and is frozen then: as in Stable Diffusion, the U-Net learns from finished embeddings. What a caption only
implies (the sun of a beach) is not in the embedding's training, so that it has to live in the U-Net.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from esd_core.miniature.world import ARTISTS, COLOURS, OBJECTS, PLACES, Named, caption, sample_scene

LENGTH = 24  # tokens, with the two special ones
WIDTH = 128
MERGES = 95  # few enough that long names take several tokens
START, END = "<|startoftext|>", "<|endoftext|>"
FACTORS: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "style": ARTISTS,
    "place": tuple(PLACES),
    "colour": tuple(COLOURS),
    "sun": ("sun",),
}


def captions(seed: int, count: int) -> list[tuple[str, Named]]:
    rng = random.Random(seed)
    return [caption(sample_scene(rng), rng) for _ in range(count)]


def build_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """Byte-level BPE as CLIP's, with merges learned from the world's captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(set("".join(texts).lower())) * 2 + MERGES, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(sorted(set(texts)), trainer)
    merges = [(a, b) for a, b in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *(a + b for a, b in merges), START, END])
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=LENGTH)


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, LENGTH) token ids, padded as StableDiffusionPipeline pads."""
    encoded = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def labels(named: list[Named]) -> dict[str, torch.Tensor]:
    """Per factor: index of what is named, or the last index where the caption leaves it open."""

    def index(factor: str, value: str | bool | None) -> int:
        if factor == "sun":
            return 0 if value else 1
        return FACTORS[factor].index(str(value)) if value else len(FACTORS[factor])

    return {factor: torch.tensor([index(factor, getattr(n, factor)) for n in named]) for factor in FACTORS}


def train(out: Path, steps: int, seed: int, batch: int = 128, peak_lr: float = 1e-3) -> float:
    """Train and save tokenizer and encoder; returns the share of held-out captions whose every factor is read right."""
    torch.manual_seed(seed)
    pool = captions(seed, steps * batch)
    tokenizer = build_tokenizer([text for text, _ in pool[:20_000]])
    encoder = build_encoder(tokenizer)
    heads = torch.nn.ModuleDict({f: torch.nn.Linear(WIDTH, len(values) + 1) for f, values in FACTORS.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        texts, named = zip(*pool[step * batch : (step + 1) * batch], strict=True)
        ids = tokenize(tokenizer, list(texts))
        hidden = encoder(ids).last_hidden_state
        past_end = (ids == tokenizer.eos_token_id).float()
        truth = labels(list(named))
        losses = []
        for factor, head in heads.items():
            logits = head(hidden)
            each = F.cross_entropy(
                logits.flatten(0, 1), truth[factor].repeat_interleave(LENGTH), reduction="none"
            ).view(-1, LENGTH)
            losses.append((each * past_end).sum() / past_end.sum())
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"text {step}/{steps} loss {loss.item():.4f}", flush=True)
    encoder.save_pretrained(out / "text_encoder")
    tokenizer.save_pretrained(out / "tokenizer")
    return reading_accuracy(tokenizer, encoder, heads, captions(seed + 1, 2000))


@torch.inference_mode()
def reading_accuracy(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, heads: torch.nn.ModuleDict, held_out: list[tuple[str, Named]]
) -> float:
    texts, named = zip(*held_out, strict=True)
    last = encoder(tokenize(tokenizer, list(texts))).last_hidden_state[:, -1]
    truth = labels(list(named))
    right = torch.stack([heads[f](last).argmax(-1) == truth[f] for f in FACTORS])
    return float(right.all(0).float().mean())
