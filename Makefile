# Everything a person does with this repository. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo run drain up down down-prune-db logs scale-workers scale-agents unit test check e2e faults soak fuzz hostile \
  reliability bench bench-peers audit sbom asyncapi lock lock-peers lock-audit lock-browser lock-pipenv pin-images clean

PYTHON_IN_VENV := .venv/bin/python
# Made by deploy/local/setup when it has finished; older than the lock means: install again.
READY := .venv/.synced
# The same for environments beside it, made by deploy/local/setup-beside: of the other systems that the bench measures, of
# the tools that look at our packages, and of what is installed for production and nothing else.
PEERS_READY := .run/peers/.synced
AUDIT_READY := .run/audit/.synced
PRODUCTION_READY := .run/production/.synced
# More arguments for pytest, demo or the end-to-end tests: make test ARGS="-k retry -n 0" (-n 0: in one process)
ARGS ?=
# How many processes run the tests, each with a broker of its own: as many as a small machine has cores. With
# three, brokers and services there are slow enough for jobs to count as lost, and faults repeat what they may not.
PROCESSES ?= 2
# The stack of docker-compose.yml with all that may run in it: what is to end must be named, also if it is off by default.
ALL_OF_COMPOSE := docker compose --profile commands --profile agents
NEED_DOCKER = docker info >/dev/null 2>&1 || { echo "make $@ needs a Docker engine: \`docker info\` fails. Start one." >&2; exit 1; }
# A variable of the command line is in the environment, so that its text is never read as shell.
NEED_NUM = [[ "$${num:-}" =~ ^[0-9]+$$ ]] || { echo "make $@ needs to know how many: make $@ num=3" >&2; exit 2; }

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the virtual environment .venv from Pipfile.lock
	@echo "setup: .venv is up to date"

$(READY): Pipfile.lock deploy/local/setup
	@deploy/local/setup

demo: $(READY) ## Show the service at work on a flaky local site, in half a minute
	@$(PYTHON_IN_VENV) -m deploy.local.demo $(ARGS)

run: $(READY) ## Serve on this machine until Ctrl-C: API on :8080, dashboard at /dashboard/
	@$(PYTHON_IN_VENV) -m deploy.local.run --with-parent

drain: $(READY) ## Work until the queues are empty, then end, with the settings in .env (ARGS="--kinds fetch")
	@$(if $(wildcard .env),.venv/bin/dotenv run --no-override --) $(PYTHON_IN_VENV) -m consumer worker --drain $(ARGS)

up: ## Start the compose stack in the background: API on :8080, RabbitMQ console on :15672
	@$(NEED_DOCKER)
	@docker compose up --build --detach --wait
	@echo "up: API at http://$$(docker compose port api 8080), Swagger UI at /ui/ there;" \
	  "RabbitMQ console at http://$$(docker compose port rabbitmq 15672); \`make logs\` follows what they log"
	@echo 'up: the API asks for a key; the first: docker compose run --rm secrets cat /secrets/api-key/key'

down: ## Stop the compose stack and remove its containers; jobs, messages and passwords stay
	@$(NEED_DOCKER)
	@$(ALL_OF_COMPOSE) down --remove-orphans
	@echo 'down: the data stay: `make up` goes on with them, `make down-prune-db` removes them'

down-prune-db: ## The same and, without asking, remove the stack's volumes: its jobs, messages and passwords
	@$(NEED_DOCKER)
	@$(ALL_OF_COMPOSE) down --remove-orphans --volumes
	@echo 'down-prune-db: the volumes named above are removed, and with them all data of this stack'

logs: ## Follow what the compose stack logs, from its last 100 lines on (ARGS="api ledger": of these alone)
	@$(NEED_DOCKER)
	@$(ALL_OF_COMPOSE) logs --follow --tail 100 $(ARGS)

scale-workers: ## Run so many workers in the compose stack: make scale-workers num=3
	@$(NEED_NUM)
	@$(NEED_DOCKER)
	@docker compose up --detach --no-recreate --wait --scale worker="$$num" worker

scale-agents: ## Run so many agents, which pull tasks over HTTP, in the compose stack: make scale-agents num=3
	@$(NEED_NUM)
	@$(NEED_DOCKER)
	@docker compose --profile agents up --detach --no-recreate --wait --scale agent="$$num" agent

unit: $(READY) ## Run the unit tests, in half a minute: no broker, no database, no network
	@$(PYTHON_IN_VENV) -m pytest -n 2 --no-loadscope-reorder tests/unit $(ARGS)

test: $(READY) ## Run all tests with a private broker and database (TEST_BROKER=docker: broker in Docker)
	@$(PYTHON_IN_VENV) -m pytest -n $(PROCESSES) --no-loadscope-reorder $(ARGS)

check: $(READY) ## Check style, types and imports
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy --strict producer consumer shared deploy bench tests examples client/src
	@.venv/bin/python client/make_sync.py --check
	@.venv/bin/lint-imports

e2e: $(READY) ## Build the images, start the compose stack, run the end-to-end tests against it, remove it
	@deploy/compose/e2e $(ARGS)

