# make demo              the whole pipe on the embedded log, about a minute
# make demo BROKER=kafka the same on a real Apache Kafka that this command starts (KAFKA=host:port: a running one)
# make test              everything that CI runs: lint, unit, process and broker, each of them alone by its name
# make unit              tests that start no process and need no broker: under three minutes
# make process           tests that start processes or run whole roles, commands or trainings, on the embedded log
# make broker            tests on a real Apache Kafka that they start: Java 17 and Maven
# make chaos             200 process kills and 10 broker kills over 10 million readings, then the proof (docs/chaos.md): about
#                        half an hour and 3 GB of disk; ARGS="--seed 2 --minutes 5" for another one
# make same OLD=COMMIT   runs that commit and this checkout on one fleet, embedded log and Kafka, and compares every row, alert
#                        and dead letter: a few minutes; ARGS="--broker local" for the embedded log alone
# make thorough          the combinations of injected failures that are left out of it
# make bench             the benchmarks of docs/benchmarks.md
# make soak              an hour at half load; draws docs/pictures/soak.png
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BROKER ?= local
KAFKA ?=
OLD ?= HEAD
ARGS ?=
export OMP_NUM_THREADS ?= 1
# Where it is set, each process compiles every package that it imports again: most of a role's start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint unit process broker thorough chaos same bench soak lock pretrained clean

demo: $(VENV)/installed
	$(BIN)/python -m simulators.demo --broker $(BROKER) $(if $(KAFKA),--kafka $(KAFKA))

test: lint unit process broker

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

unit: $(VENV)/installed
	$(PYTEST) -m "not process and not broker and not thorough"

process: $(VENV)/installed
	$(PYTEST) -m "process and not broker and not thorough"

broker: $(VENV)/installed
	$(PYTEST) -m "broker and not thorough"

thorough: $(VENV)/installed
	$(BIN)/python -m pytest -q -m thorough

chaos: $(VENV)/installed
	$(BIN)/python -m tests.chaos $(ARGS)

same: $(VENV)/installed
	$(BIN)/python -m tests.same --old $(OLD) $(ARGS)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.proof
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.budget
	$(BIN)/python -m benchmarks.score_log

soak: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak --picture docs/pictures/soak.png

pretrained: $(VENV)/installed
	$(BIN)/python -m simulators.pretrain

# One command sets everything up; uv installs the gigabytes of torch in seconds.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	touch $@

lock:
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf $(VENV) demo demo.old build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
