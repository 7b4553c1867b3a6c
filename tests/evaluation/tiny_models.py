"""Small random models of transformers with a tokenizer, as folders and as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TEXT = ["the cat sat on the mat and the dog sat on the log", "Question: what is it? Answer: a cat", "naïve café 12 34"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE_WITH_BOS = "{{ bos_token }}" + TEMPLATE
SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>"]


def tokenizer(*, adds_bos: bool = False, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 ids; `<s>` is BOS, which it puts before a text if `adds_bos`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXT, trainer)
    if adds_bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = template
    return made


def llama(context_tokens: int = 256, vocabulary_size: int = 320, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context_tokens,
            initializer_range=0.5, bos_token_id=0, eos_token_id=2, pad_token_id=2, **options,
        )
    ).eval()  # fmt: skip


def gpt2() -> GPT2LMHeadModel:
    """Learned positions, and a prediction for each of the positions."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.5, bos_token_id=0,
            eos_token_id=2,
        )
    ).eval()  # fmt: skip


def gemma3() -> Gemma3ForCausalLM:
    """Windowed layers, whose cache drops early positions."""
    torch.manual_seed(0)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=256, sliding_window=16, initializer_range=0.5,
            bos_token_id=0, eos_token_id=2, pad_token_id=2,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )
    ).eval()  # fmt: skip


NETWORKS = {"llama": llama, "gpt2": gpt2, "gemma3": gemma3}


def write_model(folder: Path, *, adds_bos: bool = False, template: str | None = TEMPLATE, **options: Any) -> Path:
    """A folder as transformers writes it."""
    llama(**options).save_pretrained(folder)
    tokenizer(adds_bos=adds_bos, template=template).save_pretrained(folder)
    return folder
