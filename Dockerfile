# The toolchain in a container, with the locked environment. docs/ci.md shows how to run it.
FROM debian:12.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/albert-hub-export
# The lock first: a change of the code does not install it again.
COPY requirements/runtime.txt requirements/
RUN python3 -m venv .venv \
    && .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
        -r requirements/runtime.txt
COPY LICENSE ./
COPY assets assets
COPY converters converters
COPY export export

RUN useradd --create-home --uid 1000 exporter && install --directory --owner=exporter /work
USER exporter
# Sources and releases are mounted here.
WORKDIR /work
ENV PATH=/opt/albert-hub-export/.venv/bin:$PATH PYTHONPATH=/opt/albert-hub-export
# The first argument names the command: export, export.verify, export.golden, converters, ...
ENTRYPOINT ["python", "-m"]
CMD ["export", "--help"]
