#!/usr/bin/env bash
# Sessions held: one server, one load generator, on this machine. Prints a row of the table for each number of sessions and
# keeps the whole result and its plot in target/sessions-COUNT.json and .svg.
#
#     benches/sessions.sh [COUNT] [HOLD]      10,000, 100,000 and 1,000,000 one after the other, 2 min each, unless given
#
# HEARTBEAT=60s is each session's. WITH=push,broadcast,queue (or some of them) runs these one after the other, SECONDS_EACH=60
# each, while the sessions are held, and prints what they reach then beside what they reach with a server that holds none
# (for pushes: 1,000 sessions): 1,000 pushes a second to random devices, a message to all sessions, and a work queue at
# 20,000 messages a second. HOLD must be long enough for them. SILENT=1000 lets so many of the sessions fall silent once all
# are there, and prints how much later than its deadline the server closed each; a HOLD of 4m is long enough for that. BIN
# names another directory with the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
counts=${1:-10000 100000 1000000}
hold=${2:-2m}
heartbeat=${HEARTBEAT:-60s}
with=${WITH:-}
each=${SECONDS_EACH:-60}
listen=127.0.0.1:7472
admin=127.0.0.1:7471
work=$(mktemp -d target/bench-sessions.XXXXXX)
server= holder= worker=
finish() {
  for pid in $worker $holder $server; do kill "$pid" 2> /dev/null || true; done
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# field FILE NAME: a number of a result, field FILE OBJECT NAME: one within an object of it
field() {
  if [ $# = 2 ]; then sed -n "s/^  \"$2\": \([0-9.]*\).*/\1/p" "$1"; else
    sed -n "/^  \"$2\": {/,/^  }/s/.*\"$3\": \([0-9.]*\).*/\1/p" "$1"; fi
}
metric() { curl -fs "http://$admin/metrics" | awk -v name="$1" '$1 == name { printf "%.0f", $2 }'; }
wants() { case ",$with," in *,"$1",*) return 0 ;; *) return 1 ;; esac; }
load() { "$bin/loadgen" "$@" --connect $listen --quiet; }

# start SESSIONS: a server with room for these, and for those that publish to them
start() {
  rm -rf "$work/data"
  "$bin/relaymesh" serve --max-sessions $(($1 + 100)) --data-dir "$work/data" --listen $listen --admin $admin > "$work/log" 2>&1 &
  server=$!
  until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
    kill -0 $server 2> /dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
}
stop() { kill $server; wait $server 2> /dev/null || true; server=; }

# hold COUNT HOLD: holds them in the background
hold() {
  load connect --connections "$1" --hold "$2" --heartbeat "$heartbeat" --server-pid $server --prefix bench- \
    --json "$work/held.json" --plot "$work/held.svg" $topic $silent > "$work/held.log" 2>&1 &
  holder=$!
}
# await_all COUNT: until all are there
await_all() {
  until [ "$(metric 'relaymesh_connections{state="live"}')" -ge "$1" ]; do
    kill -0 $holder 2> /dev/null || { cat "$work/held.log" >&2; exit 1; }
    sleep 0.2
  done
}
held() { wait $holder || { cat "$work/held.log" >&2; exit 1; }; holder=; }

