# The project's own cluster (e2e/cluster), as the place of the demo: sourced by e2e/demo/kubernetes. It belongs to the
# demo's process and goes with it, or, with KEEP=1, to this checkout. One that was there before stays.
place_name="a cluster of its own, on this machine without Docker"
place_pull_policy=Never                       # loaded into the node, to be had nowhere else

place_missing() { "$here/cluster/able" 2>&1 | sed 's/^the cluster needs //' || true; }

# of_the_record COMMAND...: on the record of the cluster that there is; fails when there is none.
of_the_record() (
  . "$here/cluster/paths.bash"; . "$here/lib/process.bash"; . "$here/cluster/owner.bash"
  read_record && [ -e "$owner_run/cluster" ] || exit 1
  "$@"
)
started_by_hand_or_others() { in_others_use || { [ "$owner_pid" = 0 ] && [ "$owner_checkout" = "$checkout" ]; }; }
belongs_to() { [ "$owner_pid" = "$1" ]; }

place_up() {
  local environment
  [ -n "${KEEP:-}" ] || export TIDE_CLUSTER_PID=$$
  ! of_the_record started_by_hand_or_others || stays=yes
  environment=$("$here/cluster/up")
  eval "$environment"
  # What was there was broken, and `up` has made another.
  [ -n "${KEEP:-}" ] || ! of_the_record belongs_to $$ || stays=
  host_ip=$(. "$here/cluster/paths.bash"; echo "$host_ip")
}
place_load() { "$here/cluster/load-image" "$1"; }
place_down() { "$here/cluster/down"; }

# What `down` should have taken away and has not.
place_left() (
  . "$here/cluster/paths.bash"
  [ ! -e "/run/netns/$netns" ] || echo "the network namespace $netns"
  ! ip link show "$host_link" >/dev/null 2>&1 || echo "the network link $host_link"
  awk -v run="$run/" 'index($2, run) == 1 {print "a mount on", $2}' /proc/mounts
  processes_in "$run"
)
