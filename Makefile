PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The demo: shipped policies on one task, a short training on another; minutes. The full one trains two agents: an hour.
DEMO := runs/demo
DEMO_TASK := walker2d-gravity-5.0-medium
DEMO_TRAINED := ant-gravity-5.0-medium
DEMO_SHIPPED := iql mobody
DEMO_BUDGET := --seeds 3 --updates 500 --eval-every 50
DEMO_EPISODES := --episodes 20 --cell-episodes 4
DEMO_BOARD := --leaderboard $(DEMO)/leaderboard
FULL := runs/demo-full
FULL_TASK := hopper-gravity-0.5-medium
FULL_AGENTS := droco iql
FULL_UPDATES ?= 15000
FULL_BOARD := --leaderboard $(FULL)/leaderboard
OFFDYN := $(BIN)/offdyn

.PHONY: demo demo-page demo-full test test-slow lint lint-style lint-types lint-benchmarks docs tables install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[agents,leaderboard,dev,docs]"
	@touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m slow

lint: lint-style lint-types lint-benchmarks

lint-style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(INSTALLED)
	$(BIN)/pyright

lint-benchmarks: $(INSTALLED)
	$(BIN)/pyright -p benchmarks

# Pages that are written from the code and kept in the repository.
tables: $(INSTALLED)
	$(OFFDYN) dev environments-page docs/environments.md
	$(OFFDYN) dev agents-table docs/methods/README.md
	$(OFFDYN) dev tracks-table docs/concepts/tasks-and-tracks.md
	$(OFFDYN) dev behaviour status --table docs/concepts/tasks-and-tracks.md

# The site, in docs/_build/html; NOTEBOOKS=off leaves the notebooks' outputs out, force runs them again.
NOTEBOOKS ?= cache
docs: tables
	@rm -rf docs/reference/api  # Written anew; pages of modules that are gone would stay.
	OFFDYN_DOCS_NOTEBOOKS=$(NOTEBOOKS) $(BIN)/python -m sphinx -W --keep-going -b html -j 2 docs docs/_build/html
	@echo "open docs/_build/html/index.html"

demo: $(INSTALLED)
	@rm -rf $(DEMO)/leaderboard $(DEMO)/$(DEMO_TASK)
	@mkdir -p $(DEMO)/leaderboard && cp -R demo/$(DEMO_TASK) $(DEMO) && cp -R leaderboard/. $(DEMO)/leaderboard
	@echo "1/5 Source and target side by side: the same policy, under five times gravity"
	$(OFFDYN) render $(DEMO_TASK) --out $(DEMO)/walker.png
	@echo; echo "2/5 Trained policies on that task, plain and perturbed: IQL has learned the source's gait, MOBODY the target's"
	$(OFFDYN) evaluate $(DEMO_SHIPPED:%=$(DEMO)/$(DEMO_TASK)/%) $(DEMO_EPISODES)
	$(OFFDYN) compare $(DEMO_SHIPPED:%=$(DEMO)/$(DEMO_TASK)/%) --episodes 20
	@echo; echo "3/5 Data for another task: a million source rows are collected (a few minutes, once); the target's rows are included"
	$(OFFDYN) data build $(DEMO_TRAINED)
	@echo; echo "4/5 A short training: its score rises above the behaviour policy that collected the target's data"
	$(OFFDYN) train iql $(DEMO_TRAINED) $(DEMO_BUDGET) --out $(DEMO)
	@echo; echo "5/5 The leaderboard: the new run is evaluated, submitted, verified in a sandbox and shown next to the others"
	$(OFFDYN) evaluate $(DEMO)/$(DEMO_TRAINED)/iql $(DEMO_EPISODES)
	$(OFFDYN) leaderboard add $(DEMO)/$(DEMO_TRAINED)/iql --name demo-iql --replace $(DEMO_BOARD)
	$(OFFDYN) leaderboard verify $(DEMO)/leaderboard/submissions/demo-iql --episodes 10 --no-perturbed $(DEMO_BOARD)
	@$(MAKE) --no-print-directory demo-page

# What the demo ends with; docs/pictures/demo.png shows it: python -m benchmarks.demo_picture
demo-page:
	$(OFFDYN) leaderboard page $(DEMO_BOARD)
	@echo
	@echo "Where to look next:"
	@echo "  $(DEMO)/walker.png                   source and target side by side"
	@echo "  $(DEMO)/$(DEMO_TRAINED)/iql/curves.png"
	@echo "                                         the score beside random, behaviour and expert"
	@echo "  $(DEMO)/leaderboard/index.html       the page: open it in a browser (Linux: xdg-open)"
	@echo "  $(OFFDYN) --help                all commands"

demo-full: $(INSTALLED)
	$(OFFDYN) data build $(FULL_TASK)
	for agent in $(FULL_AGENTS); do \
		$(OFFDYN) train $$agent $(FULL_TASK) --seeds 3 --updates $(FULL_UPDATES) --eval-every $(FULL_UPDATES) --out $(FULL) \
		&& $(OFFDYN) evaluate $(FULL)/$(FULL_TASK)/$$agent || exit $$?; \
	done
	mkdir -p $(FULL)/leaderboard && cp -R leaderboard/. $(FULL)/leaderboard
	for agent in $(FULL_AGENTS); do \
		$(OFFDYN) leaderboard add $(FULL)/$(FULL_TASK)/$$agent --name demo-$$agent --replace $(FULL_BOARD) || exit $$?; \
	done
	$(OFFDYN) leaderboard page $(FULL_BOARD)
	@echo
	@echo "Where to look next:"
	@echo "  $(FULL)/leaderboard/index.html                 the page, with the two new entries"
	@echo "  $(FULL)/$(FULL_TASK)/droco/metrics.csv         losses and scores (tensorboard --logdir $(FULL))"
	@echo "  $(FULL)/$(FULL_TASK)/droco/evaluation.json     raw returns, clean and perturbed"

clean:
	rm -rf $(VENV) runs build dist
