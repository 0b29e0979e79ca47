#!/bin/sh
# Which Python `.venv` is made with, where nobody names one: the system's own if it is at least as new as the one on PATH.
# A distribution builds it with profile-guided optimization and keeps it patched; one that was built by hand mostly is neither
# optimized (pyenv's default takes 1.4 to 1.7 times as long for the same work) nor looked after.
system=/usr/bin/python3
newer='
import sys
asked = tuple(int(part) for part in sys.argv[1].split("."))
import ensurepip, venv  # Debian ships them apart
sys.exit(not sys.version_info[:2] >= max(asked, (3, 11)))
'
on_path=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || on_path=0.0
if [ -x "$system" ] && "$system" -c "$newer" "$on_path" 2>/dev/null; then echo "$system"; else echo python3; fi
