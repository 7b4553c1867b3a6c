"""The page that compares models: a verdict in words, scores, questions won and lost, settings, curves, texts, cost."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.report.answers import answers_of, has_answers
from nanochat.report.comparison import Section, section_chapter, sections, sentence
from nanochat.report.contenders import Contender, bits_verdicts, cost, differences, learning, samples, scores
from nanochat.report.document import Block, Chapter, Document, Points, Text


def compared_sections(contenders: Sequence[Contender], confidence: float) -> list[Section]:
    """The evaluations that have kept their answers, by stage."""
    answers = [
        answers_of(each.name, evaluation)
        for each in contenders
        for evaluation in each.evaluations.values()
        if has_answers(evaluation)
    ]
    return sections(answers, confidence)


def comparison_document(
    title: str, contenders: Sequence[Contender], found: Sequence[Section], problems: Sequence[str], confidence: float
) -> Document:
    """The page; `problems` are sentences about what is missing."""
    names = " · ".join(each.name for each in contenders)
    return Document(
        title,
        names,
        [
            Chapter("Verdict", [Points(verdicts(contenders, found, problems))]),
            Chapter("Scores", scores(contenders)),
            *(section_chapter(section, confidence) for section in found),
            Chapter("What differs", differences(contenders)),
            Chapter("Training", learning(contenders)),
            Chapter("What they write", samples(contenders)),
            Chapter("Cost", cost(contenders)),
        ],
    )


def gate_document(title: str, text: str, found: Sequence[Section], confidence: float) -> Document:
    """The page of a gate's decision; `text` is the reason."""
    points = [sentence(comparison) for section in found for comparison in section.comparisons]
    head: list[Block] = [Text(text), *([Points(points)] if points else [])]
    return Document(title, "", [section_chapter(section, confidence) for section in found], head)


def verdicts(contenders: Sequence[Contender], found: Sequence[Section], problems: Sequence[str]) -> list[str]:
    """A sentence for each comparison, and one for each that is not possible."""
    compared = [sentence(comparison) for section in found for comparison in section.comparisons]
    refused = [sentence for section in found for sentence in section.refused]
    return [*compared, *bits_verdicts(contenders), *refused, *_not_shared(contenders), *problems]


def _not_shared(contenders: Sequence[Contender]) -> list[str]:
    first, *others = contenders
    sentences: list[str] = []
    for other in others:
        shared = [stage for stage in first.evaluations if stage in other.evaluations]
        if not shared:
            sentences.append(f"{first.name} and {other.name} have no evaluation of the same kind.")
        for stage in shared:
            silent = [
                each.name for each in (first, other)
                if stage != "evaluate_base" and not has_answers(each.evaluations[stage])
            ]  # fmt: skip
            if silent:
                without = " and ".join(silent)
                sentences.append(
                    f"{stage.replace('_', ' ')}: {without} kept no answers, as in earlier versions, so only the "
                    "scores are shown."
                )
    return sentences
