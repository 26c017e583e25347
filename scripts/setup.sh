#!/usr/bin/env bash
# Create the virtual environment and install exactly what requirements.lock names, then this workspace's own packages.
set -euo pipefail

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: Python 3.11 or newer is needed, and '$python' is not one. Install it, or name it: make PYTHON=/path/to/python3.11 …" >&2
    exit 1
fi
step() { printf '· %s\n' "$*"; }

if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    step "virtual environment in $VENV ($("$python" --version))"
    rm -rf "$VENV"
    if ! "$python" -m venv "$VENV" >/dev/null 2>&1; then
        # Debian keeps ensurepip in a package of its own.
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            step "installing $package"
            { apt-get update && apt-get install -y --no-install-recommends "$package"; } >/dev/null
            rm -rf "$VENV" && "$python" -m venv "$VENV"
        else
            echo "setup: '$python -m venv' failed. On Debian: apt-get install $package" >&2
            exit 1
        fi
    fi
fi

pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)
total=$(grep -c '==' requirements.lock)
step "locked dependencies ($total packages; the first time this takes a minute or two)"
"${pip[@]}" install --progress-bar off --require-hashes --no-deps -r requirements.lock \
    2> >(grep -v 'is ignored: it is neither a file nor a directory' >&2) |
    awk -v total="$total" '
        /^Collecting /{ if (++n % 15 == 0) { printf "  %d of %d fetched\n", n, total; fflush() } }
        /^Installing collected/{ printf "  all fetched; installing\n"; fflush() }'
step "this workspace: $*"
editable=()
for member in "$@"; do editable+=(-e "$member"); done
"${pip[@]}" install -qq --no-deps --no-build-isolation "${editable[@]}"
touch "$VENV/.ready"
step "ready"