faults: $(READY) ## Hurt the running service in every way there is, and count (FAULT_BROKERS=native: without Docker; SEED=7)
	@$(PYTHON_IN_VENV) -m pytest -n $(PROCESSES) --no-loadscope-reorder tests/faults $(ARGS)

soak: $(READY) ## Mix the faults at random for a while: make soak MINUTES=10 SEED=7 (FAULT_SETTINGS=default: nothing shortened)
	@SOAK_MINUTES=$(or $(MINUTES),10) FAULT_BROKERS=$(or $(FAULT_BROKERS),native) $(PYTHON_IN_VENV) -m pytest -n 0 tests/faults $(ARGS)

reliability: $(READY) ## Write the table of docs/reliability.md anew, from what the last `make faults` saw
	@$(PYTHON_IN_VENV) -m tests.faults.table

bench: $(READY) $(PEERS_READY) ## Measure Retriever beside other systems (ARGS="throughput --quick"; ARGS=--help lists the parts)
	@$(PYTHON_IN_VENV) -m bench $(or $(ARGS),all)

fuzz: $(READY) ## Send 20,000 spoilt messages, 10,000 of a mere publisher, 20,000 spoilt requests to each store (SEED=7, FUZZ_MESSAGES=)
	@SEED=$(or $(SEED),17) FUZZ_MESSAGES=$(or $(FUZZ_MESSAGES),20000) FUZZ_REQUESTS=$(or $(FUZZ_REQUESTS),20000) \
	  FUZZ_PUBLISHED=$(or $(FUZZ_PUBLISHED),10000) \
	  CONTRACT_EXAMPLES=200 PROPERTY_EXAMPLES=200 MODEL_EXAMPLES=250 \
	  $(PYTHON_IN_VENV) -m pytest -n 0 tests/fuzz tests/contract tests/integration/test_store_properties.py tests/integration/test_service_model.py $(ARGS)

hostile: $(READY) ## Attack the service in every way that once succeeded, then soak it in hostile targets; status 1 if it minds
	@$(PYTHON_IN_VENV) -m bench attacks
	@$(PYTHON_IN_VENV) -m bench hostile $(ARGS)

bench-peers: $(PEERS_READY) ## Make the environment of the other systems that the bench measures, .run/peers
	@echo "setup: .run/peers is up to date"

$(PEERS_READY): $(READY) bench/peers/Pipfile.lock deploy/local/setup-beside
	@deploy/local/setup-beside bench/peers .run/peers

audit: $(AUDIT_READY) ## Ask advisory sources about every package that is pinned; error 75 when none answers
	@$(PYTHON_IN_VENV) -m deploy.audit.advisories $(ARGS)

sbom: $(AUDIT_READY) $(PRODUCTION_READY) ## Write what is installed for production to .run/sbom.json (CycloneDX)
	@.run/audit/bin/cyclonedx-py environment --output-format JSON --validate --output-file .run/sbom.json .run/production
	@echo "sbom: .run/sbom.json"

$(AUDIT_READY): $(READY) deploy/audit/Pipfile.lock deploy/local/setup-beside
	@deploy/local/setup-beside deploy/audit .run/audit

# Made anew, so that nothing stays of what an earlier lock named.
$(PRODUCTION_READY): $(READY) Pipfile.lock deploy/local/setup-beside
	@rm -rf .run/production
	@deploy/local/setup-beside . .run/production

asyncapi: $(READY) ## Renew docs/asyncapi.yaml from the models of the messages
	@$(PYTHON_IN_VENV) -m shared.asyncapi > docs/asyncapi.yaml

lock: $(READY) ## Renew Pipfile.lock from Pipfile, tied to no package index
	@PIPENV_VENV_IN_PROJECT=1 PIPENV_IGNORE_VIRTUALENVS=1 .tools/bin/pipenv lock
	@$(PYTHON_IN_VENV) -m deploy.local.strip_lock Pipfile.lock

lock-pipenv: $(READY) ## Renew the hashes of pipenv itself: make lock-pipenv VERSION=2026.10.3
	@deploy/local/lock-pipenv

pin-images: ## Name the images of the compose stack by their digests, in .env, as the registry has them now
	@$(NEED_DOCKER)
	@deploy/compose/pin-images

lock-peers: $(READY) ## Renew bench/peers/Pipfile.lock in the same way
	@deploy/local/setup-beside bench/peers .run/peers lock

lock-browser: $(READY) ## Renew tests/browser/Pipfile.lock in the same way
	@deploy/local/setup-beside tests/browser .run/browser lock

lock-audit: $(READY) ## Renew deploy/audit/Pipfile.lock in the same way
	@deploy/local/setup-beside deploy/audit .run/audit lock

clean: ## Remove what was made here: .venv, .tools, .run (all local data), caches
	@rm -rf .venv .tools .run .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if docker info >/dev/null 2>&1; then \
	  docker volume ls -q --filter label=retriever.data=$(CURDIR)/.run/broker | xargs -r docker volume rm >/dev/null; fi
