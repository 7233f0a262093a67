#!/usr/bin/env bash
# Silent connections and sessions that never read, beside good sessions: heartbeats of the good ones before and in each phase
# of the attack, and how long after its deadline each of the others is gone. Exits with 1 when a goal is missed.
#
#     benches/hostile.sh [GOOD] [SILENT] [NON_READERS]      100,000, 15,000 and 10,000 unless given
#
# The phases, one after the other, each with percentiles of its own and its p99 as a multiple of that from before:
#   onset              1,000 non-readers a second come, each with a push of 64 KiB to its mailbox through the log, of which
#                      its socket takes a half or more and the server has to keep the rest; then 5,000 silent ones a second
#   presence           all are there, until the first silent one's deadline
#   silent_end         the server closes the silent ones, as they came
#   non_readers_alone  only they are there, until the first one's deadline
#   non_readers_end    the server closes them, as they came
# The generator makes the attack on the same cores, in threads that let all others go first; what the system does for its
# connections is part of the onset. RAMPS="--silent-ramp 0 --non-reader-ramp 0" has all come at once.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
good=${1:-100000} silent=${2:-15000} non_readers=${3:-10000}
listen=127.0.0.1:7470
admin=127.0.0.1:7469
work=$(mktemp -d target/bench-hostile.XXXXXX)
"$bin/relaymesh" serve --max-sessions $((good + silent + non_readers)) --data-dir "$work/data" --listen $listen \
  --admin $admin > "$work/log" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
  kill -0 $pid 2> /dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done
"$bin/loadgen" hostile --good "$good" --silent "$silent" --non-readers "$non_readers" --connect $listen --admin $admin \
  --quiet ${RAMPS:-} --json target/hostile.json
