# A cluster of kind's, in Docker, as the place of the demo: sourced by e2e/demo/kubernetes. PostgreSQL, Kafka and NATS
# run on this machine and listen on the address that it has in Docker's network, where pods reach it.
place_name="a cluster made by kind, in Docker"
place_pull_policy=IfNotPresent

place_missing() {
  [ "$(uname -s)" = Linux ] || echo "Linux, for the servers beside it: this is $(uname -s)"
  docker info >/dev/null 2>&1 || echo "Docker: 'docker info' fails"
  command -v kind >/dev/null || echo "the program kind"
  command -v kubectl >/dev/null || echo "the program kubectl"
}

place_up() {
  kind_cluster=pg-tide-demo-$$
  export KUBECONFIG=$kept.kubeconfig PATH=$cache/bin:$PATH
  kind create cluster --name "$kind_cluster" --kubeconfig "$KUBECONFIG" --wait 180s
  host_ip=$(docker network inspect kind --format '{{range .IPAM.Config}}{{println .Gateway}}{{end}}' | grep -m 1 '^[0-9.]\+$') ||
    fail "Docker's network kind has no IPv4 gateway"
}
place_load() { kind load image-archive "$1" --name "$kind_cluster"; }
place_down() { kind delete cluster --name "$kind_cluster" --kubeconfig "$kept.kubeconfig"; rm -f "$kept.kubeconfig"; }
place_left() { ! kind get clusters 2>/dev/null | grep -Fx "$kind_cluster" || true; }
