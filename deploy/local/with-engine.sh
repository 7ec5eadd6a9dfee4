#!/bin/bash
# Run a command with a Docker engine that answers: `with-engine.sh make test`.
# One that runs is used and left alone. Where none does, root gets Debian's, which ends with the command.
set -euo pipefail

log=$(mktemp)
packages=(docker.io iptables mmdebstrap) # the last makes a base image where no registry answers
daemon=

fail() { printf 'pgherald: %s\n' "$*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

wait_until_it_answers() {
  for _ in $(seq 300); do
    ! answers || return 0
    [ -d "/proc/$1" ] || return 1
    sleep 0.2
  done
  return 1
}

install_engine() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold \
    "${missing[@]}" >/dev/null
}

start_engine() {
  [ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one. Start yours, then run this again."
  install_engine
  local running
  if running=$(pgrep -xo dockerd); then # perhaps installing it has started it; a second one would spoil its networks
    wait_until_it_answers "$running" || fail "dockerd runs (pid $running) and does not answer"
    return
  fi
  dockerd --ip 127.0.0.1 >"$log" 2>&1 & # published ports are for this machine only
  daemon=$!
  wait_until_it_answers "$daemon" || fail "dockerd did not start: $(tail -n 5 "$log")"
}

stop_engine() {
  [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } || true
  rm -f "$log"
}

trap stop_engine EXIT
answers || start_engine
"$@"
