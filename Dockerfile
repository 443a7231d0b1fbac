# Two stages: the first builds with the locked versions, the second holds Python, what was built and a user.
# BASE may be any image with Python >= 3.11 as `python3`, shadow's useradd and glibc.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
# The version that tools/setup uses; tests/unit/test_packaging.py holds the two together.
ARG UV_VERSION=0.13.8
ENV UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_LINK_MODE=copy
RUN python3 -m venv /build && /build/bin/python -m pip install --quiet --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /src
# Dependencies first: this layer stays until the locks change.
COPY requirements/runtime.txt requirements/build-constraints.txt requirements/
RUN python3 -m venv --without-pip /opt/etcd-steward \
    && /build/bin/uv pip install --python /opt/etcd-steward/bin/python --compile-bytecode \
        --require-hashes --build-constraints requirements/build-constraints.txt \
        -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /build/bin/uv build --wheel --out-dir /wheel \
    && /build/bin/uv pip install --python /opt/etcd-steward/bin/python --compile-bytecode \
        --no-deps /wheel/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="etcd-steward" \
      org.opencontainers.image.description="Backs up an etcd that it does not own, and proves it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# kopf looks its user up in /etc/passwd, so the user must exist by name.
RUN groupadd --gid 65532 steward \
    && useradd --uid 65532 --gid 65532 --home-dir /var/spool/etcd-steward --no-create-home \
        --shell /usr/sbin/nologin steward \
    && install --directory --owner=65532 --group=65532 --mode=0700 /var/spool/etcd-steward
COPY --from=build /opt/etcd-steward /opt/etcd-steward
# The root file system may be read-only: everything that is ever written lies in the one volume.
ENV PATH=/opt/etcd-steward/bin:$PATH \
    HOME=/var/spool/etcd-steward \
    TMPDIR=/var/spool/etcd-steward \
    ETCD_STEWARD_SPOOL_DIR=/var/spool/etcd-steward/runs \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME /var/spool/etcd-steward
WORKDIR /var/spool/etcd-steward
USER 65532:65532
ENTRYPOINT ["etcd-steward"]
