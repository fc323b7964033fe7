ARG PYTHON_TAG=3.13-slim

FROM python:${PYTHON_TAG} AS build
ENV PATH=/opt/venv/bin:/opt/build/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements-build.txt requirements.txt deploy/strip_symbols.py ./
# Nothing at run time looks at tests, type stubs, sources of compiled modules and their symbols; the last are most of
# uvloop.
RUN python -m venv /opt/build \
 && python -m venv --without-pip /opt/venv \
 && pip install --require-hashes --only-binary :all: --no-compile -r requirements-build.txt \
 && pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: --no-compile -r requirements.txt \
 && find /opt/venv/lib \( -type d \( -name tests -o -name include \) -o -name "*.py[ix]" -o -name "*.px[di]" \
         -o -name "*.[ach]" \) -prune -exec rm -r {} + \
 && python strip_symbols.py /opt/venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY ai_task_processor ai_task_processor
RUN hatchling build -t wheel -d /tmp/dist \
 && pip --python /opt/venv/bin/python install --no-index --no-deps --no-compile /tmp/dist/*.whl
# What is shipped proves itself first. What that needed is there as bytecode, of the standard library too, which the
# base image has as source only. Hashes instead of times: not every builder keeps the times of files to the second.
RUN env -u PYTHONDONTWRITEBYTECODE ai-task-processor demo \
 && { env -u PYTHONDONTWRITEBYTECODE ai-task-processor healthcheck || test $? = 1; } \
 && find /usr /opt/venv -name "*.pyc" > /tmp/needed \
 && sed -i -E "s,__pycache__/([^/]+)\.cpython-[0-9]+\.pyc$,\1.py," /tmp/needed \
 && python -m compileall -q -f --invalidation-mode checked-hash -i /tmp/needed \
 && mkdir /bytecode \
 && find /usr -name "*.pyc" -exec cp --parents --target-directory=/bytecode {} +

FROM python:${PYTHON_TAG}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ai-task-processor" \
      org.opencontainers.image.description="A durable worker for AI tasks" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /bytecode /
COPY --from=build /opt/venv /opt/venv
# A new named volume takes owner and mode from this directory.
RUN install -d -m 0700 -o 10001 -g 10001 /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data \
    METRICS_HOST=0.0.0.0 \
    METRICS_PORT=8001
# Not /data: a .env left in the working directory would be read as configuration.
WORKDIR /
USER 10001:10001
VOLUME /data
EXPOSE 8001
# 75 s at the start: the daemon waits up to 60 s for a predecessor to let go of the outbox.
HEALTHCHECK --interval=15s --timeout=5s --start-period=75s --retries=3 CMD ["ai-task-processor", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["ai-task-processor"]
CMD ["run"]
