#!/bin/sh
# Which Python `.venv` is made with, where nobody names one: the system's own where it is of the version of the one on PATH, or where
# that one is too old. A distribution builds it with profile-guided optimization and keeps it patched; one that was built by hand mostly
# is neither optimized (pyenv's default takes 1.4 to 1.7 times as long for the same work) nor looked after.
# Of another version it may lack wheels that the one on PATH has, and an environment that is there already would be made anew.
system=/usr/bin/python3
will_do='
import sys
on_path = tuple(int(part) for part in sys.argv[1].split("."))
import ensurepip, venv  # Debian ships them apart
sys.exit(sys.version_info[:2] < (3, 11) or on_path >= (3, 11) and sys.version_info[:2] != on_path)
'
on_path=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || on_path=0.0
if [ -x "$system" ] && "$system" -c "$will_do" "$on_path" 2>/dev/null; then echo "$system"; else echo python3; fi
