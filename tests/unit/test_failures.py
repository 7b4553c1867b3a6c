"""Whatever is raised ends as one sentence; its traceback is in a file that holds no credential."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from nanochat import failures
from nanochat.cli.main import main
from nanochat.errors import (
    BadConfig,
    NanochatError,
    NoSpace,
    NotEnoughMemory,
    SourceUnreachable,
    SystemFailed,
    SystemRefused,
    Unexpected,
    from_json,
)
from nanochat.failures import convert_errors, to_nanochat_error


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def reports(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("nanochat-*.txt"))]


def failing(error: BaseException) -> BaseException:
    """The error, with a traceback."""
    try:
        raise error
    except BaseException as raised:
        return raised


def invalid() -> ValidationError:
    class Settings(BaseModel):
        port: int

    try:
        Settings.model_validate({"port": "many"})
    except ValidationError as error:
        return error
    raise AssertionError


def test_our_own_errors_stay_as_they_are() -> None:
    error = BadConfig("`depth` is 0.", hint="Take 1.")
    assert to_nanochat_error(error) is error


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (OSError(errno.ENOSPC, "", "/disk/file"), NoSpace, "No space left for the stage `pack` (`/disk/file`)."),
        (OSError(errno.EDQUOT, "", "/disk/file"), NoSpace, "The disk quota leaves no space"),
        (OSError(errno.EROFS, "", "/disk"), SystemRefused, "`/disk` is on a read-only file system"),
        (OSError(errno.EACCES, "", "/disk"), SystemRefused, "The stage `pack`: permission denied for `/disk`."),
        (OSError(errno.EPERM, "", "/a", None, "/b"), SystemRefused, "`/b`"),
        (OSError(errno.EMFILE, "", "/disk"), SystemFailed, "ulimit -n"),
        (OSError(errno.ENFILE, "", "/disk"), SystemFailed, "too many files open"),
        (OSError(errno.ENAMETOOLONG, "", "/long"), SystemRefused, "`/long` is too long"),
        (OSError(errno.ELOOP, "", "/loop"), SystemRefused, "`/loop`"),
        (OSError(errno.EIO, "", b"/disk"), SystemFailed, "the disk failed at `/disk`"),
        (OSError(errno.ESTALE, "", "/nfs"), SystemFailed, "`/nfs`"),
        (OSError(errno.EISDIR, "", "/d"), SystemRefused, "`/d` is a folder"),
        (OSError(errno.ENOTDIR, "", "/f/x"), SystemRefused, "`/f/x` is a file"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), SourceUnreachable, "connection failed"),
        (TimeoutError("slow"), SourceUnreachable, "slow"),
        (MemoryError(), NotEnoughMemory, "The stage `pack` ran out of memory."),
        (RuntimeError("[enforce] can't allocate memory: 12 bytes"), NotEnoughMemory, "can't allocate memory"),
        (RuntimeError("can't start new thread"), SystemFailed, "threads"),
        (ModuleNotFoundError("x", name="wandb.sdk"), BadConfig, "pip install wandb`"),
        (ModuleNotFoundError("x", name="prefect_dask"), BadConfig, "pip install 'nanochat[dask]'`"),
        (UnicodeEncodeError("ascii", "→", 0, 1, "no"), BadConfig, "PYTHONUTF8=1"),
        (invalid(), BadConfig, "`port` of Settings: input should be a valid integer"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_errors_of_the_system_have_a_sentence_and_no_report(
    error: Exception, kind: type[NanochatError], expected: str, home: Path
) -> None:
    found = to_nanochat_error(error, "the stage `pack`")
    assert type(found) is kind
    assert expected in str(found)
    assert found.hint
    assert not reports(home / "crashes")


@pytest.mark.parametrize(
    "error",
    [ValueError("three\nis four"), RecursionError("deep"), KeyError("x"), AssertionError(), ZeroDivisionError("0/0"),
     OSError("of its own making"), ModuleNotFoundError("x", name="nanochat.gone"), ExceptionGroup("two", [KeyError()])],
    ids=repr,
)  # fmt: skip
def test_the_rest_is_one_line_that_names_its_report(error: Exception, home: Path) -> None:
    found = to_nanochat_error(failing(error), "the stage `pack`")
    assert isinstance(found, Unexpected)
    assert found.message.startswith(f"The stage `pack` failed ({type(error).__name__}")
    assert "\n" not in str(found)
    (report,) = reports(home / "crashes")
    assert "Traceback" in report
    assert str(home / "crashes") in found.hint
    assert "please report" in found.hint
    assert type(from_json(found.to_json())) is Unexpected  # so it passes from a worker to its parent


def test_an_error_that_fails_at_its_own_text_is_a_sentence_too() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "Silent" in to_nanochat_error(failing(Silent())).message


def test_a_report_holds_no_credential(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:hunter22")
    monkeypatch.setenv("NANOCHAT_WEBHOOK", "https://hooks.example.com/T00/XXXX")
    monkeypatch.setattr(sys, "argv", ["nanochat", "run", "--store", "s3://key:pass@bucket/x"])
    words = (
        "s3://user:word@host/b https://b.example.com/x?X-Amz-Signature=abcdef&X-Amz-Credential=AKIA123&n=1 "
        "admin:hunter22 wJalrXUtnFEMI https://hooks.example.com/T00/XXXX Authorization: Bearer eyJhbGci "
        "{'password': 'swordfish', 'api_key': \"k3y\"}"
    )
    output = str(to_nanochat_error(failing(ValueError(words))))
    for text in (output, *reports(home / "crashes")):
        for secret in ("user:word", "key:pass", "abcdef", "AKIA123", "hunter22", "wJalrXUtnFEMI", "XXXX", "eyJhbGci",
                       "swordfish", "k3y"):  # fmt: skip
            assert secret not in text
    (report,) = reports(home / "crashes")
    assert "n=1" in report


def test_only_the_newest_reports_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_REPORTS", 3)
    (home / "crashes").mkdir(parents=True)
    for number in range(5):
        (home / "crashes" / f"nanochat-20200101T00000{number}-x.txt").write_text("old")
    last = to_nanochat_error(failing(KeyError("x"))).hint
    kept = sorted((home / "crashes").iterdir())
    assert len(kept) == 3
    assert str(kept[-1]) in last


def test_a_report_is_for_its_owner_only(home: Path) -> None:
    before = os.umask(0)
    try:
        to_nanochat_error(failing(KeyError("x")))
    finally:
        os.umask(before)
    (path,) = (home / "crashes").iterdir()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("problem", ["a file", "a loop", "nowhere"])
def test_without_a_home_the_report_is_in_the_temporary_folder(
    problem: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if problem == "a file":
        home.write_text("")
    elif problem == "a loop":
        home.symlink_to(home)
    else:
        monkeypatch.setenv("NANOCHAT_HOME", "~no-such-user/x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert f"`{tmp_path}/nanochat-" in to_nanochat_error(failing(KeyError("x"))).hint


def test_no_place_to_write_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(home / "x"))
    assert "was not kept" in to_nanochat_error(failing(KeyError("x"))).hint


def test_a_block_raises_sentences_only() -> None:
    with pytest.raises(Unexpected, match="The stage `x` failed") as raised, convert_errors("the stage `x`"):
        raise KeyError("x")
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(KeyboardInterrupt), convert_errors("the stage `x`"):
        raise KeyboardInterrupt


def test_a_command_that_fails_unexpectedly_exits_with_70(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("nanochat.profiles.profile", broken)
    monkeypatch.setattr(sys, "argv", ["nanochat", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    output = capsys.readouterr().err
    assert "error: The command failed (ZeroDivisionError: division by zero)." in output
    assert "Traceback (" not in output
    assert len(reports(home / "crashes")) == 1
