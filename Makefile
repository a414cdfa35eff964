# `make test` and `make demo` need nothing but Python 3.11 to 3.13: they set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# gpu where an NVIDIA driver answers, else cpu
HARDWARE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(HARDWARE)
# Where the CPU builds of torch and its kin live when the package index at hand does not have them.
PYTORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
CPU_TORCH := torch==2.13.0+cpu
CPU_TORCHVISION := torchvision==0.28.0+cpu
# Its operators are declared by a file beside it where its own build for CPUs cannot be had: docs/installing.md
SOUND := ireasoner_cli/environment.py stages/models/torchvision_operators.py

# Without compiling what is installed, of which most is never imported: that takes a minute, and Python does it as it needs.
PIP := $(BIN)/pip install -q --no-compile

# Where Python is told to keep no bytecode, as images for containers are fond of, every process compiles torch, transformers
# and vLLM anew: ten seconds that the tests would pay a hundred times. Empty is as if it were not set.
export PYTHONDONTWRITEBYTECODE :=

# Processes that the tests are spread over. On a GPU they run in one: two engines would want the same memory.
WORKERS ?= $(if $(filter gpu,$(HARDWARE)),0,2)

# How long the campaigns run; the tests run small ones from the same code.
KILLS ?= 200
ITERATIONS ?= 500
ROWS ?= 10000
SECONDS ?= 600
# Which seeds the evidence is run with.
SEEDS ?= 1

.PHONY: install test test-extras demo picture bench accept families docs lint types clean \
	evidence evidence-sweep evidence-steps evidence-signals \
	evidence-signal evidence-prose evidence-page campaign-kill campaign-workers campaign-soak campaign-fuzz campaign-fuzz-guided \
	campaign-properties

install: $(STAMP)

$(STAMP): pyproject.toml $(SOUND)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(HARDWARE),cpu)
	$(PIP) $(CPU_TORCH) $(CPU_TORCHVISION) 2>/dev/null || \
	$(PIP) --retries 1 --timeout 20 --index-url $(PYTORCH_CPU_INDEX) \
		$(CPU_TORCH) $(CPU_TORCHVISION) torchaudio torchcodec 2>/dev/null || \
	$(PIP) $(CPU_TORCH)
endif
	$(PIP) -e '.[$(HARDWARE),dev]'
ifeq ($(HARDWARE),cpu)
	$(BIN)/python -m ireasoner_cli.environment
endif
	touch $@

test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests of what an extra is needed for, Ray and bitsandbytes, which `make test` skips where they are not installed.
test-extras: $(STAMP)
	$(PIP) -e '.[ray,4bit]'
	$(BIN)/python -m pytest tests/test_cluster.py tests/test_4bit.py

# Self-play in a small world of bar charts, before and after; interrupted, it goes on where it stopped.
demo: $(STAMP)
	$(BIN)/ireasoner demo demo
	PATH="$(abspath $(BIN)):$$PATH" $(MAKE) --no-print-directory -C demo PYTHON=python

# The README's pictures, from the demo as it was last run. The second needs Chromium.
picture: demo
	$(BIN)/python -m ireasoner_cli.demo.summary demo docs/demo.svg
	cd demo && $(abspath $(BIN))/ireasoner report .
	$(BIN)/python -m tests.browser demo/report.html '#steps' docs/report.png

# The learner against a plain loop and trl, rollout against bare vLLM, score against a plain loop: 20 minutes on two cores.
bench: $(STAMP)
	$(PIP) -e '.[bench]'
	$(BIN)/python -m tests.benchmarks.learner --out build/bench/learner.json
	$(BIN)/python -m tests.benchmarks.stages --out build/bench/stages.json

# What a machine with a GPU does with it: `ireasoner doctor --deep`, then the races of `make bench` in the shape of a 7B, each
# contender in a process of its own. build/accept/accept.md is a page to send. MODEL: a checkpoint for the doctor.
accept: $(STAMP)
	$(BIN)/python -m tests.benchmarks.accept --out build/accept $(if $(MODEL),--model $(MODEL))

# Twenty-two families of models as tiny checkpoints, each through everything, and the table of docs/models.md.
families: $(STAMP)
	$(BIN)/pip install -q num2words
	$(BIN)/python -m tests.families_matrix
	$(BIN)/python -m tests.families_page docs/models.md

# Each row of the ablation with each of SEEDS, in the size for this machine. What is done is not done again, and other
# seeds in the tables of docs/evidence/ stay.
evidence: $(STAMP)
	$(BIN)/python -m tests.evidence.experiment $(HARDWARE) --seeds $(SEEDS)

# Other settings, one thing at a time.
evidence-sweep: $(STAMP)
	$(BIN)/python -m tests.evidence.experiment sweep --seeds $(SEEDS)

# Does step agreement see step truth: rollouts of the checkpoint, and of a policy after 15 iterations.
STEPS := build/evidence/steps
IREASONER := $(abspath $(BIN)/ireasoner)

