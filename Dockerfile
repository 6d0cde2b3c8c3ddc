# One image for all commands: `python -m producer api|ledger|migrate`, `python -m consumer worker`.

# `make pin-images` names it by digest.
ARG PYTHON_IMAGE=python:3.13-slim

FROM $PYTHON_IMAGE AS build
# For a machine whose package index is named in its environment; unset means pip's own default.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY deploy/local/pipenv.txt ./
RUN python -m venv /opt/pipenv && /opt/pipenv/bin/pip install --quiet --require-hashes --requirement pipenv.txt
COPY Pipfile Pipfile.lock ./
# VIRTUAL_ENV makes pipenv install into /opt/venv, not into an environment of its own making.
RUN python -m venv /opt/venv && VIRTUAL_ENV=/opt/venv PIPENV_VERBOSITY=-1 PIPENV_NOSPIN=1 /opt/pipenv/bin/pipenv sync

FROM $PYTHON_IMAGE
# A fixed number, so that a volume's files have the same owner in every build.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin retriever \
 # New volumes take over the owner of these folders: see the service `secrets` in docker-compose.yml.
 && install -d -o retriever -g retriever /secrets \
      /secrets/broker /secrets/console /secrets/management /secrets/webhook /secrets/encryption /secrets/mask /secrets/api-key /secrets/agent-key \
      /secrets/amqp-ledger /secrets/amqp-worker /secrets/amqp-executor /secrets/amqp-publisher \
      /secrets/database /secrets/database-migrate /secrets/database-api /secrets/database-ledger
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY . .
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# No shell in between: Python is process 1 and gets SIGTERM itself.
CMD ["python", "-m", "producer", "api"]
