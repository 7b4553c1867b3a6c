"""Which confinement is used, what it takes to accept a weaker one, and the parts that it is made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.errors import BadConfig, SandboxFailed
from nanochat.tools.sandbox import launcher_process, syscall_numbers
from nanochat.tools.sandbox.control_group import ControlGroup, parents
from nanochat.tools.sandbox.limits import MODES, Limits
from nanochat.tools.sandbox.sandbox import Checked, Sandbox
from nanochat.tools.sandbox.seccomp import filter_program
from tests.sandbox.test_lifetime import script

RIGHT = Checked(("def f(x): return x + 1",), "f", "def check(f): assert f(1) == 2")
REFUSED = "(_ for _ in ()).throw(OSError(1, 'unshare: Operation not permitted'))"
NO_NAMESPACES = f"confinement.Namespaces = lambda folders: {REFUSED}"
NO_LANDLOCK = f"confinement.landlock_version = lambda: {REFUSED}"
LONG = Limits(time_s=60)


def test_the_strongest_mode_is_used(full: Sandbox) -> None:
    with Sandbox() as sandbox:
        assert sandbox.mode == "full"


def test_a_weaker_mode_is_used_and_named_where_namespaces_are_not_allowed(
    no_namespaces: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_process, "SCRIPT", script(NO_NAMESPACES))
    with Sandbox(workers=1) as sandbox:
        assert sandbox.mode == "no namespaces"
        assert sandbox.check([RIGHT], LONG)[0].right


@pytest.mark.parametrize(
    ("accepted", "missing", "mode"),
    [
        ("full", NO_NAMESPACES, None),
        ("no namespaces", f"{NO_NAMESPACES}; {NO_LANDLOCK}", None),
        ("", f"{NO_NAMESPACES}; {NO_LANDLOCK}", None),
        ("rlimits only", f"{NO_NAMESPACES}; {NO_LANDLOCK}", "rlimits only"),
    ],
)
def test_a_weaker_mode_than_accepted_is_an_error(
    accepted: str, missing: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_SANDBOX", accepted)
    monkeypatch.setattr(launcher_process, "SCRIPT", script(missing))
    with Sandbox(workers=1) as sandbox:
        if mode:
            assert sandbox.mode == mode
            return
        with pytest.raises(SandboxFailed, match=r"cannot confine.*Operation not permitted.*NANOCHAT_SANDBOX"):
            sandbox.run("pass")


def test_the_accepted_mode_has_to_be_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_SANDBOX", "none")
        with pytest.raises(BadConfig, match="has to be `full`, `no namespaces` or `rlimits only`"):
            Sandbox()


@pytest.mark.parametrize("mode", MODES)
def test_programs_run_and_are_judged_in_every_mode(mode: str, request: pytest.FixtureRequest) -> None:
    sandbox: Sandbox = request.getfixturevalue(mode.replace(" ", "_"))
    assert sandbox.run("import colorsys\nprint(colorsys.rgb_to_hsv(0, 0, 0))", LONG).output == "(0.0, 0.0, 0)\n"
    assert sandbox.run("while True: pass", Limits(time_s=0.3)).ending == "time limit"
    assert sandbox.run("bytearray(4 << 30)", LONG).ending == "memory limit"
    wrong = Checked(("def f(x): return x",), RIGHT.entry_point, RIGHT.tests)
    assert [verdict.name for verdict in sandbox.check([RIGHT, wrong] * 3, LONG)] == ["right", "wrong"] * 3


def test_an_ordinary_user_has_the_full_mode(full: Sandbox) -> None:
    """Where the tests run as root; elsewhere they all show this."""
    if os.getuid() != 0:
        pytest.skip("these tests run as an ordinary user")
    code = "from nanochat.tools.sandbox.sandbox import *\nfrom nanochat.tools.sandbox.limits import *\n"
    code += "with Sandbox(('full',), 1) as s: print(s.run('import os; print(os.getuid())', Limits(time_s=60)).output)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "NANOCHAT_HOME": "/nowhere"}
    options = {"env": environment, "user": 12345, "group": 12345, "extra_groups": [], "cwd": "/"}
    try:
        found = subprocess.run([*command[:2], "import nanochat.tools.sandbox.sandbox"], capture_output=True, **options)
    except PermissionError:
        pytest.skip("this Python is readable for root only")
    if found.returncode:
        pytest.skip("this Python is readable for root only")
    assert subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout == "1000\n\n"


ONE_USER = """
import os
from pathlib import Path
from nanochat.tools.sandbox.sandbox import Sandbox
from nanochat.tools.sandbox.system_calls import libc
from tests.sandbox.attacks import ATTACKS

