"""Loads Prefect's settings, and names the variable or file with a value that Prefect cannot read."""

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from flows.site import prefect_environment
from nanochat.errors import BadConfig

SECRET = re.compile(r"(?i)key|auth|password|secret|token|connection|header|url|webhook")
"""Names of settings whose values are not shown."""


def load_settings() -> None:
    """Imports Prefect, which reads its settings; raises `BadConfig`, naming the wrong variable or file."""
    _check_proxies()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            from prefect.settings import get_current_settings  # noqa: PLC0415 - 1.2 s

            get_current_settings()
    except ValidationError as error:
        raise _bad_setting(error) from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(
            f"`{_profiles()}` is not valid TOML: {error}.", hint="Correct the file, or move it away."
        ) from None
    except (ValueError, TypeError, OSError) as error:
        sources = ", ".join(["the environment", *(f"`{file}`" for file in _files())])
        raise BadConfig(
            f"Prefect cannot read its settings: {one_line(error)}.", hint=f"They are in {sources}."
        ) from None
    if text := printed.getvalue().strip():
        sys.stderr.write(f"{text}\n")


def one_line(value: object) -> str:
    """At most 200 characters of a text, without line breaks."""
    return " ".join(str(value).split())[:200]


def _check_proxies() -> None:
    """A client of httpx parses all proxy variables, also those that it does not use."""
    try:
        httpx.Client(verify=False).close()  # noqa: S501 - sends no request; without certificates to load
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        names = [name for name in prefect_environment.current() if name.lower().endswith("_proxy")]
        raise BadConfig(
            f"A proxy setting cannot be used ({', '.join(f'`{name}`' for name in names)}): {one_line(error)}",
            hint="A SOCKS proxy needs `pip install socksio`; otherwise correct the variable or unset it.",
        ) from None


def _bad_setting(error: ValidationError) -> BadConfig:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    names = [name for name in _variables(error.title, field) if name]
    environment = {name.upper(): value for name, value in prefect_environment.current().items()}
    message = first["msg"][0].lower() + first["msg"][1:]
    variable = next((name for name in names if name in environment), "")
    if variable:
        shown = "" if SECRET.search(variable) else f", got `{environment[variable]}`"
        return BadConfig(
            f"`{variable}` in the environment: {message}{shown}.", hint=f"Correct it, or `unset {variable}`."
        )
    where = next((file for file in _files() if _mentions(file, [*names, field])), None)
    shown = "" if SECRET.search(field) else f", got `{one_line(first.get('input'))}`"
    return BadConfig(
        f"Prefect's setting `{names[0] if names else field}` in `{where or 'its settings'}`: {message}{shown}.",
        hint="Correct the file, or run from another folder.",
    )


def _variables(model: str, field: str) -> list[str]:
    """Environment variables that set a field of one of Prefect's settings models."""
    from prefect.settings import Settings  # noqa: PLC0415 - 1.2 s

    for kind in _nested_models(Settings):
        if kind.__name__ == model and field:
            info = kind.model_fields.get(field)
            choices = getattr(getattr(info, "validation_alias", None), "choices", [])
            prefix = str(kind.model_config.get("env_prefix", ""))
            aliases = [each for each in choices if isinstance(each, str)]
            return [name.upper() for name in (f"{prefix}{field}", *aliases)]
    return []


def _nested_models(kind: Any) -> Iterator[Any]:
    yield kind
    for info in kind.model_fields.values():
        if hasattr(info.annotation, "model_fields"):
            yield from _nested_models(info.annotation)


def _files() -> list[Path]:
    """Files that Prefect reads, in order of precedence."""
    here = Path.cwd()
    files = [here / ".env", here / "prefect.toml", here / "pyproject.toml", _profiles()]
    return [file for file in files if file.is_file()]


def _profiles() -> Path:
    from prefect.settings.sources import _get_profiles_path  # noqa: PLC0415 - 1.2 s

    with contextlib.suppress(Exception):
        return _get_profiles_path()
    return Path("~/.prefect/profiles.toml").expanduser()


def _mentions(file: Path, names: list[str]) -> bool:
    text = file.read_text(errors="replace").lower()
    return any(name and name.lower() in text for name in names)
