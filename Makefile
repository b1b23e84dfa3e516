# dogdepth: every target sets up what it needs first, in .venv.  `make` alone prints this list.
#   PYTHON=python3.12      which Python makes the virtual environment (default: python3.11, else python3 if it is 3.11 or newer)
#   TORCH=torch==2.9.1     another PyTorch than the one pinned in constraints.txt, or a wheel file
#   TORCH_INDEX=URL        where to take PyTorch from (its CPU builds, say: see README)
#   DOGDEPTH_DATA=FOLDER   the folder that holds nyu/; without it everything runs on rendered rooms
#   JOBS=2                 how many notebooks and tests run at once

JOBS  ?= 2
BIN   := .venv/bin
READY := .venv/.ready
KNOBS := $(strip $(TORCH) $(TORCH_INDEX))

# Notebooks run inside nbs/, tests elsewhere: make a relative DOGDEPTH_DATA absolute once, here.
ifneq ($(strip $(DOGDEPTH_DATA)),)
override DOGDEPTH_DATA := $(shell cd '$(DOGDEPTH_DATA)' 2>/dev/null && pwd || printf '%s' '$(DOGDEPTH_DATA)')
export DOGDEPTH_DATA
endif

# One thread per process (JOBS of them run side by side), and nothing of the caller's that changes what a test sees.
CLEAN := env -u PYTHONPATH -u PYTHONSTARTUP -u PYTHONHASHSEED -u PLOTLY_RENDERER -u IN_TEST MPLBACKEND=agg OMP_NUM_THREADS=1

.PHONY: help setup demo test test-data test-all lab docs site bench clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: $(READY) ## the virtual environment alone

demo: $(READY) ## a photo becomes a depth map and a room you can turn: writes out/index.html
	$(BIN)/dogdepth demo --out out

test: $(READY) ## every notebook, then the tests; what failed, and how to run just that, comes last
	@$(CLEAN) $(BIN)/python tools/check.py --jobs $(JOBS)

test-data: $(READY) ## with DOGDEPTH_DATA: the notebooks, and the tests that real data changes
	@$(CLEAN) $(BIN)/python tools/check.py --jobs $(JOBS) --data

test-all: $(READY) ## the same as test with the slow cells and the slow tests
	@$(CLEAN) $(BIN)/python tools/check.py --jobs $(JOBS) --all

lab: $(READY) ## open the course in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=nbs

docs: $(READY) ## build the site in _docs/ (by Quarto where it is on PATH, else by smalldocs)
	@$(BIN)/python -c "from dogdepth.site import build_site; build_site(out='_docs')" && echo "built _docs/"

site: docs ## build the site and serve it on http://127.0.0.1:3000
	$(BIN)/python -m http.server 3000 --bind 127.0.0.1 --directory _docs

bench: $(READY) ## time the filter on this machine
	$(BIN)/dogdepth bench dog

clean: ## remove what the targets made, .venv included
	rm -rf .venv out _docs nbs/_docs build *.egg-info .pytest_cache .hypothesis .ruff_cache

# Set-up runs once, and again when one of these files or a knob changes. PyTorch goes first and alone, so that TORCH and
# TORCH_INDEX concern it and nothing else; everything else is pinned by constraints.txt.
FIND := for p in $(PYTHON) python3.11 python3 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info<(3,11))' 2>/dev/null && { echo "$$p"; break; }; done

$(READY): settings.ini constraints.txt setup.py pyproject.toml tools/mend_cv2.py
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { p=$$($(FIND)); \
	 [ -n "$$p" ] || { echo "dogdepth needs Python 3.11 or newer and found none. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	 echo "making .venv with $$($$p --version)"; \
	 "$$p" -m venv --clear .venv || { rm -rf .venv; echo "$$p cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }; }
	@echo "installing what constraints.txt pins (once; a few minutes)"
	@sed '/^torch==/d' constraints.txt > .venv/pins.txt
	@$(BIN)/python -m pip install -qq -c .venv/pins.txt --upgrade pip setuptools
	@$(BIN)/python -m pip install -qq --no-deps $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') $(if $(KNOBS),--force-reinstall) \
	  '$(or $(TORCH),$(shell grep '^torch==' constraints.txt))'
	@$(BIN)/python -m pip install -qq -c .venv/pins.txt --no-build-isolation -e '.[dev]'
	@$(BIN)/python tools/mend_cv2.py
	@echo '$(KNOBS)' > $@

ifneq ($(KNOBS),)
ifneq ($(KNOBS),$(strip $(shell cat $(READY) 2>/dev/null)))
$(READY): FORCE
FORCE:
endif
endif
