#!/usr/bin/env bash
# What tests need from the operating system: packages.sh PYTHON [browser]. Root on Debian gets what is missing; everybody else is told
# what to install.
set -euo pipefail
python=${1:-python3}
missing=()
has() { command -v "$1" >/dev/null 2>&1; }
has git || missing+=(git)
has ssh-keygen || missing+=(openssh-client)
has sshd || [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
has setpriv || missing+=(util-linux)
has ps || missing+=(procps)
has docker-registry || missing+=(docker-registry)
if [ "${2:-}" = browser ]; then has chromium || has chromium-browser || has google-chrome || missing+=(chromium); fi
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || has initdb || missing+=(postgresql)
# Debian ships this part of Python's standard library apart.
if [ "$(command -v "$python")" = /usr/bin/python3 ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then missing+=(python3-venv); fi

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && has apt-get; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  if [[ " ${missing[*]} " == *" postgresql "* ]]; then
    # Tests start servers of their own; the one Debian would make and start is nobody's.
    apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
    sed -ri 's/#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf
  fi
  if [[ " ${missing[*]} " == *" openssh-server "* ]]; then
    # As above: what it would start lets people in.
    mkdir -p /etc/systemd/system
    for unit in ssh.service ssh.socket; do [ -e "/etc/systemd/system/$unit" ] || ln -s /dev/null "/etc/systemd/system/$unit"; done
  fi
  if [[ " ${missing[*]} " == *" docker-registry "* ]]; then
    mkdir -p /etc/systemd/system
    [ -e /etc/systemd/system/docker-registry.service ] || ln -s /dev/null /etc/systemd/system/docker-registry.service
  fi
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "These tests need packages that are not installed: ${missing[*]}" >&2
  echo "On Debian and Ubuntu: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
