"""The command line: exit codes, output, arguments that are refused."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.cli.main import main


def test_after_ctrl_c_a_message_explains_that_finished_work_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.profiles.profile", interrupted)
    monkeypatch.setattr(sys, "argv", ["nanochat", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "Finished stages are kept" in capsys.readouterr().err


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, its output in a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NANOCHAT_HOME": str(folder / "home"), **environment},
    )  # fmt: skip


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `nanochat` is the command."""
    command = f"{shlex.quote(sys.executable)} -m nanochat.cli"
    return subprocess.run(
        ["bash", "-c", line.replace("nanochat", command)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NANOCHAT_HOME": str(folder / "home")},
    )  # fmt: skip


def test_a_table_in_a_pipe_has_a_whole_row_in_each_line(tmp_path: Path) -> None:
    done = run("plan", folder=tmp_path, COLUMNS="40")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("report")]
    assert line.rstrip().endswith("train_tokenizer, which would run")


def test_an_unknown_stage_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    done = run("ls", "--stage", "nope", folder=tmp_path)
    assert done.returncode == 1
    assert "no stage `nope`" in done.stderr
    assert "`train_tokenizer`" in done.stderr
    assert "Did you mean `pretrain`?" in run("ls", "--stage", "pretrian", folder=tmp_path).stderr
    assert "No artifact of the stage pretrain in file://" in run("ls", "--stage", "pretrain", folder=tmp_path).stdout


@pytest.mark.parametrize(
    "line",
    [
        ["chat", "--max-tokens", "-1"], ["chat", "--max-tokens", "0"], ["chat", "--seed", "9" * 20],
        ["chat", "--top-k=-1"],
        ["chat", "--temperature", "nan"], ["chat", "--temperature", "inf"], ["chat", "--temperature", "-0.1"],
        ["gc", "--keep-runs", "-1"], ["gc", "--min-age-hours", "nan"], ["gc", "--trash-hours", "inf"],
        ["runs", "--limit", "-1"], ["runs", "--limit", "9" * 5000],
    ],
    ids=lambda line: " ".join(line)[:40],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused_by_its_name(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(line, monkeypatch, tmp_path) == 2
    assert line[1].partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("line", [["ls", "--store", ""], ["ls", "--store="], ["alias", "a/b", " "], ["chat", "-p", ""]])
def test_an_argument_that_is_empty_is_refused_not_ignored(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(line, monkeypatch, tmp_path) == 1
    assert "is empty" in capsys.readouterr().err


def test_help_works_in_an_invalid_environment(tmp_path: Path) -> None:
    done = run("gc", "--help", folder=tmp_path, NANOCHAT_STOER="x", NANOCHAT_CACHE_GB="abc")
    assert (done.returncode, "--keep-runs" in done.stdout) == (0, True)
    done = run("ls", folder=tmp_path, NANOCHAT_STOER="x")
    assert (done.returncode, "Did you mean `NANOCHAT_STORE`?" in done.stderr) == (1, True)


def test_exclusive_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(["runs", "--pin", "a", "--unpin", "b"], monkeypatch, tmp_path) == 2
    assert exit_code(["alias", "a/b", "--remove", "c/d"], monkeypatch, tmp_path) == 1


@pytest.mark.parametrize("text", ["[/]", "[red]", "[bold", "a[/red]b"])
def test_brackets_in_a_name_are_text(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(["config", "--set", f"report.title={text}"], monkeypatch, tmp_path) == 0
    assert f'"title": "{text}"' in capsys.readouterr().out
    assert exit_code(["config", text], monkeypatch, tmp_path) == 1
    assert f"`{text}`" in capsys.readouterr().err


def exit_code(line: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(os, "environ", {**os.environ, "NANOCHAT_HOME": str(folder / "home")})
    monkeypatch.setattr(sys, "argv", ["nanochat", *line])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    for command in ("config", "plan", "--help", "profiles"):
        done = shell(f"nanochat {command} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 141), command


def test_an_output_that_takes_nothing_is_one_sentence(tmp_path: Path) -> None:
    done = shell("nanochat config > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed: str, tmp_path: Path) -> None:
    done = shell(f"nanochat config {closed}; nanochat config nope {closed}; echo $? >&2", tmp_path)
    assert done.stderr.endswith("1\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
     {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=str,
)  # fmt: skip
def test_a_terminal_that_lacks_a_character_shows_another(locale: dict[str, str], tmp_path: Path) -> None:
    done = run("config", "--set", r'report.title="\u2192 \u0151"', folder=tmp_path, **locale)
    assert '"title": "-> ?"' in done.stdout, done.stderr
    unknown = run("config", "--set", r'report.titel="\u2192"', folder=tmp_path, **locale)
    assert (unknown.returncode, "Did you mean `report.title`?" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("columns", ["0", "1", "abc", "-5", "99999999"])
def test_an_odd_width_loses_no_text(columns: str, tmp_path: Path) -> None:
    for arguments in (["--help"], ["ls", "--help"], ["ls"]):
        done = run(*arguments, folder=tmp_path, COLUMNS=columns)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


@pytest.mark.parametrize("problem", ["a file", "a dead link", "a full disk"])
@pytest.mark.parametrize("line", [["run"], ["run", "--plain"], ["fetch"], ["up"]], ids=" ".join)
def test_a_home_that_cannot_be_used_is_reported_before_anything_starts(
    problem: str, line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    if problem == "a file":
        home.write_text("")
    elif problem == "a dead link":
        home.symlink_to(tmp_path / "nowhere")
    else:
        monkeypatch.setattr("nanochat.cli.app.tempfile.TemporaryFile", _full)
    assert exit_code(line, monkeypatch, tmp_path) == 1
    assert f"home `{home}`" in capsys.readouterr().err


def _full(dir: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(dir))
