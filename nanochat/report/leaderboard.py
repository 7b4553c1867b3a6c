"""The leaderboard: all models of a store by a metric.

Only evaluations under the same terms are ranked together: the same version of the stage, the same settings, the same
questions, bundle, rows or text. Models whose intervals overlap share a rank.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from nanochat.console import is_number, number
from nanochat.errors import DamagedArtifact, NanochatError, NewerFormat, NotFound
from nanochat.lineage.evaluations import EVALUATION_STAGES, foreign_name, score_of
from nanochat.report.document import Block, Cell, Chapter, Document, Figure, Table, Text
from nanochat.report.figures import Bar, Group, bars
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

MODEL_STAGES = ("pretrain", "continue_pretrain", "sft", "dpo", "rl", "foreign_model")
USUAL = ("bits_per_byte", "core", "chatcore", "centered_accuracy")
"""Metrics of the leaderboard unless others are named."""
READS_AT_ONCE = 8
MOST_DRAWN = 30


@dataclass(frozen=True)
class Entry:
    """One model in a ranking."""

    rank: int
    """One more than the number of models that are shown to be better; those whose intervals overlap are not."""
    name: str
    model: Manifest | None
    """None: it has left the store, and its evaluation has stayed."""
    evaluation: Manifest
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Ranking:
    """Models that were evaluated under the same terms, best first."""

    metric: str
    terms: str
    """What distinguishes these terms from those of the other rankings by this metric; empty for the only one."""
    entries: Sequence[Entry]


class Leaderboard:
    """What a store knows of its models. Unreadable manifests are left out; `unread` has their errors.

    With `newest`, only so many artifacts of each stage are read, the last that were published, and the models of those
    evaluations; `is_partial`: there are others.
    """

    def __init__(self, store: Store, newest: int = 0) -> None:
        self._store = store
        self.unread: dict[str, NanochatError] = {}
        self.is_partial = False
        self._reports: dict[Name, Mapping[str, Any]] = {}
        with ThreadPoolExecutor(4) as pool:
            stages = (*MODEL_STAGES, *EVALUATION_STAGES)
            survey = partial(self._newest, newest) if newest else store.survey
            found = dict(zip(stages, pool.map(survey, stages), strict=True))
        for _, unread in found.values():
            self.unread |= unread
        self.models: dict[Name, Manifest] = {each.name: each for stage in MODEL_STAGES for each in found[stage][0]}
        self.evaluations = [each for stage in EVALUATION_STAGES for each in found[stage][0]]
        if self.is_partial:
            self.models |= self._models_of_evaluations()
        self.aliases: dict[Name, list[str]] = {}
        for alias, target in store.aliases().items():
            self.aliases.setdefault((target.stage, target.key), []).append(alias)

    def _newest(self, most: int, stage: str) -> tuple[list[Manifest], dict[str, NanochatError]]:
        """Like `Store.survey`, for the artifacts of a stage that were published last."""
        listed = self._store.objects.list(f"v1/artifacts/{stage}")
        manifests = [entry for entry in listed if entry.path.count("/") == 4 and entry.path.endswith("/manifest.json")]
        keys = [entry.path.split("/")[3] for entry in sorted(manifests, key=lambda entry: -entry.modified_s)]
        self.is_partial |= len(keys) > most
        found: list[Manifest] = []
        unread: dict[str, NanochatError] = {}
        for key in keys[:most]:
            try:
                if manifest := self._store.read(stage, key):
                    found.append(manifest)
            except NanochatError as error:
                if error.transient:  # the store is away: the others would fail too
                    raise
                unread[f"{stage}/{key}"] = error
        return found, unread

    def _models_of_evaluations(self) -> dict[Name, Manifest]:
        """The evaluated models that were not read yet, without those that are gone or unreadable."""
        names = {each.inputs["model"][0].name for each in self.evaluations if "model" in each.inputs}
        found: dict[Name, Manifest] = {}
        for name in names - self.models.keys():
            with suppress(DamagedArtifact, NewerFormat):
                if manifest := self._store.read(*name):
                    found[name] = manifest
        return found

    @cached_property
    def metrics(self) -> list[str]:
        """Every metric by which models can be ranked."""
        found = (each.metrics.items() for each in self.evaluations)
        names = dict.fromkeys(name for metrics in found for name, value in metrics if is_number(value))
        return [*(name for name in USUAL if name in names), *sorted(name for name in names if name not in USUAL)]

    def rankings(self, metric: str) -> list[Ranking]:
        """One ranking for each set of terms, the one with most models first. Raises `NotFound` for another metric."""
        if metric not in self.metrics:
            near = difflib.get_close_matches(metric[:100], self.metrics, 1)
            known = ", ".join(f"`{name}`" for name in self.metrics[:20]) or "none yet"
            hint = f"Did you mean `{near[0]}`?" if near else f"There are {known}."
            raise NotFound(f"No evaluation in {self._store.objects.root} has the metric `{metric[:100]}`.", hint=hint)
        scored = [each for each in self.evaluations if score_of(each.metrics, metric) is not None]
        unknown = [each for each in scored if each.name not in self._reports]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            self._reports |= zip((each.name for each in unknown), pool.map(self._report, unknown), strict=True)
        reports = self._reports
        groups: dict[str, dict[Name, Manifest]] = {}
        terms: dict[str, dict[str, str]] = {}
        for each in sorted(scored, key=lambda each: each.producer.ended):
            mine = self._terms(each, reports[each.name], metric)
            name = json.dumps(mine, sort_keys=True)
            terms[name] = mine
            groups.setdefault(name, {})[each.inputs["model"][0].name] = each  # the newest replaces earlier ones
        shown = _differing(terms)
        found = [
            Ranking(metric, shown[name], self._ranked(metric, members, reports)) for name, members in groups.items()
        ]
        return sorted(found, key=lambda ranking: -len(ranking.entries))

    def name_of(self, model: Name) -> str:
        """Aliases of a model, or its stage and key; of a model of Hugging Face, its name there."""
        known = self.models.get(model)
        if known is not None and known.stage == "foreign_model":
            return foreign_name(known.config)
        named = ", ".join(self.aliases.get(model, [])) or f"{model[0]} {model[1][:8]}"
        return named if known is not None else f"{named} (gone)"

    def gone(self) -> list[str]:
        """Names of the models that have left the store, and whose evaluations have stayed."""
        evaluated = dict.fromkeys(each.inputs["model"][0].name for each in self.evaluations if "model" in each.inputs)
        return [self.name_of(name).removesuffix(" (gone)") for name in evaluated if name not in self.models]

    def unevaluated(self) -> list[str]:
        """Names of the models without any evaluation."""
        evaluated = {each.inputs["model"][0].name for each in self.evaluations if "model" in each.inputs}
        return [self.name_of(name) for name in self.models if name not in evaluated]

    def _report(self, evaluation: Manifest) -> Mapping[str, Any]:
        """The intervals of an evaluation, and how many questions of which form each task has."""
        try:
            found = json.loads(self._store.payloads.read_file(evaluation, "evaluation.json"))
        except (NanochatError, ValueError, OSError):  # its payload is gone: the metrics have no interval
            return {}
        tasks = {
            name: {each: task.get(each) for each in ("form", "kind", "questions", "interval")}
            for name, task in found.get("tasks", {}).items()
        }
        return {"tasks": tasks, **{name: value for name, value in found.items() if name.endswith("_interval")}}

    def _terms(self, evaluation: Manifest, report: Mapping[str, Any], metric: str) -> dict[str, str]:
        """What must be equal for scores to be compared."""
        terms = {"stage": evaluation.stage, "version": str(evaluation.stage_version)}
        terms |= {name: _short(value) for name, value in evaluation.config.items() if name != "prompts"}
        for name, references in evaluation.inputs.items():
            if name == "conversations":
                terms["questions"] = self._questions(report, metric)
            elif name != "model":
                terms[name] = _digest([ref.digest for ref in references])
        return terms

    def _questions(self, report: Mapping[str, Any], metric: str) -> str:
        """The tasks with their forms and numbers of questions: those of one task, if the metric is its accuracy."""
        tasks = report.get("tasks", {})
        only = metric.removesuffix("_accuracy")
        used = {only: tasks[only]} if only in tasks else tasks
        return ", ".join(
            f"{name} ({task['form'] or task['kind'] or ''}, {task['questions'] or 0:,})"
            for name, task in sorted(used.items())
        )

    def _ranked(
        self, metric: str, members: Mapping[Name, Manifest], reports: Mapping[Name, Mapping[str, Any]]
    ) -> list[Entry]:
        sign = 1 if less_is_better(metric) else -1
        scores = {name: score_of(each.metrics, metric) or 0.0 for name, each in members.items()}
        intervals = {name: _interval(reports[each.name], metric) for name, each in members.items()}
        ends = {
            name: sorted(sign * end for end in intervals[name] or (scores[name],) * 2) for name in members
        }  # the smaller, the better
        worst = sorted(high for _, high in ends.values())
        return [
            Entry(
                1 + bisect_left(worst, ends[name][0]),
                self.name_of(name), self.models.get(name), members[name], scores[name], intervals[name],
            )
            for name in sorted(members, key=lambda name: (sign * scores[name], name))
        ]  # fmt: skip


def less_is_better(metric: str) -> bool:
    """Bits, nats and losses; everything else is a share of right answers."""
    return any(word in metric for word in ("bits", "nats", "loss"))


def leaderboard_page(board: Leaderboard, metrics: Sequence[str]) -> Document:
    """The page; one chapter for each ranking."""
    rankings = [ranking for metric in metrics for ranking in board.rankings(metric)]
    lonely = board.unevaluated()
    count = len(board.models)
    head: list[Block] = [
        Text(
            "Models with the same rank cannot be distinguished: their 95% intervals overlap. A rank counts the models "
            "that are shown to be better. Only evaluations under the same terms are ranked together."
        )
    ]
    if lonely:
        more = f" and {len(lonely) - 20} more" if len(lonely) > 20 else ""
        head.append(Text(f"Not evaluated: {', '.join(lonely[:20])}{more}.", "dim"))
    if gone := board.gone():
        more = f" and {len(gone) - 20} more" if len(gone) > 20 else ""
        head.append(Text(f"No longer in the store, but their evaluations are: {', '.join(gone[:20])}{more}.", "dim"))
    chapters = [Chapter(title_of(ranking), _blocks(ranking)) for ranking in rankings]
    return Document("Models", f"{count:,} models", chapters, head)


def title_of(ranking: Ranking) -> str:
    """`bits per byte: limit 500`."""
    name = ranking.metric.replace("_", " ")
    return f"{name}: {ranking.terms}" if ranking.terms else name


HEADS = ("rank", "model", "score", "interval", "parameters", "training tokens", "evaluated")
NUMBERS = ("rank", "score", "interval", "parameters", "training tokens")


def row(entry: Entry) -> list[str | Cell]:
    """An entry as cells under `HEADS`."""
    numbers = entry.model.metrics if entry.model else {}
    interval = f"{entry.interval[0]:.4f} – {entry.interval[1]:.4f}" if entry.interval else "unknown"
    return [
        str(entry.rank), entry.name, f"{entry.value:.4f}", interval,
        *(number(numbers[name]) if is_number(numbers.get(name)) else "" for name in ("parameters", "train_tokens")),
        f"{entry.evaluation.producer.ended:%Y-%m-%d %H:%M}",
    ]  # fmt: skip


def as_json_rows(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """The rankings for other programs."""
    return [
        {
            "metric": ranking.metric, "terms": ranking.terms, "rank": entry.rank, "model": entry.name,
            "key": "/".join(entry.evaluation.inputs["model"][0].name), "score": entry.value,
            "interval": entry.interval, "evaluation": "/".join(entry.evaluation.name),
        }
        for ranking in rankings
        for entry in ranking.entries
    ]  # fmt: skip


def _blocks(ranking: Ranking) -> list[Block]:
    drawn = ranking.entries[:MOST_DRAWN]
    groups = [
        Group(
            f"{entry.rank}. {entry.name}", [Bar(entry.value, _number(entry), int(_is_foreign(entry)), entry.interval)]
        )
        for entry in drawn
    ]
    better = "Less" if less_is_better(ranking.metric) else "More"
    caption = f"{better} is better. With 95% intervals, where they are known."
    names = ("models of this store", "models of Hugging Face") if any(_is_foreign(entry) for entry in drawn) else ()
    return [Figure(bars(groups, names), caption), Table(HEADS, [row(entry) for entry in ranking.entries], NUMBERS)]


def _number(entry: Entry) -> str:
    ends = f" ({entry.interval[0]:.4f}–{entry.interval[1]:.4f})" if entry.interval else ""
    return f"{entry.value:.4f}{ends}"


def _is_foreign(entry: Entry) -> bool:
    return entry.evaluation.inputs["model"][0].stage == "foreign_model"


def _interval(report: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    task = report.get("tasks", {}).get(metric.removesuffix("_accuracy"), {})
    found = report.get(f"{metric}_interval") or (task.get("interval") if metric.endswith("_accuracy") else None)
    return (float(found[0]), float(found[1])) if found else None


def _differing(terms: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """For each set of terms, in words, those that are not the same in all."""
    names = dict.fromkeys(name for each in terms.values() for name in each)
    different = [name for name in names if len({each.get(name) for each in terms.values()}) > 1]
    return {
        key: "; ".join(f"{name.replace('_', ' ')} {each.get(name, 'not set')}" for name in different)
        for key, each in terms.items()
    }


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _digest(digests: Sequence[str]) -> str:
    """The input, or the number of inputs and what they are together."""
    if len(digests) == 1:
        return digests[0][:8]
    return f"{len(digests):,} × {hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}"
