"""The environment that people have: every variable checked with one sentence, every path and user usable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flows.site import prefect_environment
from nanochat import settings, variables
from nanochat.errors import BadConfig

ODD_NAMES = [
    "My Projects",
    "it's",
    'a"b',
    "a$HOME",
    "a\\b",
    "50%41",
    "a#b",
    "a?b",
    "é→🙂",
    "-x",
    "[x]*",
    "a;b",
    "a&b",
    "(a)",
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("NANOCHAT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("NANOCHAT_CACHE_GB", text) for text in ("abc", "nan", "inf", "-1", "1e400", "0x10", "1,5", "9" * 5000)),
        ("NANOCHAT_ROWS_GB", "-0.5"),
        ("NANOCHAT_TRASH_HOURS", "day"),
        ("NANOCHAT_SUPERVISOR_PID", "-1"),
        ("NANOCHAT_HOME", "s3://bucket/home"),
        ("NANOCHAT_HOME", "~no-such-user/x"),
        ("NANOCHAT_HOME", "/tmp/\udc80"),
        ("NANOCHAT_STORE", "/tmp/\udcff"),
        *(("NANOCHAT_WEBHOOK", text) for text in ("example.com", "ftp://x", "http://[::1", "https://", "https://a b")),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence_that_names_the_variable(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(BadConfig, match=f"^`{name}` ") as raised:
        settings.check()
    assert raised.value.hint
    assert len(str(raised.value)) < 500
    str(raised.value).encode()


@pytest.mark.parametrize(("name", "read"), [("RANK", settings.rank), ("WORLD_SIZE", settings.world_size)])
@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "9" * 20])
def test_a_bad_rank_is_named_where_it_is_read(
    name: str, read: object, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(BadConfig, match=f"`{name}` is"):
        read()


def test_the_address_of_a_webhook_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_WEBHOOK", "hooks.example.com/T00/secret")
    with pytest.raises(BadConfig) as raised:
        settings.check()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("around", ["{}\n", " {} ", "\t{}\r\n"])
def test_space_around_a_value_does_no_harm(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_CACHE_GB", around.format("2.5"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", around.format("http://127.0.0.1:1"))
    assert settings.cache_bytes() == 2_500_000_000
    assert settings.s3_endpoint() == "http://127.0.0.1:1"


@pytest.mark.parametrize("name", [variable.name for variable in variables.VARIABLES])
@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_variable_set_to_nothing_counts_as_not_set(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, text)
    assert settings.check() == []
    if name == "NANOCHAT_HOME":
        assert settings.home() == tmp_path / ".nanochat"


@pytest.mark.parametrize("problem", ["a file", "a dead link", "a loop"])
def test_every_command_reports_a_home_that_is_no_folder(problem: str, home: Path, tmp_path: Path) -> None:
    if problem == "a file":
        home.write_text("")
    else:
        home.symlink_to(tmp_path / "nowhere" if problem == "a dead link" else home)
    with pytest.raises(BadConfig, match=f"The home `{home}` is "):
        settings.check()


@pytest.mark.parametrize("name", ["NANOCHAT_STOER", "NANOCHAT_HOMES", "NANOCHAT_CACHE_GO", "nanochat_store"])
def test_a_misspelt_variable_is_refused_with_the_nearest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(BadConfig, match=f"no variable `{name}`. Did you mean `NANOCHAT_"):
        settings.check()


def test_an_unknown_variable_is_mentioned_and_those_of_kubernetes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("NANOCHAT_PORT_4200_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("NANOCHAT_COLOUR", "red")
    (line,) = settings.check()
    assert "NANOCHAT_COLOUR" in line


def test_every_variable_of_ours_is_in_the_table() -> None:
    source = Path(settings.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r"NANOCHAT_[A-Z_]+[A-Z]", source))
    assert named <= {variable.name for variable in variables.VARIABLES}


@pytest.mark.parametrize("name", [*ODD_NAMES, "new\nline"])
def test_compiled_code_has_a_path_that_a_compiler_takes(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # a compilation in this process has set it
    assert settings.compiled_code() == home / "inductor"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / name))
    folder = settings.compiled_code()
    if name == "-x":
        assert folder == tmp_path / name / "inductor"
        return
    assert settings.PLAIN_PATH.fullmatch(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert settings.compiled_code() == folder  # the next start finds it
    assert settings.child_environment(1)["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "other home"))
    assert settings.compiled_code() != folder


def test_code_is_not_compiled_into_what_another_user_prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(settings, "TEMPORARY", (str(tmp_path / "another"),))
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "a home"))
    prepared = settings.compiled_code()
    prepared.chmod(0o777)
    assert settings.compiled_code() != prepared
    prepared.rmdir()
    prepared.symlink_to(tmp_path)
    assert settings.compiled_code() != prepared


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_default_store_of_any_home_is_in_that_home(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nanochat.store.objects import Objects

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / name))
    objects = Objects(settings.store_url())
    objects.write("v1/x", b"1")
    assert (tmp_path / name / "store" / "v1" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_database_of_prefect_lies_in_any_home(name: str, tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text

    folder = tmp_path / name
    folder.mkdir()
    ours = prefect_environment.for_server(folder, 4200).get("PREFECT_SERVER_DATABASE_CONNECTION_URL")
    url = ours or f"sqlite+aiosqlite:///{folder}/prefect.db"  # as Prefect makes it
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.begin() as connection:
        connection.execute(text("create table a (b int)"))
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["prefect.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_database_that_the_user_names_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://host/prefect")
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in prefect_environment.for_server(tmp_path / "a b", 4200)


def run_python(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(settings.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": root, "PATH": os.environ["PATH"], **environment},
    )  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_an_entry_and_a_home_has_both_in_every_child(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    done = run_python(
        "import getpass, os, pwd; from pathlib import Path; from nanochat import settings\n"
        "os.setgid(54321); os.setuid(54321); settings.settle()\n"
        "print(Path.home(), getpass.getuser())",
        cwd=tmp_path,
    )
    assert done.stdout.split() == [str(tmp_path / ".nanochat"), "uid54321"], done.stderr


def test_a_working_directory_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os; os.rmdir({str(gone)!r})\n"
        "import sys; sys.argv = ['nanochat', 'ls']\n"
        "from nanochat.cli.main import main; main()"
    )
    done = run_python(code, cwd=gone)
    assert done.returncode == 1
    assert "working directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/pod/app", {"pod/cpu.max": "300000 100000", "pod/app/cpu.max": "max 100000"}, 3),
        ("0::/../gone", {"cpu.max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1",
            {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            5,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("", {}, 64),
    ],
)
def test_cores_are_counted_up_to_the_limit_of_a_container(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(settings, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(settings, "OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    assert settings.cores() == expected
