# How things are installed into the cache: sourced by e2e/setup and e2e/cluster/build, after paths.bash.
mkdir -p "$cache/bin" "$cache/log"

# run_logged NAME COMMAND...: the output goes to a log, of which only a failure shows the end.
run_logged() {
  local log=$cache/log/$1.log; shift
  "$@" >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; die "failed: $* (log: $log)"; }
}

# install NAME TARGET FUNCTION: runs FUNCTION on a new folder beside TARGET, which becomes TARGET when all went well:
# a half-finished install is never taken for a whole one.
install() {
  local name=$1 target=$2 build=$3 fresh
  [ ! -d "$target" ] || return 0
  echo "setup: installing $name into $target" >&2
  mkdir -p "${target%/*}"
  rm -rf "$target".new.*                      # what an interrupted run left
  fresh=$(mktemp -d "$target.new.XXXXXX")
  chmod 755 "$fresh"
  "$build" "$fresh"
  # Another cache's setup may have been faster where the target is shared between caches.
  mv -T "$fresh" "$target" 2>/dev/null || { rm -rf "$fresh"; [ -d "$target" ] || die "cannot create $target"; }
}

needs() { command -v "$1" >/dev/null || die "$1 is missing: it is needed to install $2"; }

# go_install FOLDER PACKAGE VERSION: outside of any module, so that no go.mod nearby has a say.
go_install() {
  (cd / && run_logged "${2##*/}" env GOBIN="$1" CGO_ENABLED=0 GOFLAGS=-trimpath go install -ldflags "-s -w" "$2@v$3")
}
build_helm() { needs go helm; go_install "$1" helm.sh/helm/v3/cmd/helm "$HELM_VERSION"; }

# link TARGET NAME
link() { [ "$(readlink "$2")" = "$1" ] || ln -sfn "$1" "$2"; }

# install_packages PACKAGE...: Debian's, those that are missing.
install_packages() {
  local package missing=()
  for package; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "Debian packages are missing, and only root can install them: ${missing[*]}"
  echo "setup: installing Debian packages ${missing[*]}" >&2
  run_logged apt-update apt-get update -qq
  without_services run_logged apt-install env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
}

# without_services COMMAND...: services that come with packages are not started meanwhile. A machine's own policy stays.
without_services() (
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  "$@"
)
