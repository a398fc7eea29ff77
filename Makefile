PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_UPDATES ?= 6000

.PHONY: demo test lint install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[agents,leaderboard,dev]"
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

demo: $(INSTALLED)
	@$(BIN)/python scripts/demo.py --updates $(DEMO_UPDATES)

clean:
	rm -rf $(VENV) runs build dist
