"""`config.json` and `generation_config.json` of an export, from the architecture of the model."""

from typing import Any

from nanochat.export.weights import Dtype
from nanochat.model.architecture import Architecture
from nanochat.tokenizer.bpe import Tokenizer

CONFIGURATION, MODELING = "configuration_nanochat_pipeline", "modeling_nanochat_pipeline"
"""Modules of this package that an export contains, so that `trust_remote_code` finds the network."""
MODEL_TYPE = "nanochat_pipeline"
QK_GAIN, VALUE_GATE_GAIN, NORM_EPSILON = 1.2, 3.0, 2.0**-23
"""Constants of the network, which `nanochat.model` has beside its code (a test compares them)."""
END = ("<|assistant_end|>", "<|bos|>")
"""Tokens that end an answer."""
TRANSFORMERS = "5.24"
"""The lowest version of transformers that the modelling code runs with."""


def model_config(architecture: Architecture, tokenizer: Tokenizer, dtype: Dtype) -> dict[str, Any]:
    """The content of `config.json`. A window counts the token itself, as everywhere in transformers."""
    settings, long = architecture.model, architecture.sequence_len
    windows = architecture.windows()
    short = min(windows)
    return {
        "architectures": ["NanochatPipelineForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{CONFIGURATION}.NanochatPipelineConfig",
            "AutoModel": f"{MODELING}.NanochatPipelineModel",
            "AutoModelForCausalLM": f"{MODELING}.NanochatPipelineForCausalLM",
        },
        "model_type": MODEL_TYPE,
        "transformers_version": f"{TRANSFORMERS}.0",
        "dtype": {"fp32": "float32", "bf16": "bfloat16"}[dtype],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.width,
        "intermediate_size": 4 * architecture.width,
        "num_hidden_layers": architecture.depth,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "max_position_embeddings": long,
        "layer_types": ["sliding_attention" if window < long else "full_attention" for window in windows],
        "sliding_window": short + 1 if short < long else None,
        "rope_theta": settings.rope_base,
        "rms_norm_eps": NORM_EPSILON,
        "query_key_gain": QK_GAIN,
        "final_logit_softcapping": settings.logit_softcap or None,
        "value_embedding_layers": [n for n in range(architecture.depth) if architecture.has_value_embedding(n)],
        "value_gate_channels": architecture.value_gate_channels,
        "value_gate_gain": VALUE_GATE_GAIN,
        "residual_scalars": settings.residual_scalars,
        "smear": settings.smear,
        "smear_gate_channels": architecture.smear_gate_channels,
        "backout_layer": architecture.depth // 2 if settings.backout else None,
        "tie_word_embeddings": False,
        "use_cache": True,
        **_special_ids(tokenizer),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `generation_config.json`: answers are sampled, and end at both end tokens."""
    return {
        "transformers_version": f"{TRANSFORMERS}.0",
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 50,
        **_special_ids(tokenizer),
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Padding is BOS, as in our engine: trainers ignore padding in labels, and would lose the end of answers."""
    ends = [tokenizer.special(name) for name in END]
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": tokenizer.bos}
