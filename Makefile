# Two commands matter: `make quickstart` and `make test`. Each works alone on a fresh machine.
#
#   PYTHON=/path/to/python3.12   choose the interpreter (3.11, 3.12 or 3.13)
#   PIP_ARGS="..."               passed to every `pip install`, for example an --index-url
#   TORCH_INDEX=URL              install torch from this index first, for example PyTorch's CPU index
#   VENV=.venv                   where the environment lives

VENV        ?= .venv
PYTHON      ?=
PIP_ARGS    ?=
TORCH_INDEX ?=

PY     := $(VENV)/bin/python
SAMPLE := samples/hippocampus/imagesTr/hippocampus_003.nii.gz
SERIES := samples/ETTh1.csv
OUT    := out/quickstart

# Asked of each interpreter by running it: a name on PATH may be a shim with nothing behind it.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
HAS_VENV  := import ensurepip, venv

.PHONY: help quickstart demo test clean

help:
	@echo "make quickstart   install into $(VENV), then segment a brain MR and forecast a load (into $(OUT))"
	@echo "make demo         install the demo's packages as well, then open it in a browser"
	@echo "make test         install the development tools as well, then lint, type check and test"
	@echo "make clean        remove $(VENV), out/ and tool caches (your runs/ are kept)"
	@echo "Options: PYTHON=python3.12  TORCH_INDEX=URL  PIP_ARGS=\"...\"  VENV=.venv"

quickstart: $(VENV)/.installed
	@$(PY) apps/medical/run.py predict $(SAMPLE) --model hippocampus --out $(OUT) --force
	@echo
	@$(PY) apps/timeseries/run.py forecast $(SERIES) --model etth1-96 --horizon 96 \
		--level 80 --level 90 --out $(OUT)/etth1 --force
	@echo
	@echo "Look at the results:  $(OUT)/hippocampus_003/report.html and $(OUT)/etth1/forecast.html"
	@echo "Next:"
	@echo "  $(PY) apps/timeseries/run.py check YOUR.csv"
	@echo "  $(PY) apps/timeseries/run.py models"
	@echo "  $(PY) apps/medical/run.py info"
	@echo "  $(PY) apps/medical/run.py predict samples/nuclei/images --model nuclei --out out/nuclei"
	@echo "  $(PY) apps/medical/run.py check samples/hippocampus"
	@echo "  $(PY) apps/medical/run.py predict YOUR_CROP.nii.gz --model hippocampus --out out/mine"
	@echo "Training on your own images: see README.md"

demo: $(VENV)/.installed-demos
	$(PY) -m streamlit run demos/app.py

test: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy core apps demos
	$(PY) -m pytest --durations=10

clean:
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps are newer than both files while the environment is up to date.
$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	@$(call install,.)
	@touch $@

$(VENV)/.installed-demos: pyproject.toml constraints.txt | $(PY)
	@$(call install,.[demos])
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(PY)
	@$(call install,.[dev])
	@touch $@ $(VENV)/.installed $(VENV)/.installed-demos

define install
$(PY) -c '$(SUPPORTED)' || { \
	echo "error: $(VENV) holds $$($(PY) --version 2>&1), but 3.11, 3.12 or 3.13 is needed; run: make clean" >&2; \
	exit 1; \
}; \
if [ -n "$(TORCH_INDEX)" ]; then \
	$(PY) -m pip install $(PIP_ARGS) -c constraints.txt torch --index-url "$(TORCH_INDEX)" || exit 1; \
fi; \
$(PY) -m pip install $(PIP_ARGS) -c constraints.txt -e "$(1)"
endef

$(PY):
	@if [ -n "$(PYTHON)" ] && ! "$(PYTHON)" -c "" >/dev/null 2>&1; then \
		echo "error: PYTHON=$(PYTHON) does not run; give the path or name of Python 3.11, 3.12 or 3.13" >&2; \
		exit 1; \
	fi; \
	python=; old=; \
	for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
		"$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1 || continue; \
		old="$$candidate"; \
		"$$candidate" -c '$(HAS_VENV)' >/dev/null 2>&1 || continue; \
		python="$$candidate"; break; \
	done; \
	if [ -z "$$old" ]; then \
		echo "error: Python 3.11, 3.12 or 3.13 is needed, and $(if $(PYTHON),$(PYTHON) is another version,this machine has none of them); install it (Debian/Ubuntu: sudo apt-get install -y python3 python3-venv; macOS: brew install python@3.12), then: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi; \
	if [ -z "$$python" ]; then \
		version=$$("$$old" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "error: $$old cannot make virtual environments; install that part: sudo apt-get install -y python$$version-venv" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version 2>&1) ($$python)"; \
	"$$python" -m venv "$(VENV)"
