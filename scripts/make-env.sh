#!/bin/sh
# .env from .env.example, with a password of its own in every line. One that is there is left as it is.
set -eu
cd "$(dirname "$0")/.."
target=${1:-.env}

if [ -e "$target" ]; then
    echo "$target is there already; remove it to make new passwords. The servers keep the old ones in their data." >&2
    exit 1
fi
umask 077
python3 -c '
import re, secrets, sys
sys.stdout.write(re.sub("=change-me$", lambda _: f"={secrets.token_hex(16)}", sys.stdin.read(), flags=re.MULTILINE))
' < .env.example > "$target"
