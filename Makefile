# Everything runs from a virtual environment of the checkout's own; each step repeats only when its input changed.
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
STAMPS := $(VENV)/.stamps

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-computing test-realtime unit lint format clean

help:
	@echo "make demo   start the server, call it with a real SIP phone, leave what it heard in demo.wav"
	@echo "make test   lint, types, layers, unit tests, interop tests with SIPp, baresip and pjsua2"
	@echo "make serve  run the server (configuration: CONFIG=path, default configs/chatterline.toml)"
	@echo "make unit   the fast tests only;  make lint   static checks only;  make format   apply the formatter"

# A stamp, not the interpreter: an interrupted set-up is begun anew.
$(STAMPS)/venv:
	@scripts/debian-packages python3-venv -- $(PYTHON) -c "import ensurepip, venv"
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/base: pyproject.toml | $(STAMPS)/venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(STAMPS)/phone: pyproject.toml | $(STAMPS)/venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[phone]"
	@touch $@

# torch first, as a CPU build where there is one: PyPI's own brings gigabytes of CUDA that tests do not use.
$(STAMPS)/test: pyproject.toml requirements/torch-cpu.txt requirements/reference.txt requirements/reference-needs.txt | $(STAMPS)/venv
	@scripts/install-cpu-torch $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[test]" -r requirements/reference-needs.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/reference.txt
	@scripts/debian-packages sip-tester baresip-core systemd chromium -- \
		sh -c "command -v sipp && command -v baresip && command -v systemd-analyze && command -v chromium"
	@touch $@

demo: $(STAMPS)/phone
	$(PY) scripts/demo.py demo.wav

serve: $(STAMPS)/base
	$(VENV)/bin/chatterline serve --config $(or $(CONFIG),configs/chatterline.toml)

lint: $(STAMPS)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMPS)/test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

unit: $(STAMPS)/test
	$(VENV)/bin/pytest -q --ignore tests/interop

# What computes takes what is left by what is about time and mostly waits: both together take little more than one.
test: lint
	@$(MAKE) --no-print-directory -j 2 --output-sync=target test-computing test-realtime

test-computing: $(STAMPS)/test
	scripts/in-the-background $(VENV)/bin/pytest -n 2 --dist worksteal -m "not realtime" --ignore tests/interop

test-realtime: $(STAMPS)/test
	$(VENV)/bin/pytest -m realtime --ignore tests/tts_engine --ignore tests/parity

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo.wav
