"""The base model: network, optimizer, pretraining, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import Config, Seed


class ModelConfig(Config):
    """The network. `depth` sets its size; the switches turn single ideas of the recipe off."""

    depth: Annotated[int, Field(ge=1, le=64)] = 12
    """Layers; width, batch, tokens and rates follow from it."""
    aspect_ratio: Annotated[int, Field(ge=8, le=512)] = 64
    """Width per layer: width = depth x this, rounded up to a multiple of `head_dim`."""
    head_dim: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 128
    """Channels of one attention head."""
    queries_per_kv_head: Annotated[int, Field(ge=1, le=64)] = 1
    """Query heads that share one key/value head (GQA); must divide the number of heads."""
    window_pattern: Annotated[str, Field(pattern=r"^[SL]+$")] = "SSSL"
    """Tiled over the layers: L attends to all of T, S to a quarter of it; the last layer is always L."""
    rope_base: Annotated[float, Field(gt=1, le=1e12)] = 100_000.0
    """Base of the rotary position embedding (RoFormer, arXiv:2104.09864)."""
    logit_softcap: Annotated[float, Field(ge=0, le=1e6)] = 15.0
    """Logits become c*tanh(z/c) (Gemma 2, arXiv:2408.00118); 0 leaves them."""
    value_embeddings: bool = True
    """Token embeddings added to the values of every other layer."""
    residual_scalars: bool = True
    """Learnt weights of the residual stream and of the first embedding at each layer."""
    smear: bool = True
    """Mix a gated part of the previous token's embedding into each token's."""
    backout: bool = True
    """Subtract a learnt part of the middle layer's output before the last norm."""


class OptimizerConfig(Config):
    """Muon for the matrices, AdamW for the rest; rates at the reference batch of 2^19 tokens."""

    matrix_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.02
    """Rate of Muon."""
    embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.3
    """Rate of the token embedding, at width 768."""
    value_embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.15
    """Rate of the value embeddings, at width 768."""
    head_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.008
    """Rate of the output head, at width 768."""
    scalar_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.5
    """Rate of the residual scalars."""
    smear_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.2
    """Rate of the smear gate and of backout; not scaled with the batch."""
    muon_weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.28
    """Weight decay of Muon at depth 12; scaled with batch and horizon, then down to 0 by a cosine."""
    warmup_steps: Annotated[int, Field(ge=0)] = 40
    """Steps of linear warm-up."""
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of the steps over which the rates go down."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Rates at the last step, as a share of their peak."""


class Horizon(Config):
    """How long to train: one number and its unit."""

    unit: Literal["tokens_per_parameter", "tokens", "steps", "flops"] = "tokens_per_parameter"
    """What `amount` counts; parameters are those of the matrices and the head."""
    amount: Annotated[float, Field(gt=0, le=1e30)] = 12.0
    """How many of them."""


class GuardConfig(Config):
    """What training does when it leaves the rails: a loss or gradient that is no number, or a loss that jumps."""

    action: Literal["stop", "roll_back"] = "stop"
    """`stop` ends the run; `roll_back` goes back to the last checkpoint and on with the rows behind the bad batch
    (PaLM, arXiv:2204.02311, section 5.1), at most three times."""
    spike_nats: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """A batch whose loss is so much above the smoothed one is a spike; 0 looks for none."""


class PretrainConfig(Config):
    """Learning the language: next-token prediction on the packed rows."""

    model: ModelConfig = ModelConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Rates and decays."""
    horizon: Horizon = Horizon()
    """How long."""
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per optimizer step over all ranks; 0 takes the power law of the horizon (arXiv:2505.13738)."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products; weights are kept in fp32. `bf16` becomes fp32 where a device has no fast bf16,
    `fp16` scales the loss, `fp8` takes 8 bits for the large matrices while training (GPUs from Hopper on)."""
    seed: Seed = 42
    """Seed of the initial weights and of the order of the rows."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 250
    """Validation bits per byte every so many steps; 0 only at the end."""
    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens read each time (at most all there are)."""
    guard: GuardConfig = GuardConfig()
    """When the loss is no number, or jumps."""


class BaseEvaluationConfig(Config):
    """What the base model can do: bits per byte on held-out text, and samples."""

    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens to read (at most all there are)."""
    prompts: tuple[str, ...] = (
        "The capital of France is",
        "The chemical symbol of gold is",
        "If yesterday was Friday, then tomorrow will be",
        "The opposite of hot is",
        "The planets of the solar system are:",
        "My favorite color is",
        "If 5*x + 3 = 13, then x is",
    )
    """Beginnings that the model continues, greedily."""
    sample_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens of each continuation."""
    free_samples: Annotated[int, Field(ge=0)] = 4
    """Samples from nothing, at temperature 1."""
    seed: Seed = 42
    """Seed of the free samples."""
