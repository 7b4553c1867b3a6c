"""The vocabulary as a folder that `AutoTokenizer.from_pretrained` loads."""

import json
from pathlib import Path
from typing import Any

from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.huggingface_format import hf_json

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_tokens: int | None = None) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and, if it has our special tokens, `chat_template.jinja`.

    The library then puts one BOS before a text (not in a rendered conversation, which begins with its own).
    """
    stored = hf_json(tokenizer)
    if "<|bos|>" in tokenizer.special_tokens:
        stored["post_processor"] = _bos_first(tokenizer.bos)
    _write_json(folder / "tokenizer.json", stored)
    config = tokenizer_config(tokenizer, context_tokens)
    _write_json(folder / "tokenizer_config.json", config)
    if template := config.get("chat_template"):
        (folder / CHAT_TEMPLATE.name).write_text(template, encoding="utf-8")


def tokenizer_config(tokenizer: Tokenizer, context_tokens: int | None) -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if context_tokens:
        config["model_max_length"] = context_tokens
    if tokenizer.special_tokens.keys() >= set(SPECIALS):
        named = {"bos_token": "<|bos|>", "eos_token": "<|assistant_end|>", "pad_token": "<|bos|>"}
        others = [name for name in tokenizer.special_tokens if name not in named.values()]
        template = CHAT_TEMPLATE.read_text(encoding="utf-8")
        config |= {**named, "extra_special_tokens": others, "chat_template": template}
    return config


def _bos_first(bos: int) -> dict[str, Any]:
    """A step of the library that puts BOS before the first of one or two texts."""
    start = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    token = {"id": "<|bos|>", "ids": [bos], "tokens": ["<|bos|>"]}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, second],
        "special_tokens": {"<|bos|>": token},
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
