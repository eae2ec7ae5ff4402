#!/usr/bin/env bash
# Sets up what a campaign needs on this machine: a virtual environment with autohyp in it and, where this user may
# install system packages, bubblewrap (the sandbox; without it Landlock is used).
#
#   deploy/setup.sh VENV [EXTRA]
set -euo pipefail
venv=${1:?usage: setup.sh VENV [EXTRA]}
extra=${2:+[$2]}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

command -v git >/dev/null || fail "git is missing; install it (Debian: apt-get install git)"
command -v "$python" >/dev/null || fail "$python is missing; install Python 3.11 or newer, or name one: make PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$("$python" --version) is too old; name Python 3.11 or newer: make run PYTHON=python3.12"

if ! command -v bwrap >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing bubblewrap (the sandbox)"
  { apt-get install -y -qq bubblewrap || { apt-get update -qq && apt-get install -y -qq bubblewrap; }; } \
    >/dev/null 2>&1 || say "bubblewrap could not be installed; Landlock is used instead"
fi

if [ ! -x "$venv/bin/python" ]; then
  say "making $venv"
  "$python" -m venv "$venv" || fail "no virtual environment could be made (Debian: apt-get install python3-venv)"
fi
say "installing autohyp and what it needs (a few minutes the first time)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "$here$extra" \
  || fail "pip failed, see above"
say "done"