push() { load push --prefix bench- --devices "$1" --rate 1000 --duration "$2" --json "$work/push.json" > /dev/null; }
# queue NAME: publishes and works at the same time, the results in NAME-publish.json and NAME-work.json
queue() {
  local count=$((20000 * each))
  load work --queue bench --count $count --in-flight 1024 --json "$work/$1-work.json" > /dev/null &
  worker=$!
  load publish --queue bench --count $count --rate 20000 --in-flight 1024 --json "$work/$1-publish.json" > /dev/null
  wait $worker
  worker=
}
say_queue() {
  local publish=$work/$1-publish.json works=$work/$1-work.json
  printf '  %-26s %8.0f/s published, %8.0f/s acked; publish p50 %s us p99 %s us; to the worker p50 %s us p99 %s us p99.9 %s us\n' \
    "queue, $2" "$(field "$publish" per_s)" "$(field "$works" per_s)" "$(field "$publish" latency_us p50)" \
    "$(field "$publish" latency_us p99)" "$(field "$works" delivery_us p50)" "$(field "$works" delivery_us p99)" \
    "$(field "$works" delivery_us p999)"
}
# broadcast: until all have it, so that what comes next is measured by itself
broadcast() {
  load broadcast --topic bench --json "$work/broadcast.json" > /dev/null
  until [ "$(metric 'relaymesh_buffer_bytes{buffer="broadcasts"}')" -eq 0 ]; do sleep 0.2; done
}
say_broadcast() {
  local of=$work/held.json
  printf '  %-26s %8s deliveries, %8.0f/s; delay p50 %s us p99 %s us, the last %s us; beats meanwhile p50 %s us p99 %s us\n' broadcast \
    "$(field "$of" broadcast deliveries)" "$(field "$of" broadcast per_s)" "$(field "$of" broadcast p50)" \
    "$(field "$of" broadcast p99)" "$(field "$of" broadcast last_us)" \
    "$(field "$of" broadcast_heartbeat_rtt_us p50)" "$(field "$of" broadcast_heartbeat_rtt_us p99)"
}
say_push() {
  printf '  %-26s %8s arrived of %s; to the device p50 %s us p99 %s us p99.9 %s us; on disk p99 %s us\n' "push, $1" \
    "$(field "$work/held.json" push count)" "$(field "$work/push.json" count)" "$(field "$work/held.json" push p50)" \
    "$(field "$work/held.json" push p99)" "$(field "$work/held.json" push p999)" "$(field "$work/push.json" latency_us p99)"
}

say_silent() {
  local of=$work/held.json
  printf '  %-26s %8s detected, %s undetected, %s closed early; later than their deadline of %s ms: p50 %s %% p99 %s %% max %s %%\n' \
    "$SILENT fell silent" "$(field "$of" fall_silent detected)" "$(field "$of" fall_silent undetected)" \
    "$(field "$of" fall_silent early)" "$(field "$of" fall_silent deadline_ms)" "$(field "$of" fall_silent p50)" \
    "$(field "$of" fall_silent p99)" "$(field "$of" fall_silent max)"
}

topic= silent=
wants broadcast && topic="--topic bench"
printf '%10s %11s %7s %12s %14s %16s %12s %12s %12s %7s %14s\n' sessions established failed handshakes/s "RSS/session B" \
  "kernel/session B" "beat p50 us" "p99 us" "p99.9 us" missed "CPU us/beat"
for count in $counts; do
  if wants queue || wants push; then
    start 10000
    wants queue && queue before
    if wants push; then hold 1000 "$((each + 10))s" && await_all 1000 && push 1000 "${each}s" && held && say_push "1,000 sessions"; fi
    stop
  fi
  start "$count"
  silent=${SILENT:+--fall-silent $SILENT}
  if [ -n "$with" ]; then
    hold "$count" "$hold"
    await_all "$count"
    wants push && push "$count" "${each}s"
    wants broadcast && broadcast
    wants queue && queue during
    kill -0 $holder 2> /dev/null || echo "HOLD=$hold was over before the others were done" >&2
    held
  else
    hold "$count" "$hold"
    held
  fi
  cp "$work/held.json" "target/sessions-$count.json"
  cp "$work/held.svg" "target/sessions-$count.svg"
  of=$work/held.json
  printf '%10s %11s %7s %12.0f %14.0f %16.0f %12s %12s %12s %7s %14.2f\n' "$count" "$(field "$of" established)" \
    "$(field "$of" failed)" "$(field "$of" handshakes_per_s)" "$(field "$of" rss_bytes_per_session)" \
    "$(field "$of" kernel_bytes_per_session)" "$(field "$of" heartbeat_rtt_us p50)" "$(field "$of" heartbeat_rtt_us p99)" \
    "$(field "$of" heartbeat_rtt_us p999)" "$(field "$of" missed_heartbeats)" "$(field "$of" cpu_us_per_heartbeat)"
  if wants push; then say_push "$count sessions"; fi
  if wants queue; then say_queue before "no sessions"; say_queue during "$count sessions"; fi
  if wants broadcast; then say_broadcast; fi
  [ -z "$silent" ] || say_silent
  silent=
  stop
done
