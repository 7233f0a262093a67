#!/usr/bin/env bash
# How fast a start reads a backlog back: publishes it, kills the server (SIGKILL) and starts it again five times, then
# leases and acks all of it. Prints messages a second and the memory of each start, and the rate of the work. Where the records
# are large enough for checkpoints (1 KiB on average, at more than eight segments), a start with them is compared with one
# without, the two in turn. Last of all, how fast `relaymesh log verify` reads that log.
#
#     benches/recovery.sh [COUNT] [SIZE]        messages and bytes of each, 1,000,000 of 256 unless given
#     benches/recovery.sh 500000 4096           with checkpoints: 2 GB of log
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
took() { sed -n 's/.*"took_ms":\([0-9]*\).*/\1/p' "$work/log"; }
# A start says how many checkpoints it used; the server writes those that it can, and this waits until they are there.
heads() { find "$work/data" -name '*.heads' | wc -l; }
settle() {
  local before=-1
  until [ "$(heads)" = $before ]; do before=$(heads); sleep 3; done
}
median() { printf '%s\n' "$@" | sort -n | sed -n 3p; }

start
empty=$(mib VmRSS)
"$bin/loadgen" publish --connect $listen --count "$count" --size "$size" --in-flight 1024 --quiet > /dev/null
slay
rates=() residents=() peaks=()
for run in 1 2 3 4 5; do
  start
  took_ms=$(took)
  rates+=($((count * 1000 / took_ms))) residents+=("$(mib VmRSS)") peaks+=("$(mib VmHWM)")
  [ $run = 5 ] || slay
done
echo "recovery of $count messages of $size B: $(median "${rates[@]}") a second (${rates[*]})"
echo "resident after it, MiB: $(median "${residents[@]}") (${residents[*]}), at most $(median "${peaks[@]}") (${peaks[*]}); with an empty log $empty"
settle
if [ "$(heads)" -gt 0 ]; then
  count_heads=$(heads) with=() without=() ratios=()
  slay
  logs=$(dirname "$(find "$work/data" -name '*.heads' | head -1)")
  mkdir "$work/heads"
  for run in 1 2 3 4 5; do
    start && with+=("$(took)") && slay
    mv "$logs"/*.heads "$work/heads"
    start && without+=("$(took)") && slay
    # Those that this start began to make.
    rm -f "$logs"/*.heads
    mv "$work/heads"/*.heads "$logs"
    ratios+=("$(awk -v a="${with[-1]}" -v b="${without[-1]}" 'BEGIN { printf "%.2f", a / b }')")
  done
  echo "start with $count_heads checkpoints: $(median "${with[@]}") ms (${with[*]})"
  echo "start without them: $(median "${without[@]}") ms (${without[*]}); with them $(median "${ratios[@]}") x that (${ratios[*]})"
  start
else
  echo "no checkpoints: the log is short, or its records are small"
fi
slay
verified=()
for run in 1 2 3 4 5; do
  begin=$(date +%s%N)
  "$bin/relaymesh" log verify --data-dir "$work/data" --json > "$work/verify.json"
  bytes=$(sed -n 's/^ *"data_bytes": \([0-9]*\).*/\1/p' "$work/verify.json")
  verified+=("$(awk -v bytes="$bytes" -v ns=$(($(date +%s%N) - begin)) 'BEGIN { printf "%.0f", bytes * 1000 / ns }')")
done
echo "log verify: $(median "${verified[@]}") MB of records a second (${verified[*]})"
start
"$bin/loadgen" work --connect $listen --count "$count" --in-flight 1024 --quiet --json "$work/out.json" > /dev/null
echo "lease + ack of all of them, 1,024 in flight: $(sed -n 's/.*"per_s": \([0-9]*\).*/\1/p' "$work/out.json") a second"
