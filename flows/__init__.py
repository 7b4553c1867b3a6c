"""The Prefect adapter: flows, their tasks, and the pages in the Prefect UI. `site/` runs Prefect itself.

Read in this order; `docs/what_happens_on_run.md` follows one run through the files:

    pipeline.py           the flow `nanochat`; `model_flows.py`, `model_refresh.py`: flows on existing models
    request.py            validates the form of a run
    execute.py            one flow run: record, graph, final state
    executor.py           a graph as tasks; `runners.py`: threads, processes, Dask, Ray; `task_data.py`: parameters
    tasks.py              one task: reuses or computes artifacts
    remote_stage.py       sends a training stage to another work pool, where `stage.py` runs it
    progress.py           events as log lines and bars in the UI; `control.py`: sinks, and the request to stop
    pages.py              the page of an artifact and of a run; `results_section.py`, `models_page.py`
    run.py, terminal.py   `nanochat run`: the flow in this process, drawn in the terminal
    store_maintenance.py  the flows `verify-store` and `gc`; `forms.py` fills forms at deployment
"""
