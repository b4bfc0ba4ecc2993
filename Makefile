# Nothing but Python >= 3.8 is needed for `make demo`, and pip for `make test`; each other target
# installs what it needs into .venv, once. Choose the Python with `make PYTHON=python3.8 ...`.
PYTHON = python3
VENV = .venv
BENCH_VENV = .venvs/bench
PYODIDE = .venvs/pyodide
DOCS_VENV = .venvs/docs
BIN = $(VENV)/bin
# The stamps name the Python, so that another one gets a new environment.
STAMP := $(VENV)/$(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
BENCH_STAMP := $(BENCH_VENV)/$(notdir $(STAMP))
DOCS_STAMP := $(DOCS_VENV)/$(notdir $(STAMP))
PYTEST = $(BIN)/python -bb -m pytest

.PHONY: demo test test-programs interrupts coverage lint docs interop bench guard fuzz soak compat platforms pyodide dist clean

demo:
	$(PYTHON) -m wsmini --demo

test: $(STAMP)-test
	$(PYTEST)

# Every point at which a signal handler may interrupt a blocking connection; a sample is among the
# programs.
interrupts: $(STAMP)-test
	WSMINI_POINTS_STEP=1 WSMINI_TEST_TIMEOUT=900 $(PYTEST) tests/programs/test_points.py

# On a busy machine: `make test-programs WSMINI_TEST_PATIENCE=5`, which multiplies each limit of time.
test-programs: $(STAMP)-test
	$(PYTEST) tests/programs

coverage: $(STAMP)-test
	$(BIN)/python tests/check_coverage.py

lint: $(STAMP)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A site of all pages and of what the docstrings say, for browsers: build/docs/index.html. Links that
# lead nowhere, public names that it doesn't have, and other warnings are errors.
docs: $(DOCS_STAMP)
	rm -rf build/docs
	$(DOCS_VENV)/bin/python -m sphinx -qEW --keep-going -c docs/reference -d build/doctrees . build/docs

interop: $(STAMP)-interop
	$(PYTEST) tests/interop

# What a message costs in instructions and system calls, against benchmarks/guard.json.
guard:
	$(PYTHON) benchmarks/guard.py $(GUARD)

# Against other clients: `make bench BENCH="--rounds 5 --clients wsmini picows"`; --help tells more.
bench: $(BENCH_STAMP)
	$(BENCH_VENV)/bin/python benchmarks/bench.py $(BENCH)

fuzz: $(STAMP)-fuzz
	WSMINI_TEST_TIMEOUT=600 $(BIN)/python -m pytest tests/fuzz
	$(BIN)/python tests/fuzz/coverage_guided.py all 10

soak: $(STAMP)-test
	WSMINI_TEST_TIMEOUT=120 $(PYTEST) -s tests/soak

compat:
	$(PYTHON) tests/check_pythons.py $(VERSIONS)

# Other Debians, C libraries and processors, in folders; takes Linux and root: docs/platforms.md.
platforms:
	$(PYTHON) tests/check_platforms.py $(PLATFORMS)

# What does no I/O, on the newest CPython there is for WebAssembly; takes node and npm.
pyodide: $(PYODIDE)/installed
	WSMINI_TEST_PATIENCE=10 timeout 600 node tests/pyodide.mjs $(PYODIDE) -q $(NO_IO)

NO_IO = tests/sansio tests/opening/test_cookies.py \
	$(foreach name,exceptions policies public,tests/test_$(name).py)

dist: $(STAMP)-dist
	$(BIN)/python tools/dist.py --check

clean:
	rm -rf .venv .venvs build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP)-test:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q 'pytest>=7' 'coverage>=7'
	touch $@

$(STAMP)-lint: $(STAMP)-test
	$(BIN)/python -m pip install -q 'mypy>=1.10' 'ruff>=0.4'
	touch $@

$(STAMP)-interop: $(STAMP)-test tests/interop/requirements.txt tests/interop/install
	$(BIN)/python -m pip install -q -r tests/interop/requirements.txt
	tests/interop/install $(VENV)
	touch $@

$(BENCH_STAMP): benchmarks/requirements.txt benchmarks/server.c
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install -q -r benchmarks/requirements.txt
	$(CC) -O2 -o $(BENCH_VENV)/server benchmarks/server.c -lssl -lcrypto -lz
	touch $@

$(PYODIDE)/installed:
	rm -rf $(PYODIDE)
	npm install --silent --no-audit --no-fund --prefix $(PYODIDE) pyodide
	$(PYTHON) -m pip install -q --target $(PYODIDE)/site-packages 'pytest>=7'
	touch $@

$(DOCS_STAMP): docs/reference/requirements.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install -q --no-compile -r docs/reference/requirements.txt
	touch $@

$(STAMP)-fuzz: $(STAMP)-test
	$(BIN)/python -m pip install -q hypothesis
	-$(BIN)/python -m pip install -q atheris
	touch $@

$(STAMP)-dist: $(STAMP)-test
	$(BIN)/python -m pip install -q build
	touch $@
