"""The configuration of an exported nanochat network, for `AutoConfig.from_pretrained(…, trust_remote_code=True)`.

An export contains this file. It imports transformers only.
"""

from transformers import PreTrainedConfig


class NanochatPipelineConfig(PreTrainedConfig):
    """The shapes of the network and the parts that it has; `modeling_nanochat_pipeline.py` describes the parts.

    `sliding_window` counts the token itself, as everywhere in transformers: a layer of the type `sliding_attention`
    attends to the token and to `sliding_window - 1` tokens before it. A layer of the type `full_attention` attends to
    the token and to `max_position_embeddings` tokens before it.
    """

    model_type = "nanochat_pipeline"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012 - transformers declares it so

    def __init__(
        self,
        vocab_size: int = 32_768,
        hidden_size: int = 256,
        intermediate_size: int = 1024,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 2,
        num_key_value_heads: int = 2,
        head_dim: int = 128,
        max_position_embeddings: int = 2048,
        layer_types: list[str] | None = None,
        sliding_window: int | None = None,
        rope_theta: float = 100_000.0,
        rms_norm_eps: float = 2.0**-23,
        query_key_gain: float = 1.2,
        final_logit_softcapping: float | None = 15.0,
        value_embedding_layers: list[int] | None = None,
        value_gate_channels: int = 12,
        value_gate_gain: float = 3.0,
        residual_scalars: bool = True,
        smear: bool = True,
        smear_gate_channels: int = 24,
        backout_layer: int | None = None,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        **kwargs: object,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.layer_types = layer_types or ["full_attention"] * num_hidden_layers
        self.sliding_window = sliding_window
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.query_key_gain = query_key_gain
        self.final_logit_softcapping = final_logit_softcapping
        self.value_embedding_layers = value_embedding_layers or []
        self.value_gate_channels = value_gate_channels
        self.value_gate_gain = value_gate_gain
        self.residual_scalars = residual_scalars
        self.smear = smear
        self.smear_gate_channels = smear_gate_channels
        self.backout_layer = backout_layer
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False, **kwargs})
