# What the demos are told with: sourced by e2e/demo/local and e2e/demo/kubernetes. Needs $here, the e2e folder, and
# $work, a folder for files. Every result is checked; the first one that is not what the tutorial says ends the demo.
export TIDE_BED
steps=0 current='preparations' began=${EPOCHREALTIME/./} step_began=

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

fail() {
  echo >&2
  echo "demo: step \"$current\": $*" >&2
  exit 1
}

# poll SECONDS COMMAND...: repeats the command until it succeeds; fails at the deadline.
poll() {
  local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000)); shift
  until "$@"; do
    [ "${EPOCHREALTIME/./}" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# since MICROSECONDS: the time that has gone by, as 12.3 s.
since() { local took=$(((${EPOCHREALTIME/./} - $1) / 100000)); echo "$((took / 10)).$((took % 10)) s"; }

# step NAME TITLE: tells how long the step before took.
step() {
  step_ends
  steps=$((steps + 1))
  current=$1
  step_began=${EPOCHREALTIME/./}
  printf '\n%s%s. %s%s\n' "$bold" "$1" "$2" "$plain"
}
step_ends() {
  [ -z "$step_began" ] || printf '%s  (step %s: %s)%s\n' "$dim" "$current" "$(since "$step_began")" "$plain"
  step_began=
}
part() { step_ends; printf '\n%s=== %s%s\n' "$bold" "$1" "$plain"; }
say() { printf '%s\n' "$*"; }
show_command() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }
indented() { sed 's/^/    /'; }

# show COMMAND...: prints it, runs it, prints what it says.
show() {
  show_command "$@"
  "$@" >"$work/out" 2>&1 </dev/null || { indented <"$work/out"; fail "$1 failed"; }
  indented <"$work/out"
}

# show_sql SQL: prints it, runs it, prints what psql prints.
show_sql() {
  printf '%s%s%s\n' "$dim" "$(sed 's/^/  > /' <<<"$1")" "$plain"
  psql -X -q -v ON_ERROR_STOP=1 "$TIDE_PG_URL" <<<"$1" >"$work/out" 2>&1 ||
    { indented <"$work/out"; fail "psql refused that"; }
  indented <"$work/out"
}
# value SQL: the bare result, columns separated by |
value() { psql -X -q -At -v ON_ERROR_STOP=1 -c "$1" "$TIDE_PG_URL"; }

# expect WHAT WANTED GOT
expect() {
  [ "$2" = "$3" ] || fail "$1:
wanted:
$(indented <<<"$2")
got:
$(indented <<<"$3")"
  printf '  ok: %s\n' "$1"
}
# expect_sql WHAT WANTED SQL: shows the query's result and compares it.
expect_sql() { show_sql "$3"; expect "$1" "$2" "$(value "$3")"; }

gives() { [ "$(value "$2" 2>/dev/null)" = "$1" ]; }
# await_sql SECONDS WHAT WANTED SQL: until the query gives it, then as expect_sql.
await_sql() {
  poll "$1" gives "$3" "$4" || fail "$2: not within $1 s
wanted:
$(indented <<<"$3")
got:
$(value "$4" 2>&1 | indented)"
  expect_sql "$2" "$3" "$4"
}

nats_pub() { show nats pub payments.confirmed "$1"; }

# consume COUNT OPTIONS...: what kafka-console-consumer prints.
consume() {
  local count=$1; shift
  kafka-console-consumer --bootstrap-server "$TIDE_KAFKA" --topic order-events --from-beginning \
    --max-messages "$count" --timeout-ms 15000 "$@" 2>"$work/consumer.err" || true
}
# The number of messages in the topic. Its end offset is higher: the marker that shuts an earlier owner out takes one.
kafka_count() {
  kafka-console-consumer --bootstrap-server "$TIDE_KAFKA" --topic order-events --from-beginning --timeout-ms 4000 \
    2>"$work/consumer.err" | wc -l
}

the_end() {
  step_ends
  printf '\n%sdemo: %d steps in %s, all as the tutorial says%s\n' "$bold" "$steps" "$(since "$began")" "$plain"
}
