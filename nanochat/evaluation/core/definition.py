"""What CORE is: 22 tasks, and the accuracy of a guess on each of them (DCLM, arXiv:2406.11794).

    centered = (accuracy - baseline) / (1 - baseline)          CORE = mean of the 22 centered accuracies

DCLM has published two versions of the baselines. nanochat's bundle has the first one, so `v1` is what its harness
prints; `v2` is DCLM's later correction, which lowers CORE.
"""

from collections.abc import Mapping

BASELINES_V1: Mapping[str, float] = {
    "hellaswag_zeroshot": 0.25, "jeopardy": 0.0, "bigbench_qa_wikidata": 0.0, "arc_easy": 0.25, "arc_challenge": 0.25,
    "copa": 0.5, "commonsense_qa": 0.2, "piqa": 0.5, "openbook_qa": 0.25, "lambada_openai": 0.0, "hellaswag": 0.25,
    "winograd": 0.5, "winogrande": 0.5, "bigbench_dyck_languages": 0.0, "agi_eval_lsat_ar": 0.2,
    "bigbench_cs_algorithms": 0.0, "bigbench_operators": 0.0, "bigbench_repeat_copy_logic": 0.0, "squad": 0.0,
    "coqa": 0.0, "boolq": 0.62, "bigbench_language_identification": 0.091,
}  # fmt: skip
BASELINES_V2: Mapping[str, float] = {
    **BASELINES_V1, "commonsense_qa": 0.403, "agi_eval_lsat_ar": 0.25, "bigbench_language_identification": 0.25
}  # fmt: skip
BASELINES: Mapping[str, Mapping[str, float]] = {"v1": BASELINES_V1, "v2": BASELINES_V2}
TASKS = tuple(BASELINES_V1)


def version_of(baselines: Mapping[str, float]) -> str:
    """The version whose baselines these are; `bundle` if they are of no known version."""
    for version, known in BASELINES.items():
        if all(abs(baseline - known[task]) < 1e-9 for task, baseline in baselines.items() if task in known):
            return version
    return "bundle"
