"""The tokenizer and the text encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    import json  # noqa: PLC0415

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
