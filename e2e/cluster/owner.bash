# Whose the cluster is. There is one a machine, so its record lies at one place, and every command that changes the
# cluster holds the lock on it. Sourced, after paths.bash.
#
# A cluster belongs to a checkout, until it is taken down; or, by TIDE_CLUSTER_PID, to one process of it (a run of the
# tests), until that has ended.
record=/run/lock/pg-tide-cluster
checkout=$(dirname "$here")

lock_record() {
  mkdir -p "${record%/*}"
  exec {record_fd}>>"$record"
  flock "$record_fd"
}
unlock_record() { exec {record_fd}>&-; }

# Sets owner_run, owner_checkout, owner_pid, owner_started, owner_since. Fails when there is no cluster.
read_record() { IFS=$'\t' read -r owner_run owner_checkout owner_pid owner_started owner_since 2>/dev/null <"$record"; }

write_record() {
  local pid=${TIDE_CLUSTER_PID:-0} started=0
  [ "$pid" = 0 ] || started=$(start_time "$pid") || die "TIDE_CLUSTER_PID=$pid: there is no such process"
  printf '%s\t%s\t%s\t%s\t%s\n' "$run" "$checkout" "$pid" "$started" "$(date +%H:%M)" >"$record"
}
clear_record() { : >"$record"; }

# Where the cluster that there is keeps its state, whatever TIDE_CLUSTER_DIR says now.
follow_record() {
  ! read_record || [ "$owner_run" = "$run" ] || { run=$owner_run state=$run kubeconfig=$run/admin.kubeconfig; }
}

# Somebody else is using it: not this checkout, and not a process that has ended.
in_others_use() {
  read_record || return 1
  [ -d "$owner_checkout" ] || return 1
  [ "$owner_pid" = 0 ] || runs "$owner_pid" "$owner_started" || return 1
  [ "$owner_pid" != "${TIDE_CLUSTER_PID:-0}" ] || [ "$owner_pid" = 0 ] || return 1
  # Started by hand in this checkout: for all that runs in it.
  [ "$owner_pid" != 0 ] || [ "$owner_checkout" != "$checkout" ] || return 1
}

owner_in_words() {
  echo "$owner_checkout, since $owner_since$([ "$owner_pid" = 0 ] || echo " (process $owner_pid: $({ tr '\0' ' ' <"/proc/$owner_pid/cmdline"; } 2>/dev/null | cut -c 1-60))")"
}
