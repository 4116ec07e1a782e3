# The processes of a bed or of the cluster: started detached, known by pid and start time, stopped only by these. Needs
# $state, and $owner for messages.
# Every server has a folder $state/SERVER with its `pid` (pid and start time) and its `log`.
poll_interval=0.05

# poll SECONDS COMMAND...: repeats the command until it succeeds; fails at the deadline.
poll() {
  local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000)); shift
  until "$@"; do
    [ "${EPOCHREALTIME/./}" -lt "$deadline" ] || return 1
    sleep "$poll_interval"
  done
}

# start_time PID: the kernel's start time of a process. With it a pid that the kernel gave away again is not mistaken
# for a server. A zombie counts as gone.
start_time() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  set -- ${stat##*) }                         # the name in brackets may hold blanks
  case $1 in Z | X) return 1 ;; esac
  echo "${20}"
}

# runs PID STARTTIME
runs() { [ -n "$2" ] && [ "$(start_time "$1")" = "$2" ]; }

# main_process SERVER: prints pid and start time of a running server.
main_process() {
  local pid started
  { read -r pid started <"$state/$1/pid"; } 2>/dev/null && runs "$pid" "$started" && echo "$pid $started"
}
alive() { main_process "$1" >/dev/null; }

# launch SERVER COMMAND...: starts it in a session of its own, holding nothing of the caller's: neither its terminal
# nor its pipes nor its locks.
launch() {
  local server=$1 fd self; shift
  rm -f "$state/$server/pid"
  (
    exec </dev/null >>"$state/$server/log" 2>&1
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      [ "$fd" -le 2 ] || eval "exec $fd>&-"
    done
    cd "$state/$server" || exit
    # The pid stays the same through exec. It is on disk before there is a server that could be lost.
    self=$BASHPID                             # inside $( ) it would be another
    echo "$self $(start_time "$self")" >pid.new
    mv pid.new pid
    # A shell without job control has its background jobs ignore these two signals.
    exec env --default-signal=INT,QUIT setsid "$@"
  ) &
  poll 10 test -e "$state/$server/pid" || complain "$server" "cannot be launched"
}

# processes SERVER: pid and start time of all that belongs to it, a line each. A server that has more than the main
# process defines SERVER_children.
processes() {
  main_process "$1" || true
  if declare -F "$1_children" >/dev/null; then "$1_children"; fi
}

none_left() {                                 # of the "pid starttime" lines in $1
  local pid started
  while read -r pid started; do ! runs "$pid" "$started" || return 1; done <<<"$1"
}

# kill_server SERVER: SIGKILL to the whole server, and waits until nothing of it is left.
kill_server() {
  local all pid started
  # Stopped first, the main process makes no more children that would be missed.
  if read -r pid started < <(main_process "$1"); then kill -STOP "$pid" 2>/dev/null || true; fi
  all=$(processes "$1")
  while read -r pid started; do
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
  done <<<"$all"
  [ -z "$all" ] || poll 20 none_left "$all" || die "$owner: $1 outlives SIGKILL: $all"
  rm -f "$state/$1/pid"
}

# stop_server SERVER SIGNAL: asks it to end in order, and waits until it has.
stop_server() {
  local pid started
  if read -r pid started < <(main_process "$1"); then
    kill "-$2" "$pid" 2>/dev/null || true
    poll 60 none_left "$pid $started" || complain "$1" "does not end within 60 s of SIG$2" || return 1
  fi
  kill_server "$1"                            # what a crash left behind
}

# complain SERVER MESSAGE: says what failed and shows the end of the server's log.
complain() {
  {
    echo "$owner: $1 $2; the end of its log $state/$1/log:"
    tail -n 25 "$state/$1/log" 2>/dev/null | sed 's/^/  | /'
  } >&2
  return 1
}

# wait_ready SERVER SECONDS: until the server answers, or is dead.
wait_ready() {
  local outcome
  settled() {
    if "$1_ready"; then outcome=ready; elif ! alive "$1"; then outcome=died; else return 1; fi
  }
  poll "$2" settled "$1" || outcome=late
  case $outcome in
    died) complain "$1" "ended while starting" ;;
    late) complain "$1" "does not answer after $2 s" ;;
  esac
}
