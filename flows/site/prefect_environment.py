"""Environment variables of Prefect that nanochat reads, or sets for the server, workers and client."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from nanochat import settings, variables

NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
RETRIED_STATUS = "500"
"""A server answers 500 while its database is unreachable. The client then retries, for half a minute in all."""
SERVICES = ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "FOREMAN")
"""Background services of a server: schedules, late runs, automations, the health of pools."""
DATABASE = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")
QUIET_CLIENT = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL")


def api_url() -> str:
    """`PREFECT_API_URL`: the Prefect server to use; if empty, a run starts one."""
    return os.environ.get("PREFECT_API_URL", "")


def own_api_url(port: int) -> str:
    """The address of our own Prefect server, below `PREFECT_SERVER_API_BASE_PATH` if that is set."""
    return f"http://127.0.0.1:{port}{os.environ.get('PREFECT_SERVER_API_BASE_PATH', '').rstrip('/') or '/api'}"


def ui_prefix() -> str:
    """`NANOCHAT_UI_PREFIX`: prefix of paths in the Prefect UI: `/v2` in its React version, else empty."""
    return settings.read(variables.UI_PREFIX)


def webhook() -> str:
    """`NANOCHAT_WEBHOOK`: an `https://…` address that receives failed and late runs; empty: none."""
    return settings.read(variables.WEBHOOK)


def authorization(*, own: bool) -> str:
    """The `Authorization` header for a Prefect server, from `PREFECT_API_AUTH_STRING` or `PREFECT_API_KEY`; or empty.

    For our `own` server, `PREFECT_SERVER_API_AUTH_STRING` is the fallback.
    """
    login = os.environ.get("PREFECT_API_AUTH_STRING", "")
    if own and not login:
        login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
    if login:
        return f"Basic {base64.b64encode(login.encode()).decode()}"
    key = os.environ.get("PREFECT_API_KEY", "")
    return f"Bearer {key}" if key else ""


def current() -> dict[str, str]:
    """All variables of the environment, to name the one with a bad value."""
    return dict(os.environ)


def for_server(folder: Path, port: int, *, services: bool = False) -> dict[str, str]:
    """The environment of our own Prefect server: its home `folder`, its addresses, no telemetry.

    A server for a single run has nothing to schedule and needs no `services`. The database is SQLite in `folder`, or
    the Postgres that `PREFECT_SERVER_DATABASE_CONNECTION_URL` names.
    """
    url = own_api_url(port)
    return {
        **_database(folder),
        **settings.for_children(),
        **NO_TELEMETRY,
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,  # without it the pages call port 4200, whatever the port is
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": str(services).lower() for name in SERVICES},
        # Writes states in batches: single writes lock SQLite, and a writer that finds it locked waits two seconds.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds; 0 would spin
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "1000",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def _database(folder: Path) -> dict[str, str]:
    """The URL of the SQLite file, for paths that Prefect would misread: its default URL ends at a `?`."""
    if settings.PLAIN_PATH.fullmatch(str(folder)) or any(name.startswith(DATABASE) for name in os.environ):
        return {}
    url = f"sqlite+aiosqlite:///file:{quote(str(folder / 'prefect.db'))}?uri=true"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}


def for_worker() -> dict[str, str]:
    """The environment of a Prefect worker and of its runs; `configure_client` has been called.

    Runs send a heartbeat every 30 s, the minimum of Prefect: `flows.site.stale_runs` finds dead runs by it. A worker
    gets neither the address of the server's database nor a password that only the server needs.
    """
    left_out = (*QUIET_CLIENT, "PREFECT_SERVER_API_AUTH_STRING")
    kept = {
        name: value
        for name, value in settings.for_children().items()
        if name not in left_out and not name.startswith(DATABASE)
    }
    return {"PREFECT_WORKER_QUERY_SECONDS": "2", **kept, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


def for_model_server() -> dict[str, str]:
    """The environment of `nanochat serve` in a site: ours, without Prefect's addresses and passwords."""
    return {name: value for name, value in settings.for_children().items() if not name.startswith("PREFECT_")}


def configure_client(server_url: str, folder: Path) -> None:
    """Sets the variables that Prefect's client reads at its import: the server's address, and no console logging.

    `folder` is the home of our own server. The user's Prefect home is kept when `PREFECT_API_URL` names a server.
    """
    if not api_url():
        os.environ["PREFECT_HOME"] = str(folder)
        login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
        if login:
            os.environ.setdefault("PREFECT_API_AUTH_STRING", login)
    os.environ.update(NO_TELEMETRY)
    os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", RETRIED_STATUS)
    os.environ["PREFECT_API_URL"] = server_url
    os.environ.update(dict.fromkeys(QUIET_CLIENT, "CRITICAL"))
