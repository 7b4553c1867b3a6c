"""Configs of the base model: network, optimizer, pretraining, evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config, Seed


class ModelConfig(Config):
    """The network. `depth` sets its size; each boolean switches one part of the recipe off."""

    depth: Annotated[int, Field(ge=1, le=64)] = 12
    """Number of layers; width, batch size, tokens and learning rates follow from it."""
    aspect_ratio: Annotated[int, Field(ge=8, le=512)] = 64
    """Width divided by depth: width = depth x aspect_ratio, rounded up to a multiple of `head_dim`."""
    head_dim: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 128
    """Channels of one attention head."""
    queries_per_kv_head: Annotated[int, Field(ge=1, le=64)] = 1
    """Query heads that share one key/value head (GQA); must divide the number of heads."""
    window_pattern: Annotated[str, Field(pattern=r"^[SL]+$")] = "SSSL"
    """Attention window of each layer, repeated over the layers: L is all of T, S a quarter of it. The last layer is
    always L."""
    rope_base: Annotated[float, Field(gt=1, le=1e12)] = 100_000.0
    """Base of the rotary position embedding (RoFormer, arXiv:2104.09864)."""
    logit_softcap: Annotated[float, Field(ge=0, le=1e6)] = 15.0
    """Soft cap c on the logits: c*tanh(z/c) (Gemma 2, arXiv:2408.00118); 0: none."""
    value_embeddings: bool = True
    """Add a token embedding to the attention values of every other layer."""
    residual_scalars: bool = True
    """Trainable weights of the residual stream and of the first embedding at each layer."""
    smear: bool = True
    """Mix a gated part of the previous token's embedding into each token's embedding."""
    backout: bool = True
    """Subtract a trainable fraction of the middle layer's output before the last norm."""


class OptimizerConfig(Config):
    """Muon for the matrices, AdamW for the rest. Learning rates hold for the reference batch of 2^19 tokens."""

    matrix_optimizer: Annotated[Literal["muon", "adamw"], AbsentMeans("muon")] = "muon"
    """Optimizer of the matrices. `adamw` is for comparisons: betas 0.9 and 0.95, weight decay 0.1; it needs a
    `matrix_lr` of about a tenth of Muon's."""
    matrix_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.02
    """Learning rate of the matrices."""
    embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.3
    """Learning rate of the token embedding, at width 768."""
    value_embedding_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.15
    """Learning rate of the value embeddings, at width 768."""
    head_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.008
    """Learning rate of the output head, at width 768."""
    scalar_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.5
    """Learning rate of the residual scalars."""
    smear_lr: Annotated[float, Field(gt=0, le=1e38)] = 0.2
    """Learning rate of the smear gate and of backout; not scaled with the batch."""
    muon_weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.28
    """Weight decay of Muon at depth 12; scaled with batch and horizon, then decayed to 0 along a cosine."""
    warmup_steps: Annotated[int, Field(ge=0)] = 40
    """Steps of linear learning-rate warmup."""
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Fraction of the steps over which the learning rates decay."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Learning rates at the last step, as a fraction of their peak."""


class Horizon(Config):
    """Length of training: one number and its unit."""

    unit: Literal["tokens_per_parameter", "tokens", "steps", "flops"] = "tokens_per_parameter"
    """Unit of `amount`; parameters are those of the matrices and the output head."""
    amount: Annotated[float, Field(gt=0, le=1e30)] = 12.0
    """Length of training, in this unit."""


class GuardConfig(Config):
    """What training does when the loss or a gradient is not finite, or the loss jumps."""

    action: Literal["stop", "roll_back"] = "stop"
    """`stop` ends the run. `roll_back` restores the last checkpoint and continues after the rows of the bad batch
    (PaLM, arXiv:2204.02311, section 5.1), at most three times."""
    spike_nats: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """A batch whose loss exceeds the smoothed loss by this much is a spike; 0: no check for spikes."""


class PretrainConfig(Config):
    """Pretraining: next-token prediction on the packed rows."""

    model: ModelConfig = ModelConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Learning rates and weight decay."""
    horizon: Horizon = Horizon()
    """Length of training."""
    batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per optimizer step over all ranks; 0: from the horizon, by a power law (arXiv:2505.13738)."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products; weights stay in fp32. `bf16` falls back to fp32 on a device without fast bf16,
    `fp16` scales the loss, `fp8` uses 8 bits for the large matrices in training (Hopper GPUs or newer)."""
    seed: Seed = 42
    """Seed of the initial weights and of the row order."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 250
    """Steps between evaluations of validation bits per byte; 0: only at the end."""
    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens per evaluation (limited by the size of the split)."""
    core_every_steps: Annotated[int, Field(ge=0), AbsentMeans(0)] = 0
    """Steps between evaluations on CORE, with `core_bundle.source`; also at the end. 0: none."""
    core_limit: Annotated[int, Field(ge=0), AbsentMeans(500)] = 500
    """Questions per task in these evaluations, the first ones in nanochat's order; 0: all."""
    guard: GuardConfig = GuardConfig()
    """Handling of a loss that is not finite or jumps."""


class BaseEvaluationConfig(Config):
    """Evaluation of the base model: bits per byte on held-out text, and samples."""

    evaluation_tokens: Annotated[int, Field(ge=1)] = 80 * 524_288
    """Validation tokens to evaluate (limited by the size of the split)."""
    prompts: tuple[str, ...] = (
        "The capital of France is",
        "The chemical symbol of gold is",
        "If yesterday was Friday, then tomorrow will be",
        "The opposite of hot is",
        "The planets of the solar system are:",
        "My favorite color is",
        "If 5*x + 3 = 13, then x is",
    )
    """Prompts that the model continues by greedy decoding."""
    sample_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens of each continuation."""
    free_samples: Annotated[int, Field(ge=0)] = 4
    """Unconditional samples, at temperature 1."""
    seed: Seed = 42
    """Seed of the unconditional samples."""
