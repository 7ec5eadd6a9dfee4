#!/bin/bash
# Build the images that the tests start. An image whose sources have not changed is not built again.
set -euo pipefail
cd "$(dirname "$0")"
export DOCKER_BUILDKIT=0 # Debian's engine has no other builder

# build NAME ARGUMENTS...: an image of the folder NAME and of what tar finds by the arguments
build() {
  local name=$1 tag said
  shift
  tag=pgherald-$name:$(cat "$name"/* base.sh ../kafka/jars.sha512 | sha256sum | cut -c1-12)
  if ! docker image inspect "$tag" >/dev/null 2>&1; then
    echo "building $tag"
    said=$(tar -c -C "$name" . "$@" | docker build --tag "$tag" - 2>&1) || { echo "$said" >&2; return 1; }
  fi
  docker tag "$tag" "pgherald-$name:latest"
}

bash base.sh
build postgres
build kafka -C "$(python3 ../local/programs.py kafka)" libs
