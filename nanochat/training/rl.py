"""The worker of reinforcement learning: `python -m nanochat.training.rl job.json`, under torchrun.

At each step it samples answers to problems with the engine, judges them, and trains the model on them: GRPO
(arXiv:2402.03300) with the corrections that were published since. `docs/rl.md` explains it.
"""

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat.config.rl import RLConfig
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import rl_rates
from nanochat.rl.evaluation import improvement
from nanochat.rl.objective import RolloutBatch, TokenStatistics, rl_loss
from nanochat.rl.problems import FUNCTIONS, Problem, ProblemOrder, read_problems
from nanochat.rl.rewards import Rewards
from nanochat.rl.rollout_table import read_evaluations
from nanochat.scaling import Hyperparameters
from nanochat.settings import cores
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.held_out import ProblemEvaluation
from nanochat.training.loop import Schedule, train
from nanochat.training.micro_batch import micro_batch_rows
from nanochat.training.rollout_files import RolloutFiles
from nanochat.training.rollout_source import RolloutSource, Sampling, StepStatistics, trained_distribution
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main

CPU_SLOTS, GPU_SLOTS = 64, 256
"""Most answers that are sampled at once."""


def rl(job: Job, world: World) -> dict[str, Any]:
    """Trains a chat model on problems; returns the stage's metrics."""
    config = RLConfig.model_validate(job.config)
    base, problems = job.input("base"), read_problems(job.input("problems"))
    tokenizer = Tokenizer.load(base / "vocabulary.json")
    dtype = compute_dtype(config.precision, world.device)
    model = load_model(base, world.device, dtype)
    train_ids, held_out_ids = (_rendered(tokenizer, some) for some in (problems.train, problems.held_out))
    longest = max(map(len, (*train_ids, *held_out_ids))) + config.used_sampling.max_tokens
    answers = config.prompts_per_step * config.group_size
    steps = config.steps or max(1, len(problems.train) // config.prompts_per_step)
    hyperparameters = Hyperparameters(model.architecture, 0, steps, 1.0, 0.0)
    optimizer = build_optimizer(model, config.optimizer, hyperparameters, exact=job.compute.parallelism.exact)
    micro = micro_batch_rows(job.compute, model, longest, answers, world)
    # not compiled: each batch has another shape
    setup = prepare_for_device(
        model, config.precision, job.compute.kernels.model_copy(update={"compile": "off"}), world.device
    )
    engine = Engine(model, tokenizer, _engine_settings(world, answers, longest))
    rewards = Rewards(
        problems.tasks, job.input("problems") / FUNCTIONS, config.used_sampling.max_tokens, config.reward_timeout_s
    )
    files = RolloutFiles(job.checkpoints, Path(job.folder))

    @cache
    def start_model() -> GPT:
        return load_model(base, world.device, dtype).eval()

    held_out = ProblemEvaluation(
        Sampling(config, model, engine, problems.held_out, held_out_ids, rewards, world), start_model, files
    )
    of_tokens = TokenStatistics()
    statistics = StepStatistics(of_tokens)
    order = ProblemOrder(
        [problem.task for problem in problems.train], [task.weight for task in problems.tasks], config.seed
    )

    def open_source(start: int, step: int) -> RolloutSource:
        return RolloutSource(
            Sampling(config, model, engine, problems.train, train_ids, rewards, world), order,
            start_model() if config.used_loss.kl else None, files, statistics, micro,
            exact=job.compute.parallelism.exact, start=start, step=step,
        )  # fmt: skip

    def objective(network: GPT, batch: RolloutBatch) -> Tensor:
        return rl_loss(network, batch, config.used_loss, *trained_distribution(config), of_tokens)

    schedule = Schedule(
        open_source=open_source,
        steps=steps,
        batch_tokens=0,
        sequence_len=longest,
        micro_batch_rows=micro,
        rates=lambda step: rl_rates(step, steps, config.lr_fraction),
        evaluate=held_out.evaluate,
        evaluation_name="validation_pass_at_1",
        evaluate_every_steps=config.evaluate_every_steps,
        guard=config.guard,
        objective=objective,
        evaluate_first=True,
        may_be_empty=True,
        stops_early=held_out.stops_early,
        more_numbers=lambda: {**statistics.take(), **held_out.numbers()},
        more_tensors=held_out.tensors,
    )
    trained = train(job, world, model, optimizer, schedule, setup)
    held_out.use_best()
    if not world.is_first:
        return {}
    out = Path(job.out)
    trained.write(out, model, base / "vocabulary.json")
    kept = files.write(out, trained.steps)
    return {
        **improvement(read_evaluations(out), held_out.best_step if config.keeps_best else trained.steps), **kept,
        "steps": trained.steps, "parameters": hyperparameters.parameters, "training_s": trained.seconds,
        **trained.time_split, "world_size": world.world_size, "resumed_from_step": trained.resumed_from_step,
    }  # fmt: skip


def _rendered(tokenizer: Tokenizer, problems: list[Problem]) -> list[tuple[int, ...]]:
    return [tuple(render_prompt(tokenizer, problem.question["messages"])) for problem in problems]


def _engine_settings(world: World, answers: int, context_tokens: int) -> EngineSettings:
    on_cpu = world.device.type == "cpu"
    slots = min(CPU_SLOTS if on_cpu else GPU_SLOTS, max(1, -(-answers // world.world_size)))
    return EngineSettings(slots=slots, context_tokens=context_tokens, threads=max(1, cores() // world.world_size))


if __name__ == "__main__":
    main(rl)
