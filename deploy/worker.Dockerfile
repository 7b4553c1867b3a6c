# One image for the Prefect server, the workers, the jobs of Docker and Kubernetes work pools, and the model server.
#     docker build -f deploy/worker.Dockerfile -t nanochat:0.1.0 .

FROM rust:1.89.0-slim-bookworm AS rust

FROM python:3.11.14-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt maturin
COPY pyproject.toml README.md LICENSE ./
COPY rustbpe rustbpe
COPY nanochat nanochat
COPY flows flows
# One copy, in the folder of the deployments: beside `prefect.yaml`, as in a clone.
RUN maturin build --release --locked --out /wheel \
 && pip install --no-cache-dir --no-deps --target /srv/nanochat /wheel/*.whl

FROM python:3.11.14-slim-bookworm
# gcc: `torch.compile` on a GPU compiles its launchers at run time. tini: a first process that reaps zombies.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev tini \
 && rm -rf /var/lib/apt/lists/*
# Dependencies first: changed sources do not install torch again.
COPY constraints.txt pyproject.toml /tmp/
RUN python -c "import tomllib; p = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
               groups = ('flows', 'hub', 'plots', 'serve', 'kubernetes'); \
               print(*p['dependencies'], *sum((p['optional-dependencies'][g] for g in groups), []), sep='\n')" > /tmp/needed.txt \
 && pip install --no-cache-dir -c /tmp/constraints.txt -r /tmp/needed.txt
RUN useradd --uid 10001 --create-home nanochat \
 && install -d -o nanochat -g nanochat /var/lib/nanochat
COPY --from=build /srv/nanochat /srv/nanochat
COPY prefect.yaml /srv/nanochat/
ENV PATH=/srv/nanochat/bin:$PATH \
    PYTHONPATH=/srv/nanochat \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    NANOCHAT_HOME=/var/lib/nanochat \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /srv/nanochat
USER 10001
VOLUME /var/lib/nanochat
ENTRYPOINT ["tini", "-g", "--"]
CMD ["nanochat", "--help"]
