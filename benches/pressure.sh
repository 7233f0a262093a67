#!/usr/bin/env bash
# The pressure of a slow consumer: a producer publishes as fast as it may to a bounded queue that is emptied slowly, while a
# neighbour namespace goes on. Printed: the producer's rate beside the consumer's, the server's memory over the time, and the
# neighbour's delay before and during.
#
#     benches/pressure.sh [SECONDS] [PER_S]      20 seconds of pressure, a consumer of 200 messages a second, unless given
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
seconds=${1:-20}
per_s=${2:-200}
listen=127.0.0.1:7468
admin=127.0.0.1:7467
work=$(mktemp -d target/bench-pressure.XXXXXX)
server= producer= consumer=
finish() {
  for pid in $producer $consumer $server; do kill "$pid" 2> /dev/null || true; done
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT
metric() { curl -fs "http://$admin/metrics" | awk -v name="$1" '$1 == name { printf "%.0f", $2 }'; }
resident() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$server/status"; }
export RELAYMESH_CONNECT=$listen RELAYMESH_ADMIN=$admin

"$bin/relaymesh" serve --data-dir "$work/data" --listen $listen --admin $admin > "$work/log" 2>&1 &
server=$!
until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
  kill -0 $server 2> /dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done
# The consumer's pace is the queue's delivery rate: what it cannot take in time it does not get.
"$bin/relaymesh" queue --namespace busy set jobs messages_max=1000 when_full=wait "deliver_per_s=$per_s"

neighbour() {
  "$bin/loadgen" publish --namespace calm --queue "$1" --count 2000 --in-flight 1 --quiet --json "$work/$1.json" > /dev/null
  sed -n 's/.*"p99": *\([0-9.]*\).*/\1/p' "$work/$1.json" | head -1
}
before=$(neighbour before)
"$bin/loadgen" publish --namespace busy --queue jobs --count 100000000 --size 4096 --in-flight 1024 --quiet > "$work/producer" 2>&1 &
producer=$!
"$bin/loadgen" work --namespace busy --queue jobs --count 100000000 --in-flight 100 --quiet > "$work/consumer" 2>&1 &
consumer=$!
sleep 3
published=$(metric relaymesh_publishes_total) acked=$(metric relaymesh_acks_total) first=$(resident)
began=$(date +%s.%N)
during=$(neighbour during)
least=$first most=$first
while [ "$(echo "$(date +%s.%N) - $began < $seconds" | bc)" = 1 ]; do
  now=$(resident)
  least=$((now < least ? now : least)) most=$((now > most ? now : most))
  sleep 0.5
done
took=$(echo "$(date +%s.%N) - $began" | bc)
published=$(($(metric relaymesh_publishes_total) - published - 2000)) acked=$(($(metric relaymesh_acks_total) - acked))
echo "producer   $(echo "$published / $took" | bc) publishes answered a second"
echo "consumer   $(echo "$acked / $took" | bc) acks a second"
echo "parked     $(metric 'relaymesh_buffer_bytes{buffer="parked"}') bytes, of one producer's window"
echo "server     $first MiB resident at first, then $least to $most"
echo "neighbour  p99 of a durable publish $before us before, $during us during: $(echo "scale=2; $during / $before" | bc) times"
