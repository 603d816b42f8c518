"""The tokenizer and the text encoder."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional

from gpu_worker.train.data import COLOURS, PLACES, PLAIN, STYLES
from gpu_worker.train.progress import Training

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gpu_worker.train.data import Pictures, PictureSpec

START, END = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 1536
MAX_TOKENS = 77
WIDTH = 128


def tokenizer_of(captions: Iterable[str]) -> Any:
    """Return a byte-pair tokenizer trained on captions; any other text has an encoding too."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    # CLIPTokenizer splits words in this way.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=symbols,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    tokens += [left + right for left, right in merges if left + right not in set(tokens)]
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return import_module("transformers").CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        bos_token=START,
        model_max_length=MAX_TOKENS,
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), END),
    )


def tokenizer_from(directory: Path) -> Any:
    """Return a saved tokenizer."""
    return import_module("transformers").CLIPTokenizer.from_pretrained(directory)


def encoder_for(tokenizer: Any) -> Any:
    """Return a new, untrained text encoder of half a million weights."""
    transformers = import_module("transformers")
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


BATCH = 64
LEARNING_RATE = 2e-3


def tokens_of(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Return the tokens of captions, truncated or padded to shape (captions, MAX_TOKENS)."""
    tokens: torch.Tensor = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens


def train(pictures: Pictures, tokenizer: Any, steps: int) -> Any:
    """Train a new text encoder to classify captions, and return it frozen.

    Without this, the denoiser spends most of its training on finding the noun in the caption. Four
    linear heads predict noun, colour, background and style from the mean of the encoder's outputs.
    They read the last layer and the one before, which clip_skip 2 selects.
    """
    torch.manual_seed(0)
    encoder = encoder_for(tokenizer)
    answers: list[list[Any]] = [
        [*pictures.nouns], ["", *COLOURS], ["", *PLAIN, *PLACES], [*STYLES],
    ]  # fmt: skip
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(answer)) for answer in answers)
    weights = (1.0, 0.5, 0.5, 0.1)
    training = Training(
        "text", {encoder: 1.0, heads: 1.0}, steps, rate=LEARNING_RATE, cooldown=steps // 2
    )
    for _ in training.steps():
        specs: list[PictureSpec] = [pictures.spec() for _ in range(BATCH)]
        hidden = encoder(
            tokens_of(tokenizer, [spec.caption for spec in specs]), output_hidden_states=True
        ).hidden_states
        targets = [(s.noun, s.colour, s.ground, s.style) for s in specs]
        loss = torch.zeros(())
        for layer in (1, 2):
            pooled = encoder.final_layer_norm(hidden[layer]).mean(1)
            for part, (head, answer) in enumerate(zip(heads, answers, strict=True)):
                labels = torch.tensor([answer.index(row[part]) for row in targets])
                loss = loss + weights[part] * functional.cross_entropy(head(pooled), labels)
        training.learn(loss)
    return encoder.requires_grad_(requires_grad=False).eval()
