#!/bin/sh
# Find the Python that makes the environment, and set up with it: `sh infra/local/setup.sh GOAL`.
# PYTHON=python3.13 names one; else the one that made the environment before; else what is found.
set -eu
here=$(dirname "$0")
NEEDED='Python 3.11 or newer with venv is needed'

# Say in a sentence why an interpreter will not do; nothing where it will.
why_not() {
  command -v "$1" >/dev/null 2>&1 || { echo "there is no command $1"; return; }
  said=$("$1" -c 'import sys
if sys.version_info < (3, 11):
    print(sys.argv[1] + " is Python %d.%d" % sys.version_info[:2])
else:
    try:
        import ensurepip, venv
    except ImportError:
        print(sys.argv[1] + " has no venv (Debian and Ubuntu: apt install python%d.%d-venv)"
              % sys.version_info[:2])' "$1" 2>&1) || said="$1 does not run: $said"
  echo "$said" | head -n 1
}

if [ -n "${PYTHON:-}" ]; then
  why=$(why_not "$PYTHON")
  [ -z "$why" ] || { echo "$NEEDED: $why" >&2; exit 1; }
  exec "$PYTHON" "$here/setup.py" "$@"
fi
reasons=
for python in "${VENV:-.venv}/bin/python" python3 python3.14 python3.13 python3.12 python3.11; do
  why=$(why_not "$python")
  [ -n "$why" ] || exec "$python" "$here/setup.py" "$@"
  case $why in "there is no command"*) ;; *) reasons="$reasons${reasons:+, }$why" ;; esac
done
echo "$NEEDED: ${reasons:-there is no command python3}" >&2
exit 1
