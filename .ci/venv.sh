# Sourced by the two commands of the README: makes .venv once and installs the checkout with the extras in $EXTRAS.
set -eu
PYTHON="${PYTHON:-python3}"
"$PYTHON" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"AutoPrune needs Python >= 3.11; this is {sys.version.split()[0]} (set PYTHON=/path/to/python3.11)")
PY
VENV="${AUTOPRUNE_VENV:-.venv}"
STAMP="$VENV/.autoprune-$(printf '%s' "$EXTRAS" | tr ',' '-')"
if [ ! -f "$STAMP" ] || [ pyproject.toml -nt "$STAMP" ] || [ constraints.txt -nt "$STAMP" ]; then
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    echo "Installing autoprune[$EXTRAS] into $VENV (a few minutes the first time) ..."
    if ! "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$EXTRAS]" \
        > "$VENV/install.log" 2>&1; then
        cat "$VENV/install.log"
        echo "installation failed"
        exit 1
    fi
    touch "$STAMP"
fi
