"""A small CLIP trained from nothing on pictures of shapes and their captions."""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from shapes import SIDE, caption, examples
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from trainer.progress import track

START, END = "<|startoftext|>", "<|endoftext|>"
LONGEST = 40
"""Most tokens of a text: room for a prompt of 16 and a caption."""
BATCH = 64
RATE = 2e-3
"""AdamW's highest learning rate."""
SAYINGS = 8
"""Captions written for each picture; a step draws one."""


def train_clip(folder: Path, pictures: int, steps: int, seed: int) -> None:
    """Train on `pictures` pictures for `steps` steps, and save model, tokenizer and image processor.

    The loss is CLIP's own. The learning rate rises over a tenth of the steps, then falls along a cosine.
    """
    draw = Random(seed)
    scenes, images = zip(*examples(pictures, seed), strict=True)
    captions = [caption(scene, draw) for scene in scenes for _ in range(SAYINGS)]
    tokenizer = _learn_tokenizer(captions)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    pixels: Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
    ids: Tensor = tokenizer(captions, padding=True, return_tensors="pt")["input_ids"].view(pictures, SAYINGS, -1)

    torch.manual_seed(seed)
    model = _make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in track(range(steps), "training a small CLIP"):
        rows = torch.randint(pictures, (BATCH,))
        texts = ids[rows, torch.randint(SAYINGS, (BATCH,))]
        longest = int((texts != tokenizer.eos_token_id).sum(1).max()) + 1
        loss = model(input_ids=texts[:, :longest], pixel_values=pixels[rows], return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)


def _learn_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """CLIP's byte-level pairs, learned on `texts` until every word in them is one token.

    As in CLIP's own vocabulary each byte is a token, within a word and at its end, so that any text
    can be tokenised.
    """
    blank = CLIPTokenizer().backend_tokenizer
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer, backend.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False)
    backend.train_from_iterator(texts, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges=merges)


def _make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    width = 64
    size = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": width,
    }
    text = {
        **size,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LONGEST,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**size, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