user, group = os.getuid(), os.getgid()
try:
    libc("unshare", 0x10000000)
except OSError as error:
    raise SystemExit(f"no namespaces here: {error}")
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/self/gid_map").write_text(f"0 {group} 1")
with Sandbox(("full",), 1) as sandbox:
    assert sandbox.mode == "full"
    for each in ATTACKS:
        if "thread" in each.name:  # outside of this container, root has no limit
            continue
        outcome = sandbox.run(each.program, each.limits)
        if outcome.ending != each.ending or each.output not in (None, outcome.output):
            print(each.name, outcome)
"""


def test_the_root_of_a_container_with_one_user_is_confined_too(full: Sandbox) -> None:
    """Programs then have the user of their launcher: they own what it owns."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", ONE_USER], capture_output=True, text=True, env=environment)
    if "no namespaces here" in found.stderr:
        pytest.skip(found.stderr)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was computed for this machine is computed again, for another one."""
    for function in (syscall_numbers.numbers, filter_program):
        function.cache_clear()
    yield
    for function in (syscall_numbers.numbers, filter_program):
        function.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_system_calls_are_those_of_the_kernel(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here: `apt install linux-libc-dev` brings them")
    monkeypatch.setattr(syscall_numbers.platform, "machine", lambda: machine)
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    found = syscall_numbers.numbers()
    assert {name: known.get(name) for name in found} == found
    old = {
        "open",
        "stat",
        "lstat",
        "access",
        "readlink",
        "dup2",
        "pipe",
        "poll",
        "select",
        "epoll_create",
        "epoll_wait",
    }
    old |= {"pause", "alarm", "time", "getpgrp", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "chmod"}
    missing = set() if machine == "x86_64" else old
    assert {line.split()[0] for line in syscall_numbers._TABLE.split("\n") if line} - set(found) == missing
    assert len(filter_program(1, files=True)) % 8 == 0


@pytest.mark.usefixtures("forgotten")
def test_there_is_no_filter_for_an_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscall_numbers.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no table of system calls for Linux on riscv64"):
        filter_program(1, files=True)


def group_folder(root: Path, path: str, controllers: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cgroup.subtree_control").write_text(controllers)


def test_a_control_group_is_made_below_the_nearest_group_that_may_have_one(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    for path, controllers in (
        ("", "cpu memory"),
        ("user", "memory pids"),
        ("user/session", "cpu"),
        ("user/session/x", ""),
    ):
        group_folder(root, path, controllers)
    mounts, own = tmp_path / "mountinfo", tmp_path / "own"
    mounts.write_text(
        f"30 23 0:26 / /sys rw - sysfs sysfs rw\n31 30 0:27 / {root} rw,nosuid shared:9 - cgroup2 none rw\n"
    )
    own.write_text("12:pids:/other\n0::/user/session/x\n")
    assert list(parents(mounts, own)) == [root / "user", root]
    own.write_text("0::/../outside\n")
    assert list(parents(mounts, own)) == [root]
    own.write_text("4:memory:/only/version/1\n")
    assert list(parents(mounts, own)) == []
    with pytest.raises(OSError, match="no cgroup v2"):
        ControlGroup("name", mounts, own)
