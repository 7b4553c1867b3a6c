"""Runs torchrun, and records how its ranks failed: `python -m nanochat.workers.torchrun FAILURES OPTIONS…`.

torchrun raises `ChildFailedError` with the exit code of each failed rank, and prints a report. This module also writes
the codes to the file FAILURES as JSON, `{"exit_codes": {"0": -9}, "preempted": false}`, for `launch`, which does not
import torch.
"""

import json
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from nanochat.workers.job import EXIT_PREEMPTED

KILL_AFTER_S = 20
"""When a rank fails, torchrun sends TERM to the others, and KILL 30 s later: the system did not send each KILL."""


def main(failures: Path, options: list[str]) -> None:
    exit_codes: dict[int, int] = {}
    preempted = False
    try:
        torchrun(options)
    except ChildFailedError as error:
        first = min(failure.timestamp for failure in error.failures.values())
        exit_codes = {
            rank: failure.exitcode
            for rank, failure in error.failures.items()
            if failure.timestamp < first + KILL_AFTER_S or failure.exitcode != -signal.SIGKILL
        }
        preempted = EXIT_PREEMPTED in exit_codes.values()
        raise
    except SignalException:  # torchrun itself received a TERM
        preempted = True
        raise
    finally:
        failures.write_text(json.dumps({"exit_codes": exit_codes, "preempted": preempted}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
