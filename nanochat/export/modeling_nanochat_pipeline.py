"""An exported nanochat network, for `AutoModelForCausalLM.from_pretrained(…, trust_remote_code=True)`.

    x = norm(embedding(ids))
    x = x + smear * gate(x) * (x of the previous token)              smear
    first = x
    for each layer:
        x = residual_scale * x + embedding_scale * first             residual scalars
        x = x + attention(norm(x))                                   rotary positions, then normed queries and keys;
                                                                     values + gate * value embedding in some layers
        x = x + mlp(norm(x))                                         squared ReLU
    x = norm(x - backout * (x after the middle layer))               backout
    logits = cap * tanh(head(x) / cap)                               untied head

An export contains this file. It imports torch and transformers only, and needs transformers 5.24 or later.

Shapes: B batch · T time · S positions of the cache · C channels · H query heads · K key/value heads
D channels of a head · V vocabulary
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_nanochat_pipeline import NanochatPipelineConfig

SLIDING, FULL = "sliding_attention", "full_attention"


def norm(x: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last dimension, without parameters; computed in fp32."""
    return F.rms_norm(x.float(), (x.shape[-1],), eps=epsilon).to(x.dtype)


def rotation(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, (B, 1, T, D/2) each, of the angles position / theta^(2i / D). Angles are computed in fp32."""
    channel = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32)
    angle = position_ids[:, None, :, None].float() * theta ** (-channel / head_dim)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the channels i and i + D/2 by minus the angle of their position."""
    left, right = x_BHTD.chunk(2, -1)
    return torch.cat([left * cos + right * sin, right * cos - left * sin], -1)


def eager_attention(
    module: "NanochatPipelineAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain operations: the outputs (B, T, H, D) and the weights (B, H, T, S)."""
    key = key.repeat_interleave(module.num_key_value_groups, 1)
    value = value.repeat_interleave(module.num_key_value_groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class NanochatPipelineAttention(nn.Module):
    """Causal attention with grouped queries, over a window of earlier tokens."""

    def __init__(self, config: NanochatPipelineConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.is_causal = True
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.query_key_gain**2 * config.head_dim**-0.5  # has the gains of queries and of keys
        sliding = config.layer_types[layer] == SLIDING
        self.sliding_window = config.sliding_window if sliding else config.max_position_embeddings + 1
        C, width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(C, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(C, width, bias=False)
        self.v_proj = nn.Linear(C, width, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, C, bias=False)
        if layer in config.value_embedding_layers:
            self.value_gate = nn.Linear(config.value_gate_channels, config.num_key_value_heads, bias=False)

    def forward(
        self,
        x_BTC: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        value_embedding: Tensor | None,
        cache: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, C) → (B, T, C) and the weights, if the kernel returns them. The value embedding is (B, T, K D)."""
        B, T, _ = x_BTC.shape
        shape = (B, T, -1, self.head_dim)
        q_BHTD = self.q_proj(x_BTC).view(shape).transpose(1, 2)
        k_BKTD = self.k_proj(x_BTC).view(shape).transpose(1, 2)
        v_BTKD = self.v_proj(x_BTC).view(shape)
        if value_embedding is not None:
            gate_BTK = torch.sigmoid(self.value_gate(x_BTC[..., : self.config.value_gate_channels]))
            v_BTKD = v_BTKD + self.config.value_gate_gain * gate_BTK[..., None] * value_embedding.view(shape)
        v_BKTD = v_BTKD.transpose(1, 2)
        epsilon = self.config.rms_norm_eps
        q_BHTD, k_BKTD = norm(rotate(q_BHTD, *rotary), epsilon), norm(rotate(k_BKTD, *rotary), epsilon)
        if cache is not None:
            k_BKTD, v_BKTD = cache.update(k_BKTD, v_BKTD, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        y, weights = attend(
            self, q_BHTD, k_BKTD, v_BKTD, attention_mask,
            dropout=0.0, scaling=self.scaling, sliding_window=self.sliding_window, **kwargs,
        )  # fmt: skip
        return self.o_proj(y.reshape(B, T, -1).contiguous()), weights


class NanochatPipelineMLP(nn.Module):
    """down(relu(up(x))^2)."""

    def __init__(self, config: NanochatPipelineConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(x_BTC).relu().square())


class NanochatPipelineDecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: NanochatPipelineConfig, layer: int) -> None:
        super().__init__()
        self.epsilon = config.rms_norm_eps
        self.self_attn = NanochatPipelineAttention(config, layer)
        self.mlp = NanochatPipelineMLP(config)

    def forward(self, x_BTC: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = self.self_attn(norm(x_BTC, self.epsilon), **kwargs)
        x_BTC = x_BTC + attended
        return x_BTC + self.mlp(norm(x_BTC, self.epsilon))


class NanochatPipelinePreTrainedModel(PreTrainedModel):
    """What transformers needs to know about the network."""

    config_class = NanochatPipelineConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NanochatPipelineDecoderLayer"]  # noqa: RUF012 - transformers declares it so
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = False
    """Servers that bring their own attention (vLLM) cache keys and values only. They would lose the previous token,
    which smear needs, and answer wrongly without an error. With False they refuse the model."""
    _can_record_outputs = {  # noqa: RUF012 - transformers declares it so
        "hidden_states": NanochatPipelineDecoderLayer,
        "attentions": NanochatPipelineAttention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        """Scalars begin where each part of the network has no effect."""
        super()._init_weights(module)
        if isinstance(module, NanochatPipelineModel):
            for name, start in (("residual_scales", 1), ("embedding_scales", 0), ("smear", 0), ("backout", 0)):
                if (scalar := getattr(module, name, None)) is not None:
                    init.constant_(scalar, start)


class NanochatPipelineModel(NanochatPipelinePreTrainedModel):
    """The network without its head."""

    def __init__(self, config: NanochatPipelineConfig) -> None:
        super().__init__(config)
        V, C, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
        width = config.num_key_value_heads * config.head_dim
        self.embed_tokens = nn.Embedding(V, C)
        self.layers = nn.ModuleList(NanochatPipelineDecoderLayer(config, layer) for layer in range(L))
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(V, width) for layer in config.value_embedding_layers}
        )
        if config.residual_scalars:
            self.residual_scales = nn.Parameter(torch.empty(L))
            self.embedding_scales = nn.Parameter(torch.empty(L))
        if config.smear:
            self.smear_gate = nn.Linear(config.smear_gate_channels, 1, bias=False)
            self.smear = nn.Parameter(torch.empty(1))
        if config.backout_layer is not None:
            self.backout = nn.Parameter(torch.empty(1))
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Ids (B, T) → the normed output of the last layer, (B, T, C).

        With padding on the left, position ids count from the first token of a row; without `position_ids`, they follow
        from the `attention_mask`, (B, S). A token at position 0 has no previous token.
        """
        config = self.config
        if use_cache and cache is None:
            cache = DynamicCache(config=config)
        if position_ids is None:
            position_ids = self._position_ids(input_ids, attention_mask, cache)
        embedded = self.embed_tokens(input_ids)
        masks = attention_mask
        if not isinstance(masks, dict):
            masks = create_masks(config, embedded, masks, cache, position_ids)
        rotary = rotation(position_ids, config.head_dim, config.rope_theta, embedded.dtype)
        x_BTC = norm(embedded, config.rms_norm_eps)
        if config.smear:
            x_BTC = self._smeared(x_BTC, input_ids, position_ids, cache)
        first_BTC, middle_BTC = x_BTC, None
        for number, layer in enumerate(self.layers):
            if config.residual_scalars:
                x_BTC = x_BTC * self.residual_scales[number] + first_BTC * self.embedding_scales[number]
            table = self.value_embeddings[str(number)] if number in config.value_embedding_layers else None
            x_BTC = layer(
                x_BTC,
                rotary=rotary,
                attention_mask=masks[config.layer_types[number]],
                value_embedding=None if table is None else table(input_ids),
                cache=cache,
                **kwargs,
            )
            if number == config.backout_layer:
                middle_BTC = x_BTC
        if middle_BTC is not None:
            x_BTC = x_BTC - self.backout * middle_BTC
        return BaseModelOutputWithPast(last_hidden_state=norm(x_BTC, config.rms_norm_eps), cache=cache)

    def _position_ids(self, input_ids: Tensor, attention_mask: Any, cache: Cache | None) -> Tensor:
        T = input_ids.shape[1]
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        start = 0 if cache is None else cache.get_seq_length()
        return (torch.arange(T, device=input_ids.device) + start)[None]

    def _smeared(self, x_BTC: Tensor, input_ids: Tensor, position_ids: Tensor, cache: Cache | None) -> Tensor:
        """The embedding of each token plus a gated part of the embedding of the previous one."""
        earlier = norm(self.embed_tokens(self._previous_ids(input_ids, cache)), self.config.rms_norm_eps)
        earlier = earlier * (position_ids > 0)[..., None]
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTC[..., : self.config.smear_gate_channels]))
        return x_BTC + gate_BT1 * self.smear * earlier

    def _previous_ids(self, input_ids: Tensor, cache: Cache | None) -> Tensor:
        """The id before each token, (B, T); any id where there is none.

        The cache gets one more layer, whose keys are the ids: it is reordered, cropped and repeated as the others are.
        """
        if cache is None:
            return input_ids.roll(1, dims=1)
        if not isinstance(cache, Cache):
            raise ValueError("A paged cache has keys and values only; this network also needs the previous token.")
        L = self.config.num_hidden_layers
        if len(cache.layers) == L:
            first = cache.layers[0]
            is_static = isinstance(first, StaticLayer)
            cache.layers.append(StaticLayer(_static_length(cache)) if is_static else DynamicLayer())
        start = cache.get_seq_length(L)
        index_T = (torch.arange(input_ids.shape[1], device=input_ids.device) + start - 1).clamp(min=0)
        ids_B1T1 = input_ids[:, None, :, None]
        ids_B1S1, _ = cache.update(ids_B1T1, ids_B1T1, L)
        return ids_B1S1[:, 0, :, 0].index_select(1, index_T)


def _static_length(cache: Cache) -> int:
    """The length of a static cache: that of its last layer, which has no window."""
    return cache.layers[-1].max_cache_len


def create_masks(
    config: NanochatPipelineConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    cache: Cache | None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> dict[str, Tensor | None]:
    """The attention mask of each type of layer, as its kernel takes it."""
    arguments = {
        "config": config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask, "cache": cache,
        "position_ids": position_ids,
    }  # fmt: skip
    T, window, last = inputs_embeds.shape[1], config.max_position_embeddings, config.num_hidden_layers - 1
    keys = T if cache is None else cache.get_mask_sizes(T, last)[0]
    beyond = {"and_mask_function": _within(window)} if keys > window + 1 else {}
    masks: dict[str, Tensor | None] = {FULL: create_causal_mask(**arguments, **beyond)}
    if SLIDING in config.layer_types:
        masks[SLIDING] = create_sliding_window_causal_mask(**arguments)
    return masks


def _within(window: int) -> Callable[[int, int, int, int], bool]:
    return lambda batch, head, query, key: query - key <= window


class NanochatPipelineForCausalLM(NanochatPipelinePreTrainedModel, GenerationMixin):
    """The network with its head."""

    create_masks_for_generate = staticmethod(create_masks)

    def __init__(self, config: NanochatPipelineConfig) -> None:
        super().__init__(config)
        self.model = NanochatPipelineModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _prepare_attention_mask_for_generation(self, inputs_tensor: Tensor, *arguments: Any, **kwargs: Any) -> Tensor:
        """Without a mask, no token is padding: BOS, which pads, also begins every row."""
        return torch.ones(inputs_tensor.shape[:2], dtype=torch.long, device=inputs_tensor.device)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Ids (B, T) → logits (B, T, V) fp32, only those of the last `logits_to_keep` tokens if that is not 0.

        With labels (B, T), -100 where a token does not count, also the loss.
        """
        outputs = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache, use_cache=use_cache,
            **kwargs,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept]).float()
        if cap := self.config.final_logit_softcapping:
            logits = cap * torch.tanh(logits / cap)
        loss = None if labels is None else self.loss_function(logits, labels, self.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
