#!/usr/bin/env bash
# A base for the Dockerfile where no registry can be reached: Debian 13 with its Python, committed under the tag that
# the Dockerfile names. Needs root, buildah and debootstrap. Does nothing when there is such an image already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

tag=$(sed -n 's/^ARG PYTHON_TAG=//p' Dockerfile)
buildah inspect --type image "python:$tag" >/dev/null 2>&1 && exit 0
[[ $tag == 3.13-* ]] || { echo "base-image.sh: Debian 13 has Python 3.13, not $tag" >&2; exit 1; }

root=$(mktemp -d)
container=
trap 'rm -rf "$root" "$root.log"; [ -z "$container" ] || buildah rm "$container" >/dev/null' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$root" >"$root.log" 2>&1 ||
    { cat "$root.log" >&2; exit 1; }
ln -s ../../bin/python3 "$root/usr/local/bin/python"
# Like the image whose place it takes: no package cache, and the standard library as source only.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
find "$root/usr/lib" -name __pycache__ -type d -prune -exec rm -r {} +

container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet "$container" "python:$tag" >/dev/null
