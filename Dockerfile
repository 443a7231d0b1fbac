# Three stages: the locked dependencies, the program, and what is shipped: Python, both of them and a user.
# BASE may be any image with glibc, libstdc++, a shell, and Python >= 3.11 as `python3` with venv and
# ensurepip.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS dependencies
# The version that tools/setup uses; tests/e2e/test_packaging.py holds the two together.
ARG UV_VERSION=0.13.8
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
RUN python3 -m venv /build && /build/bin/python -m pip install --quiet --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /src
# Apart from the program: this layer, nine tenths of the image, stays until the locks change.
COPY requirements/runtime.txt requirements/build-constraints.txt requirements/
RUN python3 -m venv --without-pip /opt/etcd-steward \
    && /build/bin/uv pip install --python /opt/etcd-steward/bin/python --compile-bytecode \
        --require-hashes --build-constraints requirements/build-constraints.txt \
        -r requirements/runtime.txt

FROM dependencies AS program
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /build/bin/uv build --wheel --out-dir /wheel \
    && /build/bin/uv pip install --python /opt/etcd-steward/bin/python --prefix /program \
        --compile-bytecode --no-deps /wheel/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="etcd-steward" \
      org.opencontainers.image.description="Backs up an etcd that it does not own, and proves it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# kopf looks its user up in /etc/passwd, so the user must exist by name. Written by hand, since not
# every base has useradd.
RUN echo 'steward:x:65532:65532::/var/spool/etcd-steward:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'steward:x:65532:' >> /etc/group \
    && mkdir -m 0700 /var/spool/etcd-steward && chown 65532:65532 /var/spool/etcd-steward
COPY --from=dependencies /opt/etcd-steward /opt/etcd-steward
COPY --from=program /program /opt/etcd-steward
# The root file system may be read-only: everything that is ever written lies in the one volume.
ENV PATH=/opt/etcd-steward/bin:$PATH \
    HOME=/var/spool/etcd-steward \
    TMPDIR=/var/spool/etcd-steward \
    ETCD_STEWARD_SPOOL_DIR=/var/spool/etcd-steward/runs \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A base that lacks a shared library shows it here, not in the first backup.
RUN /opt/etcd-steward/bin/python -c 'import etcd_steward.runner, etcd_steward.handlers.operator'
VOLUME /var/spool/etcd-steward
WORKDIR /var/spool/etcd-steward
USER 65532:65532
# No tini: the operator handles SIGTERM itself, as process 1 too, and waits for all its children.
ENTRYPOINT ["etcd-steward"]
