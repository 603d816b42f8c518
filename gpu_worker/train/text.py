"""The tokenizer and the text encoder."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional

from gpu_worker.train.data import COLOURS, PLACES, PLAIN, STYLES
from gpu_worker.train.progress import Progress, rate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gpu_worker.train.data import Pictures, Wish

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = 1536
MAX_TOKENS = 77
WIDTH = 128


def tokenizer_of(captions: Iterable[str]) -> Any:
    """Train byte pairs on the captions; every other text has an encoding too."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    # CLIPTokenizer splits words like this.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
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
    """Read a saved one."""
    return import_module("transformers").CLIPTokenizer.from_pretrained(directory)


def encoder_for(tokenizer: Any) -> Any:
    """Return a new text encoder, half a million weights; it is trained with the UNet."""
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
RATE = 2e-3


def tokens_of(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Encode captions as the pipeline does: cut or padded to MAX_TOKENS."""
    tokens: torch.Tensor = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens


def train(pictures: Pictures, tokenizer: Any, steps: int) -> Any:
    """Teach a new text encoder to tell what a caption asks for, then let it be.

    A denoiser that has to find out by itself which word is the noun takes most of its training
    for that. From the mean of the encoder's outputs, in its last layer and in the one before (for
    clip_skip 2), four linear heads read the noun, the colour, the background and the style.
    """
    torch.manual_seed(0)
    encoder = encoder_for(tokenizer)
    answers: list[list[Any]] = [
        [*pictures.nouns], ["", *COLOURS], ["", *PLAIN, *PLACES], [*STYLES],
    ]  # fmt: skip
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(answer)) for answer in answers)
    weights = (1.0, 0.5, 0.5, 0.1)
    learning = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    progress = Progress("text", 0, steps)
    for step in range(steps):
        wishes: list[Wish] = [pictures.wish() for _ in range(BATCH)]
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate(step, steps, cooldown=steps // 2)
        hidden = encoder(
            tokens_of(tokenizer, [wish.caption for wish in wishes]), output_hidden_states=True
        ).hidden_states
        wanted = [(w.noun, w.colour, w.ground, w.style) for w in wishes]
        loss = torch.zeros(())
        for layer in (1, 2):
            pooled = encoder.final_layer_norm(hidden[layer]).mean(1)
            for part, (head, answer) in enumerate(zip(heads, answers, strict=True)):
                labels = torch.tensor([answer.index(row[part]) for row in wanted])
                loss = loss + weights[part] * functional.cross_entropy(head(pooled), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.step(step + 1, loss.item())
    return encoder.requires_grad_(requires_grad=False).eval()
