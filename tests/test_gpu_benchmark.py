"""`benchmarks/gpu.py`: its parts run, on a CPU; one that fails takes no other along; the table claims what was seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import prove
from benchmarks.gpu_claims import CLAIMS, FAIL, NOT_RUN, PASS, verdicts
from benchmarks.gpu_parts import Bench, Part
from benchmarks.gpu_profile import kernel_class

ROOT = Path(__file__).parents[1]
SENTENCES = {claim.name: claim.sentence for claim in CLAIMS}


def found(part: str, *, rehearsal: bool = False, status: str = "done", **checks: bool | None) -> dict[str, Any]:
    return {
        "part": part, "rehearsal": rehearsal, "status": status, "sentence": "" if status == "done" else "it broke",
        "seconds": 1.0, "numbers": {},
        "checks": {name.replace("_", "-"): {"holds": holds, "seen": "1%"} for name, holds in checks.items()},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (found("float8", float8=True), (PASS, "1%")),
        (found("float8", float8=False), (FAIL, "1%")),
        (found("float8", float8=None), (NOT_RUN, "1%")),
        (found("float8", rehearsal=True, float8=True), (NOT_RUN, "rehearsed: 1%")),
        (found("float8", rehearsal=True, float8=None), (NOT_RUN, "rehearsed")),
        (found("float8", rehearsal=True, float8=False), (FAIL, "1%")),
        (found("float8", status="failed"), (FAIL, "it broke")),
        (found("float8", status="stopped"), (NOT_RUN, "it broke")),
        (found("float8", status="stopped", float8=True), (PASS, "1%")),
        (found("ceilings"), (NOT_RUN, "`--only float8`")),
    ],
)
def test_a_row_is_what_was_seen(line: dict[str, Any], expected: tuple[str, str]) -> None:
    rows = {row.sentence: (row.result, row.seen) for row in verdicts([line])}
    assert rows[SENTENCES["float8"]] == expected


def test_the_last_of_two_lines_of_a_part_counts() -> None:
    rows = {row.sentence: row.result for row in verdicts([found("float8", float8=False), found("float8", float8=True)])}
    assert rows[SENTENCES["float8"]] == PASS


def test_a_part_that_fails_takes_no_other_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def raises(bench: Bench) -> None:
        bench.check("one-graph", True, "seen before it raised")
        raise ValueError("the part is broken.\nsecond line")

    def crashes(bench: Bench) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(bench: Bench) -> None:
        bench.numbers(before=1)
        time.sleep(600)

    def reads(bench: Bench) -> None:
        bench.check("float8", bench.earlier("attention") == {"before": 1}, "it runs after all of them")

    parts = (
        Part("graphs", raises, 60), Part("ceilings", crashes, 60), Part("attention", hangs, 3.0),
        Part("float8", reads, 60),
    )  # fmt: skip
    code = prove(parts, tmp_path / "lines.jsonl", device="cpu", rehearsal=False, limit_s=300)
    lines = {line["part"]: line for line in map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())}
    printed = capsys.readouterr().out
    assert [json.loads(line) for line in printed.splitlines() if line.startswith("{")] == list(lines.values())
    assert lines["graphs"]["sentence"] == "ValueError: the part is broken"
    assert lines["graphs"]["status"] == lines["ceilings"]["status"] == "failed"
    assert lines["ceilings"]["sentence"].endswith("the signal SIGKILL")
    assert (lines["attention"]["status"], lines["attention"]["numbers"]) == ("stopped", {"before": 1})
    for claim, row in {
        "one-graph": "PASS | seen before it raised",
        "compiled-once": "FAIL | ValueError: the part is broken",
        "kernels": "NOT RUN | stopped after 3 s",
        "float8": "PASS | it runs after all of them",
    }.items():
        assert f"| {SENTENCES[claim]} | {row} |" in printed
    assert "| the part `ceilings` runs to its end | FAIL |" in printed
    assert code == 1


def test_without_time_a_part_does_not_begin(tmp_path: Path) -> None:
    def never(bench: Bench) -> None:
        raise AssertionError

    file = tmp_path / "lines.jsonl"
    assert prove((Part("float8", never, 60),), file, device="cpu", rehearsal=False, limit_s=1.0) == 0
    assert json.loads(file.read_text())["sentence"] == "no time was left: `--only float8`"


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--file", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000, env=environment)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    broken = {line["part"]: line["sentence"] for line in lines if line["status"] != "done"}
    assert not broken
    assert [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] == lines
    assert {claim.part for claim in CLAIMS if claim.part} <= {line["part"] for line in lines} | {"d20-bf16", "d20-fp8"}
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(table) == len(CLAIMS)
    assert not [row for row in table if f"| {PASS} |" in row]
    assert not [row for row in table if f"| {FAIL} |" in row]
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdSm90<flash::CollectiveMainloop", "attention"),
        ("triton_tem_fused_flex_attention_backward_2", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("triton_red_fused__to_copy_add_mul_rms_norm_4", "compiled passes"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>", "element-wise"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("aten::mm", "products"),
        ("ncclDevKernel_ReduceScatter", "communication"),
        ("triton_poi_fused__scaled_mm_abs_3", "compiled passes"),
        ("void gatherTopK<float>", "other"),
    ],
)
def test_kernels_have_their_class(name: str, expected: str) -> None:
    assert kernel_class(name) == expected


def test_the_docs_have_every_claim() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    assert not [claim.sentence for claim in CLAIMS if f"| {claim.sentence} |" not in text]
