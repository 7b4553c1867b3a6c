"""Evaluation on held-out problems while reinforcement learning runs: it keeps the best weights, and ends training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nanochat.data.loader import IGNORED
from nanochat.model.gpt import GPT
from nanochat.rl.evaluation import RLEvaluation, summarize
from nanochat.rl.objective import token_logprobs
from nanochat.rl.rollouts import Prompt, Rollout
from nanochat.rl.sampling import EVALUATION
from nanochat.training.rollout_files import RolloutFiles
from nanochat.training.rollout_source import Sampling
from nanochat.workers.ranks import sum_over_ranks

KL_PROBLEMS = 64
"""Problems whose first answers are compared with the model at the start."""


class ProblemEvaluation:
    """Evaluates a model, and remembers the evaluation with the highest lower bound of pass@1.

    `tensors` is the part of its state that checkpoints contain: with it, a resumed run continues as if it had not been
    interrupted.
    """

    def __init__(self, sampling: Sampling, start_model: Callable[[], GPT], files: RolloutFiles) -> None:
        """`start_model` gives the model at the start, which is loaded only when it is needed."""
        self._sampling, self._start_model, self._files = sampling, start_model, files
        self._config = sampling.config
        self._state = torch.tensor([-1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
        """Lower bound and step of the best evaluation, evaluations since it, step of the last one."""
        weights = sampling.model.state_dict() if self._config.keeps_best else {}
        self._best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.last: RLEvaluation | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"held_out.state": self._state, **{f"held_out.best.{name}": each for name, each in self._best.items()}}

    @property
    def best_step(self) -> int:
        """The step whose weights the result has, if the best are kept."""
        return int(self._state[1])

    @torch.no_grad()
    def evaluate(self, step: int) -> float:
        """pass@1 after so many steps. Collective."""
        sampling, config = self._sampling, self._config
        prompts = [Prompt(n, problem, sampling.prompt_ids[n]) for n, problem in enumerate(sampling.problems)]
        sampling.use_weights()
        groups = sampling.groups(prompts, config.evaluation_samples, EVALUATION)
        evaluation = summarize(step, groups, self._kl([group[0] for group in groups[:KL_PROBLEMS]]))
        if sampling.world.is_first:
            self._files.keep_evaluation(step, evaluation.as_json())
        self._rank(evaluation)
        self.last = evaluation
        return evaluation.pass_at_1

    def _rank(self, evaluation: RLEvaluation) -> None:
        low, _, since, last_step = self._state.tolist()
        if evaluation.step <= last_step:  # a resumed run evaluates its last step again
            return
        better = evaluation.low > low
        if better:
            for name, tensor in self._sampling.model.state_dict().items():
                if name in self._best:
                    self._best[name].copy_(tensor)
        best = (evaluation.low, float(evaluation.step), 0.0) if better else (low, self._state[1].item(), since + 1)
        self._state.copy_(torch.tensor([*best, float(evaluation.step)], dtype=torch.float64))

    def stops_early(self) -> bool:
        """Whether the lower bound has not risen for as many evaluations as the config allows."""
        return bool(self._config.patience) and self._state[2].item() >= self._config.patience

    def numbers(self) -> dict[str, float]:
        """Numbers of the last evaluation for the log, once."""
        found, self.last = self.last, None
        if found is None:
            return {}
        (low, high), longest = found.interval, max(found.pass_at, key=int)
        more = {f"validation_pass_at_{longest}": found.pass_at[longest][0]} if longest != "1" else {}
        return {
            "validation_pass_at_1_low": low, "validation_pass_at_1_high": high, **more,
            "validation_tokens": found.mean_tokens, "validation_truncated": found.truncated,
            "validation_kl": found.kl,
        }  # fmt: skip

    @torch.no_grad()
    def use_best(self) -> None:
        """Gives the model the weights of the best evaluation, if these are kept."""
        for name, tensor in self._sampling.model.state_dict().items():
            if name in self._best:
                tensor.copy_(self._best[name])

    def _kl(self, rollouts: list[Rollout]) -> float:
        """Mean of log-probability minus that of the model at the start, over sampled tokens. Collective."""
        world, total, count = self._sampling.world, 0.0, 0
        model, how = self._start_model(), self._config.used_sampling
        for rollout in rollouts[world.rank :: world.world_size]:
            ids = torch.tensor([[*rollout.prompt.ids, *rollout.ids]], device=world.device)
            mask = torch.tensor([[*(False for _ in rollout.prompt.ids), *rollout.sampled]], device=world.device)
            targets = torch.where(mask, ids, IGNORED)[:, 1:]
            if not rollout.ids:
                continue
            sampled = torch.tensor(
                [each for each, own in zip(rollout.logprobs, rollout.sampled, strict=True) if own], device=world.device
            )
            before, _ = token_logprobs(model, ids[:, :-1], targets, how.temperature, how.top_k)
            total += float((sampled - before).sum())
            count += len(sampled)
        total, tokens = sum_over_ranks(total, count)
        return total / max(tokens, 1)
