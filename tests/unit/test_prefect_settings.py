"""A setting that Prefect cannot read is one sentence, with the variable or the file, and without its secrets."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import settings

pytestmark = pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed")
ROOT = str(Path(settings.__file__).parents[1])
PROBE = """
from flows.site.prefect_settings import load_settings
from nanochat.errors import BadConfig
try:
    load_settings()
    print("fine")
except BadConfig as error:
    print(error)
"""


def message(folder: Path, **variables: str) -> str:
    """The message of `load_settings` where these variables are set."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "PREFECT_HOME": str(folder / "prefect-home"), **variables}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("PREFECT_LOGGING_LEVEL", "LOUD", True),
        ("prefect_server_api_port", "many", True),
        ("PREFECT_API_REQUEST_TIMEOUT", "soon", True),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", "Bearer-s3cret", False),
        ("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "s3cret", True),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, name: str, value: str, shown: bool) -> None:
    line = message(tmp_path, **{name: value})
    assert name.upper() in line or name.lower().removeprefix("prefect_client_") in line
    assert (value in line) is shown
    assert "\n" not in line and "pydantic" not in line


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("prefect.toml", 'logging.level = "LOUD"'),
        ("prefect.toml", "x = = 3"),
        ("prefect.toml", "api = 5"),
        ("pyproject.toml", '[tool.prefect]\nlogging.level = "LOUD"'),
        (".env", "PREFECT_LOGGING_LEVEL=LOUD"),
        ("prefect-home/profiles.toml", 'active = "x"\n[profiles.x]\nPREFECT_LOGGING_LEVEL = "LOUD"'),
        ("prefect-home/profiles.toml", 'active = = "x"'),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    line = message(tmp_path)
    assert Path(file).name in line
    assert "pydantic" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks5://127.0.0.1:9"), ("https_proxy", "ftp://x"), ("HTTP_PROXY", "http://[::1")],
)
def test_a_proxy_that_no_client_can_use_is_named(tmp_path: Path, name: str, value: str) -> None:
    assert f"`{name}`" in message(tmp_path, **{name: value})


def test_good_settings_are_fine(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('logging.level = "DEBUG"')
    assert message(tmp_path, PREFECT_LOGGING_LEVEL="INFO") == "fine"


@pytest.mark.parametrize("command", ["run", "up"])
def test_commands_end_with_the_sentence(tmp_path: Path, command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": ROOT, "NANOCHAT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "LOUD"}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nanochat.cli", command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "`PREFECT_LOGGING_LEVEL` in the environment" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
