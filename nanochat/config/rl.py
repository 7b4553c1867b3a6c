"""Configs of reinforcement learning: the problems with their rewards, sampling, the loss, the run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from nanochat.config.base import AbsentMeans, Config, Seed
from nanochat.config.training import GuardConfig, OptimizerConfig


class RewardConfig(Config):
    """One part of the reward of an answer; the reward is the sum of all parts, each times its weight."""

    kind: Literal["answer", "format", "length", "function"] = "answer"
    """`answer`: 1 if the task's own judge accepts the answer (programs run their tests in the sandbox), else 0.
    `format`: 1 if `pattern` is found in the answer, else 0. `length`: 0 up to `tokens`, then falling to -1 at
    `rl.sampling.max_tokens`. `function`: what your own function returns."""
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    """Factor on this part."""
    pattern: str = ""
    """Regular expression of `format`; it searches the answer as the user sees it."""
    tokens: Annotated[int, Field(ge=0)] = 0
    """Longest answer without a deduction, for `length`."""
    function: str = ""
    """Your own function, as `path/to/file.py:name`. It is called as `name(problem, answer)` with the problem as a dict
    (`messages`, `answer`, …) and the answer's text, and returns a number. Its file must be complete in itself."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """SHA-256 of the function's file; another file is refused. Empty: the run computes it."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "format" and not self.pattern:
            raise PydanticCustomError("reward", "a reward for the format needs a `pattern`")
        if self.kind == "function" and not all(self.function.rpartition(":")[::2]):
            raise PydanticCustomError("reward", "a reward by a function needs `function`: `path/to/file.py:name`")
        return self


class RLTask(Config):
    """One source of problems, and how answers to them are rewarded."""

    task: Literal[
        "sums", "everyday", "world", "spelling", "spelling_bee", "gsm8k", "problems",
        # without problems to train on, or without an answer to judge: refused with a sentence
        "identity", "smoltalk", "mmlu", "arc_easy", "arc_challenge", "humaneval", "conversations",
    ] = "sums"  # fmt: skip
    """Which problems. `problems` reads your own, from JSON or JSONL: `question` and `answer`, or `question`, `tests`
    and `entry_point` for programs; every tenth is held out."""
    source: str = ""
    """Folder, file or `hf://org/name` to read instead of the task's default source."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """SHA-256 of a source on this machine; other content is refused. Empty: the run computes it."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Most problems to train on; 0: all."""
    held_out: Annotated[int, Field(ge=1)] = 400
    """Most held-out problems to evaluate on."""
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Share of the prompts of a step, relative to the weights of the other tasks."""
    rewards: Annotated[tuple[RewardConfig, ...], Field(min_length=1)] = (RewardConfig(),)
    """The parts of the reward."""


class ProblemsConfig(Config):
    """The problems of reinforcement learning, and the held-out ones."""

    tasks: tuple[RLTask, ...] = ()
    """The mixture of tasks. Empty: there is no reinforcement learning."""
    seed: Seed = 42
    """Seed of generated tasks."""


class RLSampling(Config):
    """How answers are sampled."""

    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """Longest answer, in tokens; a longer one is truncated."""
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Temperature."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among this many most likely tokens; 0: all."""


