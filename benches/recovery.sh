#!/usr/bin/env bash
# How fast a start reads a backlog back: publishes it, kills the server (SIGKILL) and starts it again five times, then
# leases and acks all of it. Prints messages a second and the memory of each start, and the rate of the work.
#
#     benches/recovery.sh [COUNT] [SIZE]        messages and bytes of each, 1,000,000 of 256 unless given
#
# RELAYMESH_BIN names another directory with the binaries, for a comparison; nothing is built then.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${RELAYMESH_BIN:-}" ] || cargo build --release --workspace --quiet

count=${1:-1000000}
size=${2:-256}
bin=${RELAYMESH_BIN:-target/release}
work=$(mktemp -d target/bench-recovery.XXXXXX)
listen=127.0.0.1:7474
pid=
trap '[ -z "$pid" ] || kill -9 $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT

start() {
  "$bin/relaymesh" serve --data-dir "$work/data" --listen $listen --admin 127.0.0.1:7473 --log-format json > "$work/log" 2>&1 &
  pid=$!
  until curl -fs http://127.0.0.1:7473/readyz > /dev/null 2>&1; do sleep 0.05; done
}
slay() { kill -9 $pid; wait $pid 2> /dev/null || true; pid=; }
mib() { awk "/$1/ { printf \"%d\", \$2 / 1024 }" "/proc/$pid/status"; }
median() { printf '%s\n' "$@" | sort -n | sed -n 3p; }

start
empty=$(mib VmRSS)
"$bin/loadgen" publish --connect $listen --count "$count" --size "$size" --in-flight 1024 --quiet > /dev/null
slay
rates=() residents=() peaks=()
for run in 1 2 3 4 5; do
  start
  took_ms=$(sed -n 's/.*"took_ms":\([0-9]*\).*/\1/p' "$work/log")
  rates+=($((count * 1000 / took_ms))) residents+=("$(mib VmRSS)") peaks+=("$(mib VmHWM)")
  [ $run = 5 ] || slay
done
echo "recovery of $count messages of $size B: $(median "${rates[@]}") a second (${rates[*]})"
echo "resident after it, MiB: $(median "${residents[@]}") (${residents[*]}), at most $(median "${peaks[@]}") (${peaks[*]}); with an empty log $empty"
"$bin/loadgen" work --connect $listen --count "$count" --in-flight 1024 --quiet --json "$work/out.json" > /dev/null
echo "lease + ack of all of them, 1,024 in flight: $(sed -n 's/.*"per_s": \([0-9]*\).*/\1/p' "$work/out.json") a second"