$(STEPS)/base/questions.parquet: ireasoner_cli/demo/model/model.safetensors | $(STAMP)
	rm -rf $(@D)
	$(BIN)/python -m tests.evidence.step_truth ask $(@D) --model ireasoner_cli/demo/model

$(STEPS)/trained/questions.parquet: $(STEPS)/demo/run/it0015/policy/state.json
	rm -rf $(@D)
	$(BIN)/python -m tests.evidence.step_truth ask $(@D) --model $(STEPS)/demo/model --policy $(<D)

$(STEPS)/demo/run/it0015/policy/state.json: | $(STAMP)
	mkdir -p $(STEPS)
	$(IREASONER) demo $(STEPS)/demo
	cd $(STEPS)/demo && IREASONER_UPDATE_LR=2.5e-4 $(IREASONER) run --images pool/ --iterations 15 --out run

$(STEPS)/%/rollouts.parquet: $(STEPS)/%/questions.parquet
	cd $(@D) && $(IREASONER) rollout questions.parquet --samples 10 --max-tokens $(or $(TOKENS),144) $(patsubst trained,--policy policy,$(filter trained,$*))

evidence-steps: $(STEPS)/base/rollouts.parquet $(STEPS)/trained/rollouts.parquet
	$(BIN)/python -m tests.evidence.step_truth measure $(STEPS)/base $(STEPS)/trained

# What else of a step tells whether it is true, and which vote is right how often: in the world's own words and, by the
# second checkpoint, in prose.
SECOND := build/evidence/model

$(SECOND)/model.safetensors: | $(STAMP)
	$(BIN)/python -m tests.evidence.checkpoint $(SECOND)

$(STEPS)/prose/questions.parquet: $(SECOND)/model.safetensors
	rm -rf $(@D)
	$(BIN)/python -m tests.evidence.step_truth ask $(@D) --model $(SECOND)

$(STEPS)/prose/%.parquet: TOKENS := 256

$(STEPS)/%/greedy.parquet: $(STEPS)/%/questions.parquet
	cd $(@D) && $(IREASONER) rollout questions.parquet --samples 1 --temperature 0 --limit 200 --max-tokens $(or $(TOKENS),144) --out $(@F)

$(STEPS)/%/many.parquet: $(STEPS)/%/questions.parquet
	cd $(@D) && $(IREASONER) rollout questions.parquet --samples 40 --limit 200 --max-tokens $(or $(TOKENS),144) --out $(@F)

SIGNALS := $(STEPS)/base $(STEPS)/prose
evidence-signals: $(foreach of,rollouts many greedy,$(SIGNALS:%=%/$(of).parquet))
	$(BIN)/python -m tests.evidence.step_signals $(SIGNALS) --groups 200
	$(BIN)/python -m tests.evidence.likeness $(STEPS)/prose --groups 200
	$(BIN)/python -m tests.evidence.votes $(SIGNALS)

# Contenders at several learning rates: 20 iterations, or 60 with LENGTH=-60; by the demonstration's checkpoint or, in
# evidence-prose, by the second. ROWS: only these. One run at a time, so that it can run for days beside other work.
evidence-signal: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.evidence.experiment signal$(LENGTH) --at-once 1 --seeds $(SEEDS) $(if $(ROWS),--rows $(ROWS))

evidence-prose: $(SECOND)/model.safetensors
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.evidence.experiment prose$(LENGTH) --at-once 1 --seeds $(SEEDS) $(if $(ROWS),--rows $(ROWS))

# The tables and figures of the pages that have marks for them.
evidence-page: $(STAMP)
	$(PIP) -e '.[evidence]'
	$(BIN)/python -m tests.evidence.page docs/evidence README.md docs/*.md

# SIGKILL at random moments of each of the five stages, KILLS times, and the same command again.
campaign-kill: $(STAMP)
	$(BIN)/python -m tests.campaigns.kill --kills $(KILLS)

# SIGKILL at random moments of a run, its workers, who samples or learns, and engines, KILLS times in all, and the same
# command again.
campaign-workers: $(STAMP)
	$(BIN)/python -m tests.campaigns.workers --kills $(KILLS)

# ITERATIONS iterations in one process: memory, open files and speed.
campaign-soak: $(STAMP)
	$(BIN)/python -m tests.campaigns.soak --iterations $(ITERATIONS)

# ROWS hostile completions through parsing, scoring and the terminal's filter.
campaign-fuzz: $(STAMP)
	$(BIN)/python -m tests.campaigns.fuzz --rows $(ROWS)

# The same checks on what a fuzzer guided by coverage finds in SECONDS.
campaign-fuzz-guided: $(STAMP)
	$(PIP) atheris
	$(BIN)/python -m tests.campaigns.fuzz --coverage --seconds $(SECONDS)

# The property tests on thousands of examples each, other ones every time.
campaign-properties: $(STAMP)
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=campaign

# The pages of docs/ that follow from the code: the Parquet reference, a page a command.
docs: $(STAMP)
	$(BIN)/python -m ireasoner_cli.reference docs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