class RLLoss(Config):
    """The loss. docs/rl.md has its formulas."""

    advantage: Literal["centered", "group_sd", "batch_sd"] = "centered"
    """Reward minus the mean of the group (Dr. GRPO, arXiv:2503.20783); also divided by the standard deviation of the
    group (GRPO, arXiv:2402.03300), or of the whole step."""
    divided_by: Literal["tokens", "sequence", "constant", "pass"] = "tokens"
    """What the sum over tokens is divided by: the live tokens of the whole step over all ranks (DAPO,
    arXiv:2503.14476); the tokens of each answer, then the answers; `max_tokens` times the answers; or as nanochat does,
    the tokens of each pass of 8 answers."""
    dead_groups: Literal["drop", "keep"] = "drop"
    """Groups whose rewards are all equal teach nothing. `drop` leaves them out of numerator and denominator (without a
    KL term); `keep` counts their tokens in the denominator."""
    refill_rounds: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a step samples new prompts in place of dropped groups (DAPO's dynamic sampling), at most."""
    ratio: Literal["none", "clip", "cispo", "gspo"] = "none"
    """How the ratio of the policy to the behaviour policy enters: not at all, clipped per token (PPO,
    arXiv:1707.06347), clipped as a constant weight (CISPO, arXiv:2506.13585), clipped per sequence (GSPO,
    arXiv:2507.18071)."""
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The ratio is clipped at 1 minus this."""
    clip_high: Annotated[float, Field(ge=0, le=100)] = 0.28
    """The ratio is clipped at 1 plus this."""
    correction_limit: Annotated[float, Field(ge=0, le=100)] = 2.0
    """With the ratio `none`: each token is weighted by the ratio to the stored log-probabilities of the engine,
    truncated here, which corrects for what differs between engine and training. 0: no weight."""
    distribution: Literal["sampled", "full"] = "sampled"
    """The policy whose log-probabilities are trained: the one that was sampled from, with temperature and top-k, or the
    full softmax of the logits."""
    truncated: Literal["zero", "mask", "judge"] = "zero"
    """Truncated answers: reward 0; left out of group and loss; or judged like all others."""
    end_token: bool = True
    """Whether the end token that was sampled is in the loss."""
    kl: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    """Weight of the KL divergence from the model at the start, estimated per token by k3 times the ratio."""


NANOCHAT_SAMPLING = RLSampling(max_tokens=256, temperature=1.0, top_k=50)
NANOCHAT_LOSS = RLLoss(
    divided_by="pass", dead_groups="keep", correction_limit=0, distribution="full", truncated="judge", end_token=False
)


class RLConfig(Config):
    """Reinforcement learning on problems whose answers can be judged (GRPO)."""

    preset: Literal["", "nanochat"] = ""
    """`nanochat` replaces `loss` and `sampling` by those of nanochat, oddities included: the end token is not trained,
    the loss is normalized per pass of 8 answers, top-k 50 is sampled and the full softmax trained, and the last weights
    are kept, not the best."""
    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimizer steps; 0: one pass over the problems."""
    prompts_per_step: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Problems of a step, over all ranks."""
    group_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Answers to each problem of a step."""
    sampling: RLSampling = RLSampling()
    """How answers are sampled."""
    loss: RLLoss = RLLoss()
    """The loss."""
    optimizer: OptimizerConfig = OptimizerConfig(embedding_lr=0.2, value_embedding_lr=0.1, head_lr=0.004)
    """Learning rates; they are not scaled with the batch. The fields of schedules are not used."""
    lr_fraction: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Learning rates at the start, as a fraction of `optimizer`; they decay linearly to 0."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products, as in pretraining. Logits are fp32 in loss and sampler."""
    seed: Seed = 42
    """Seed of the order of problems and of all samples: a sample depends on seed, step, problem and its number."""
    bad_reward: Literal["stop", "leave_out"] = "stop"
    """A reward that raises an error, is not a finite number, or takes longer than `reward_timeout_s`: stop, or leave
    the answer out of group and loss, and count it."""
    reward_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Longest time of one reward by a pattern or your own function."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 60
    """Steps between evaluations on held-out problems; 0: only before the first and after the last."""
    evaluation_samples: Annotated[int, Field(ge=1, le=1024)] = 8
    """Answers to each held-out problem, for pass@k."""
    keep: Literal["best", "last"] = "best"
    """Weights of the result: those of the evaluation with the highest lower bound of pass@1, or the last ones."""
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Training stops after this many evaluations in a row without a higher lower bound of pass@1; 0: never."""
    guard: GuardConfig = GuardConfig(spike_nats=0)
    """Handling of a loss that is not finite."""

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group_size < 2:
            raise PydanticCustomError(
                "group", "a group of one answer has no mean to compare with; `group_size` should be at least 2"
            )
        return self

    @property
    def used_sampling(self) -> RLSampling:
        """The sampling of the preset, or `sampling`."""
        return NANOCHAT_SAMPLING if self.preset == "nanochat" else self.sampling

    @property
    def used_loss(self) -> RLLoss:
        """The loss of the preset, or `loss`."""
        return NANOCHAT_LOSS if self.preset == "nanochat" else self.loss

    @property
    def keeps_best(self) -> bool:
        """Whether the result has the weights of the best evaluation."""
        return self.keep == "best" and self.preset != "nanochat"
