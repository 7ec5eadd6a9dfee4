#!/bin/bash
# Everything the local stack and the tests need: Debian packages, the virtual environment, the Kafka jars, pgherald itself.
# What is there is not touched; a second run takes a moment. Started by `make setup`; with `compiled`, by what runs the wheel.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C.UTF-8

python=${PYTHON:-python3}
venv=build/venv

step() { printf '[%s] %-46s' "$1" "$2"; step_started=$SECONDS; }
finished() { printf '%4d s  %s\n' $((SECONDS - step_started)) "${1-}"; }
fail() { printf '\npgherald: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Runs a command quietly; shows what it said when it fails.
quietly() {
  local said
  said=$("$@" 2>&1) || { printf '\n%s\n' "$said" >&2; return 1; }
}

check_python() {
  command -v "$python" >/dev/null || fail "no python3 here. Install Python 3.11 or newer."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old. Name a newer one: PYTHON=python3.11 make setup"
}

# Debian makes and starts a cluster `main` when PostgreSQL's server is installed, and starts PgBouncer, then and at each boot.
# Nobody asked for them: say no, only while we install. A policy that is there already is the administrator's.
without_services() {
  local cluster=/etc/postgresql-common/createcluster.d/pgherald.conf policy=/usr/sbin/policy-rc.d status=0
  [ ! -e "$policy" ] || policy=
  as_root mkdir -p "${cluster%/*}"
  echo 'create_main_cluster = false' | as_root tee "$cluster" >/dev/null
  if [ -n "$policy" ]; then
    # shellcheck disable=SC2016 # for the policy to expand
    printf '#!/bin/sh\ncase "$*" in *pgbouncer*) exit 101 ;; esac\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  "$@" || status=$?
  as_root rm -f "$cluster" ${policy:+"$policy"}
  case " $* " in *" pgbouncer "*) [ $status != 0 ] || as_root update-rc.d pgbouncer disable || status=$? ;; esac
  return $status
}

# Only what is missing is named, so that nothing installed is upgraded and no server of this machine restarts.
apt() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"
}

system_packages() {
  local packages
  packages=$("$python" deploy/local/programs.py "$@")
  [ -n "$packages" ] || { finished "there"; return; }
  # shellcheck disable=SC2086 # words on purpose
  set -- $packages
  grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release ||
    fail "this is not Debian 12. Install what these are there, then run this again: $*"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    fail "neither root nor sudo. Let root run: apt-get install $*"
  printf '\n      %s\n%-52s' "apt-get install $*" ""
  as_root mkdir -p /usr/share/man/man1 # slim images lack it, and Java's package fails without
  { apt update && without_services apt install -y --no-install-recommends "$@"; } ||
    fail "apt-get could not install $*. Mend what it says above, then run this again."
  finished
}

environment() {
  local stamp=$venv/requirements.sha256 wanted
  wanted=$(sha256sum deploy/requirements/dev.txt)
  "$venv/bin/python" -c '' 2>/dev/null || { rm -rf "$venv"; quietly "$python" -m venv "$venv"; }
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || { finished "there"; return; }
  quietly "$venv/bin/pip" install --disable-pip-version-check --require-hashes -r deploy/requirements/dev.txt ||
    fail "pip could not install deploy/requirements/dev.txt. Is a package index reachable?"
  echo "$wanted" >"$stamp"
  finished "$venv"
}

fetch_jars() {
  quietly mvn -B -q -f deploy/kafka/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$1" || fail "Maven could not fetch the Kafka jars. Is Maven Central reachable?"
}

# The list names every jar and nothing else may lie beside them: all of them go on the class path.
verify_jars() {
  local list=$PWD/deploy/kafka/jars.sha512
  if ! diff <(awk '{print $2}' "$list" | sort) <(ls "$1") >&2 || ! (cd "$1" && sha512sum --quiet -c "$list") >&2; then
    fail "the Kafka jars are not those of deploy/kafka/jars.sha512 (above). They were not installed."
  fi
}

kafka_jars() {
  local folder
  folder=$("$python" deploy/local/programs.py kafka)
  [ ! -d "$folder/libs" ] || { finished "there"; return; }
  mkdir -p "$folder"
  fetched=$(mktemp -d "$folder/fetched.XXXXXX")
  trap 'rm -rf "$fetched"' EXIT
  fetch_jars "$fetched"
  verify_jars "$fetched"
  chmod 755 "$fetched"
  mv -T "$fetched" "$folder/libs" 2>/dev/null || [ -d "$folder/libs" ] # another set-up was first
  finished "$folder"
}

class_archive() {
  local archive
  archive=$("$python" -c 'from deploy.local import programs; print(programs.class_archive())')
  [ ! -e "$archive" ] || { finished "there"; return; }
  quietly "$venv/bin/python" -m deploy.local.class_archive || fail "the Kafka broker did not start (above)."
  finished
}

pgherald() {
  local stamp=$venv/pgherald.sha256 wanted
  wanted=$(sha256sum setup.cfg pyproject.toml; pwd)
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || { finished "there"; return; }
  quietly "$venv/bin/pip" install --disable-pip-version-check --no-deps --no-build-isolation -e . ||
    fail "pip could not install pgherald itself (above)."
  echo "$wanted" >"$stamp"
  finished
}

# What users install, unpacked: the wheel, whose inner loop is compiled (deploy/build/wheel.py).
compiled() {
  local folder=build/compiled wanted
  wanted=$(find cdc consumers deploy/build deploy/sql setup.cfg pyproject.toml -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; "$venv/bin/python" -VV)
  [ "$(cat "$folder/made-of" 2>/dev/null)" != "$wanted" ] || { finished "there"; return; }
  rm -rf "$folder" build/lib.* build/temp.*
  quietly "$venv/bin/pip" install --disable-pip-version-check --no-deps --no-build-isolation --target "$folder" . ||
    fail "pip could not make pgherald's wheel (above)."
  compgen -G "$folder/cdc/capture.*.so" >/dev/null || fail "the wheel was not compiled. Does cc work here?"
  echo "$wanted" >"$folder/made-of"
  finished "$folder"
}

check_python
if [ "${1-}" = compiled ]; then
  step 1/2 "a C compiler"
  system_packages compiler
  step 2/2 "pgherald's wheel, compiled"
  compiled
  exit
fi
step 1/5 "system packages"
system_packages
step 2/5 "virtual environment"
environment
step 3/5 "Kafka jars, verified"
kafka_jars
step 4/5 "Kafka class archive, for quick starts"
class_archive
step 5/5 "pgherald"
pgherald
