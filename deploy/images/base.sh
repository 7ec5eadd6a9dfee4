#!/bin/bash
# Give the engine debian:bookworm-slim: as it has it, as a registry has it, else made here from this machine's apt sources.
set -euo pipefail
image=debian:bookworm-slim
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgherald/bookworm-slim.tar

# The Debian sources that this machine uses, whichever way they are written down.
sources() {
  # shellcheck disable=SC2016 # apt fills these in
  apt-get indextargets --format 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(SITE) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Debian' | grep -E ' bookworm(-updates|-security)? main$' | sort -u
}

make_image() {
  local work
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  sources >"$work/sources.list"
  # how this machine reaches them (proxy, certificates) goes into the image, for the packages that are added to it
  apt-config dump | grep -E '^Acquire::(http|https|Retries)' >"$work/apt.conf" || true
  mmdebstrap --quiet --variant=apt --mode=root --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/root.tar" "$work/sources.list"
  mkdir -p "${cache%/*}"
  mv "$work/root.tar" "$cache"
}

if docker image inspect $image >/dev/null 2>&1 || timeout 120 docker pull -q $image >/dev/null 2>&1; then
  exit
fi
if [ "$(id -u)" != 0 ] || ! grep -qs ^VERSION_CODENAME=bookworm /etc/os-release || ! command -v mmdebstrap >/dev/null; then
  echo "The engine has no $image and can't pull it. Making one takes root, Debian 12 and mmdebstrap." >&2
  exit 1
fi
[ -n "$(find "$cache" -mtime -14 2>/dev/null)" ] || make_image # security updates are two weeks old at most
docker import "$cache" $image >/dev/null
