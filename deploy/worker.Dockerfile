# Two images:
#
#     docker build -f deploy/worker.Dockerfile --target control -t nanochat-control:0.1.0 .
#         without torch: Prefect server, `deploy`, `stale-runs`, workers that only start jobs
#     docker build -f deploy/worker.Dockerfile -t nanochat:0.1.0 .
#         with torch: workers, the jobs of Docker and Kubernetes work pools, model server
#
# PyPI's torch brings CUDA. For CPUs, `--build-arg TORCH_INDEX=…` names PyTorch's package index of CPU wheels.
# Layers: Rust; packages; Python. A change of Python compiles no Rust and installs nothing.

FROM rust:1.89.0-slim-bookworm AS rust

FROM python:3.11.14-slim-bookworm AS extension
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt maturin
COPY pyproject.toml LICENSE ./
COPY rustbpe rustbpe
# The packages are empty here: the stage `code` adds the modules to the extension, its metadata and the program.
RUN mkdir nanochat flows && touch README.md nanochat/__init__.py flows/__init__.py \
 && maturin build --release --locked --out /wheel \
 && pip install --no-cache-dir --no-deps --target /srv/nanochat /wheel/*.whl

# One copy, in the folder of the deployments: beside `prefect.yaml`, as in a clone.
FROM scratch AS code
COPY --from=extension /srv/nanochat /srv/nanochat
COPY prefect.yaml /srv/nanochat/
COPY flows /srv/nanochat/flows
COPY nanochat /srv/nanochat/nanochat

FROM python:3.11.14-slim-bookworm AS control-packages
# tini: a first process that reaps zombies.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt pyproject.toml /tmp/
RUN python -c "import tomllib; p = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
               groups = ('flows', 'kubernetes'); \
               base = (each for each in p['dependencies'] if not each.startswith('torch')); \
               print(*base, *sum((p['optional-dependencies'][g] for g in groups), []), sep='\n')" > /tmp/needed.txt \
 && pip install --no-cache-dir -c /tmp/constraints.txt -r /tmp/needed.txt
RUN useradd --uid 10001 --create-home nanochat \
 && install -d -o nanochat -g nanochat /var/lib/nanochat
ENV PATH=/srv/nanochat/bin:$PATH \
    PYTHONPATH=/srv/nanochat \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    NANOCHAT_HOME=/var/lib/nanochat \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /srv/nanochat
VOLUME /var/lib/nanochat
ENTRYPOINT ["tini", "-g", "--"]
CMD ["nanochat", "--help"]

FROM control-packages AS packages
# gcc: `torch.compile` on a GPU compiles its launchers at run time.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir -c /tmp/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
RUN python -c "import tomllib; p = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
               groups = ('hub', 'plots', 'serve'); \
               print(*sum((p['optional-dependencies'][g] for g in groups), []), sep='\n')" > /tmp/needed.txt \
 && pip install --no-cache-dir -c /tmp/constraints.txt -r /tmp/needed.txt

FROM control-packages AS control
COPY --from=code /srv/nanochat /srv/nanochat
USER 10001

FROM packages AS full
COPY --from=code /srv/nanochat /srv/nanochat
USER 10001
