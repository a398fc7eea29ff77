PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The demo: one task, two agents, three seeds each, a short budget.
DEMO := runs/demo
DEMO_TASK := hopper-gravity-0.5-medium
DEMO_AGENTS := droco iql
DEMO_UPDATES ?= 15000
DEMO_BOARD := --leaderboard $(DEMO)/leaderboard
OFFDYN := $(BIN)/offdyn

.PHONY: demo test lint docs tables install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[agents,leaderboard,dev,docs]"
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Pages that are written from the code and kept in the repository.
tables: $(INSTALLED)
	$(BIN)/python -m offdyn_envs.verification.page docs/environments.md
	$(BIN)/python -m offdyn_agents.algorithms.table docs/methods/README.md

# The site, in docs/_build/html; NOTEBOOKS=off leaves the notebooks' outputs out, force runs them again.
NOTEBOOKS ?= cache
docs: tables
	OFFDYN_DOCS_NOTEBOOKS=$(NOTEBOOKS) $(BIN)/python -m sphinx -W --keep-going -b html -j 2 docs docs/_build/html
	@echo "open docs/_build/html/index.html"

demo: $(INSTALLED)
	$(OFFDYN) data build $(DEMO_TASK)
	for agent in $(DEMO_AGENTS); do \
		$(OFFDYN) train $$agent $(DEMO_TASK) --seeds 3 --updates $(DEMO_UPDATES) --eval-every $(DEMO_UPDATES) --out $(DEMO) \
		&& $(OFFDYN) evaluate $(DEMO)/$(DEMO_TASK)/$$agent || exit $$?; \
	done
	mkdir -p $(DEMO)/leaderboard && cp -R leaderboard/. $(DEMO)/leaderboard
	for agent in $(DEMO_AGENTS); do \
		$(OFFDYN) leaderboard add $(DEMO)/$(DEMO_TASK)/$$agent --name demo-$$agent --replace $(DEMO_BOARD) || exit $$?; \
	done
	$(OFFDYN) leaderboard page $(DEMO_BOARD)
	@echo
	@echo "Where to look next:"
	@echo "  $(DEMO)/leaderboard/index.html                 the page, with the two new entries"
	@echo "  $(DEMO)/$(DEMO_TASK)/droco/metrics.csv         losses and scores (tensorboard --logdir $(DEMO))"
	@echo "  $(DEMO)/$(DEMO_TASK)/droco/evaluation.json     raw returns, clean and perturbed"
	@echo "  $(OFFDYN) --help                               the commands; README.md tells the rest"

clean:
	rm -rf $(VENV) runs build dist
