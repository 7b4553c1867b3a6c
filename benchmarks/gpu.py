"""The claims of `docs/training.md` about a GPU, shown by one command on one card in at most ten minutes.

    python benchmarks/gpu.py                           every part, about ten minutes on an H200
    python benchmarks/gpu.py --only d20-bf16 d20-fp8   some parts; the table has those of earlier calls too
    python benchmarks/gpu.py --rest                    the parts that no earlier call finished
    python benchmarks/gpu.py --rehearse                every part on a CPU with tiny shapes, under a minute

It needs no network and no store: PyTorch 2.11 or later, and of our dependencies those in `PACKAGES`. Each part is a
process with a time limit. After each part, its line of JSON is printed and added to `--file`; at the end, a table has
PASS, FAIL or NOT RUN for each claim (`gpu_claims.py`). A rehearsal shows that the parts run, and that the values are
right on a CPU; it claims nothing about a card. The exit code is 1 if there is a FAIL.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_claims import FAIL, table, verdicts
from benchmarks.gpu_parts import Part, run

PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "psutil", "pyarrow", "fsspec", "botocore", "xxhash")
REHEARSAL_S = 1200.0
"""Limit of each part of a rehearsal, whatever else a machine does; of all of them, there is none."""
LEAST_S = 15.0
"""With less time left, no part begins."""


def parts() -> tuple[Part, ...]:
    """In their order: what is worth most comes first. The sum of their limits is more than the whole limit."""
    from benchmarks.gpu_graphs import graphs
    from benchmarks.gpu_kernels import attention, float8
    from benchmarks.gpu_machine import ceilings, versions
    from benchmarks.gpu_speed import peer, speed
    from benchmarks.gpu_values import precisions, resume

    def speed_of(depth: int, precision: str, limit_s: float, *, by_request: bool = False) -> Part:
        work = functools.partial(speed, depth=depth, precision=precision)
        return Part(f"d{depth}-{precision}", work, limit_s, by_request)

    return (
        Part("versions", versions, 30),
        Part("ceilings", ceilings, 40),
        Part("attention", attention, 80),
        Part("float8", float8, 20),
        Part("graphs", graphs, 100),
        Part("resume", resume, 60),
        speed_of(12, "bf16", 110),
        Part("peer", functools.partial(peer, with_our_kernel=True), 110),
        speed_of(24, "fp8", 150),
        speed_of(24, "bf16", 150),
        Part("precisions", precisions, 120),
        speed_of(12, "fp8", 110),
        Part("peer-masks", functools.partial(peer, with_our_kernel=False), 110),
        speed_of(20, "bf16", 150, by_request=True),
        speed_of(20, "fp8", 150, by_request=True),
    )


def missing_packages() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def lines_of(file: Path, rehearsal: bool) -> list[dict[str, Any]]:
    """The lines of earlier calls, in their order; those of rehearsals, or the others."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["rehearsal"] == rehearsal]


def prove(chosen: tuple[Part, ...], file: Path, *, device: str, rehearsal: bool, limit_s: float) -> int:
    """Runs the parts, adds their lines to the file, prints the table; returns the exit code."""
    lines = lines_of(file, rehearsal)
    ends_at = time.monotonic() + limit_s
    for part in chosen:
        left_s = ends_at - time.monotonic()
        if left_s < LEAST_S and not rehearsal:
            line = {
                "part": part.name, "rehearsal": rehearsal, "status": "stopped", "seconds": 0.0, "checks": {},
                "numbers": {}, "sentence": f"no time was left: `--only {part.name}`",
            }  # fmt: skip
        else:
            most_s = REHEARSAL_S if rehearsal else min(part.limit_s, left_s)
            line = run(part, most_s, device=device, rehearsal=rehearsal, earlier=lines)
        lines.append(line)
        text = json.dumps(line)
        with file.open("a", encoding="utf-8") as results:
            results.write(text + "\n")
        print(text, flush=True)
    rows = verdicts(lines)
    print(f"\n{table(rows)}", flush=True)
    return int(any(row.result == FAIL for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in the order of the whole")
    parser.add_argument("--rest", action="store_true", help="the parts without a finished line in the file")
    parser.add_argument(
        "--file", type=Path, default=Path("gpu.jsonl"), help="results; lines are added (default: %(default)s)"
    )
    parser.add_argument(
        "--limit-s", type=float, default=570.0, help="seconds of all parts together (default: %(default)s)"
    )
    args = parser.parse_args()
    if missing := missing_packages():
        print(f"These packages are missing: {' '.join(missing)}. `pip install` them, or bring their wheels.")
        return 2
    every = parts()
    if unknown := set(args.only or ()) - {part.name for part in every}:
        print(f"There is no part {', '.join(sorted(unknown))}. There are {', '.join(part.name for part in every)}.")
        return 2
    chosen = tuple(part for part in every if (part.name in args.only if args.only else not part.by_request))
    if args.rest:
        finished = {line["part"] for line in lines_of(args.file, args.rehearse) if line["status"] == "done"}
        chosen = tuple(part for part in chosen if part.name not in finished)
    from benchmarks.gpu_machine import find_device

    device = "cpu" if args.rehearse else "cuda"
    found = run(Part("device", find_device, 60), 60, device=device, rehearsal=args.rehearse, earlier=[])
    if found["sentence"]:
        print(found["sentence"])
        return 2
    return prove(chosen, args.file, device=device, rehearsal=args.rehearse, limit_s=args.limit_s)


if __name__ == "__main__":
    sys.exit(main())
