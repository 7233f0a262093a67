#!/usr/bin/env bash
# System calls of the server for one heartbeat, counted from outside: strace counts while sessions are held and nothing
# happens but heartbeats, and the server's own metrics say how many it answered meanwhile.
#
#     benches/syscalls.sh [SESSIONS] [SECONDS]      5,000 sessions with a heartbeat every 5 s, watched for 30, unless given
#
# Needs strace (Debian: apt-get install strace) and the right to trace a process.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v strace > /dev/null || { echo "strace is not installed: apt-get install strace" >&2; exit 1; }
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
sessions=${1:-5000}
seconds=${2:-30}
listen=127.0.0.1:7466
admin=127.0.0.1:7465
work=$(mktemp -d target/bench-syscalls.XXXXXX)
server= holder= tracer=
finish() {
  for pid in $tracer $holder $server; do kill "$pid" 2> /dev/null || true; done
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT
metric() { curl -fs "http://$admin/metrics" | awk -v name="$1" '$1 == name { printf "%.0f", $2 }'; }
answered() { metric 'relaymesh_frames_total{direction="sent",kind="pong"}'; }

"$bin/relaymesh" serve --loops "${LOOPS:-0}" --max-sessions "$sessions" --data-dir "$work/data" --listen $listen --admin $admin \
  > "$work/log" 2>&1 &
server=$!
until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
  kill -0 $server 2> /dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done
"$bin/loadgen" connect --connections "$sessions" --hold $((seconds + 60))s --heartbeat 5s --connect $listen --quiet > "$work/held" 2>&1 &
holder=$!
until [ "$(metric 'relaymesh_connections{state="live"}')" -ge "$sessions" ]; do
  kill -0 $holder 2> /dev/null || { cat "$work/held" >&2; exit 1; }
  sleep 0.2
done
# The first heartbeats come within an interval.
sleep 6

strace -c -f -p $server -o "$work/counts" 2> "$work/strace" &
tracer=$!
until grep -q attached "$work/strace"; do
  kill -0 $tracer 2> /dev/null || { cat "$work/strace" >&2; exit 1; }
  sleep 0.05
done
before=$(answered)
sleep "$seconds"
after=$(answered)
kill -INT $tracer
wait $tracer 2> /dev/null || true
tracer=

heartbeats=$((after - before))
echo "$heartbeats heartbeats of $sessions sessions in $seconds s; system calls of the whole server for each:"
# Columns of strace -c: % time, seconds, usecs/call, calls, errors (may be empty), syscall.
awk -v beats=$heartbeats '
  $1 ~ /^[0-9.]+$/ && $NF != "total" { calls[$NF] = $4; all += $4 }
  END {
    for (name in calls) if (calls[name] / beats >= 0.005) printf "  %-20s %8.3f\n", name, calls[name] / beats | "sort -k2 -rn"
    close("sort -k2 -rn")
    printf "  %-20s %8.3f\n", "all", all / beats
  }' "$work/counts"
