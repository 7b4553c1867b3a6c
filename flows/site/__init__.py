"""Runs Prefect on this machine: server, workers, deployments. No stage or graph is defined here.

Read in this order:

    up.py                `nanochat up` and `nanochat down`
    supervisor.py        the process that `up` leaves running: keeps all others alive
    supervised_process.py  a process that it restarts: a worker
    model_server.py      the server of models, another one
    server.py            starts, shares and stops our own Prefect server
    server_check.py      whether a server answers, its version, credentials; without importing Prefect
    prefect_settings.py  loads Prefect's settings; names a wrong variable or file
    client.py            requests to a server
    deploy.py            creates pools, deployments and automations on a server
    automations.py       the webhook for failed runs
    stale_runs.py        finds runs whose process is gone; `stale_run_rules.py` has the rules
    ports.py             free ports
    state_files.py       locked files that name a running process
"""
