#!/usr/bin/env bash
# Debian's Redis 7 for the tests, unpacked into FOLDER without installing it: Valkey comes as a wheel, Redis does not.
# Where that is not to be had the tests say that Redis 7 was not tested; nothing else depends on it.
set -euo pipefail

folder=$1
[ -x "$folder/redis-server" ] && exit 0
command -v redis-server >/dev/null && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "· no Redis 7: this is no Debian"; exit 0; }

packages=(redis-server redis-tools liblzf1 liblua5.1-0 lua-bitop lua-cjson libjemalloc2 libatomic1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get download "${packages[@]}") >/dev/null 2>&1; }
if ! fetch && ! { [ "$(id -u)" = 0 ] && apt-get update >/dev/null 2>&1 && fetch; }; then
    echo "· no Redis 7: apt-get cannot fetch redis-server"
    exit 0
fi
for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/unpacked"; done
umask 077
rm -rf "$folder"
mkdir -p "$folder"
cp "$work"/unpacked/usr/bin/redis-check-rdb "$folder/program"  # the server is a link to it
find "$work/unpacked" -name '*.so*' \( -type f -o -type l \) -exec cp -P {} "$folder" \;
cat > "$folder/redis-server" <<'SCRIPT'
#!/bin/bash
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here" exec -a redis-server "$here/program" "$@"
SCRIPT
chmod +x "$folder/redis-server"
"$folder/redis-server" --version >/dev/null 2>&1 || { rm -rf "$folder"; echo "· no Redis 7: Debian's does not run here"; exit 0; }
echo "· Redis 7 for the tests, in $folder"
