# The words of the project: make demo, make test, make check, make bench, make faults, make storm, make soak.
# Everything runs from .venv, which is made when it is missing and left alone when it is up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_STAMP := $(VENV)/.demo
DEV_STAMP := $(VENV)/.dev

.PHONY: setup demo test check bench docs faults simulate storm soak clean

setup: $(DEV_STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(DEMO_STAMP)

demo: $(DEMO_STAMP)
	@began=$$(date +%s); $(BIN)/flujo demo $(ARGS); status=$$?; echo "make demo took $$(( $$(date +%s) - began )) s"; exit $$status

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit tests/lua $(or $(ARGS),-n 2 --dist loadfile --cov)

test: $(DEV_STAMP)
	@sh tests/run.sh $(BIN)

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/run.py $(ARGS)

# make faults F=F7 SEEDS=200 FIRST=0 RESULTS=docs/reliability.jsonl; BROKER=apart: messages in a database of their own; BROKER=rabbitmq: one that answers on localhost:5672
faults: $(DEV_STAMP)
	$(BIN)/python -m tests.faults $(or $(F),all) --seeds $(or $(SEEDS),5) --first $(or $(FIRST),0) $(if $(BROKER),--$(BROKER)) $(if $(RESULTS),--results $(RESULTS))

docs: $(DEV_STAMP)
	$(BIN)/python docs/reference.py site

simulate: $(DEV_STAMP)
	TEST_SCHEDULES=$(or $(SCHEDULES),10000) $(BIN)/pytest tests/simulation

# make storm EXAMPLES=5000 SEEDS=200 FIRST=0: budgets against their model, and by real workers; results are appended with the commit
storm: $(DEV_STAMP)
	TEST_STORM_EXAMPLES=$(or $(EXAMPLES),2000) TEST_STORM_SEEDS=$(or $(SEEDS),50) TEST_STORM_FIRST=$(or $(FIRST),0) TEST_STORM_RESULTS=benchmarks/budget_storms.jsonl \
	TEST_STORM_COMMIT=$$(git rev-parse --short HEAD) \
	$(BIN)/pytest tests/integration/test_budget_model.py tests/integration/test_budget_storm.py tests/integration/test_account_storm.py

# make soak HOURS=24 KILLS=1 RATE=4 SEED=0 REPORT=soak-report: load while KILLS % of the processes are killed a minute; then what grew
soak: $(DEV_STAMP)
	$(BIN)/python -m tests.soak --hours $(or $(HOURS),24) --kills $(or $(KILLS),1) --rate $(or $(RATE),4) --seed $(or $(SEED),0) --report $(or $(REPORT),soak-report)

clean:
	rm -rf site $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache flujo-demo soak-report
