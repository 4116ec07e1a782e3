{{- /*
What the operator may do where it serves resources, each rule with its reason. The list for readers is in
docs/guide/install-kubernetes.md; a test compares the two.
*/}}
{{- define "pg-tide-operator.rules" -}}
# What users declare. patch: the finalizer of reclaimPolicy Delete.
- apiGroups: [pgtide.dev]
  resources: [tidedatabases, outboxes, inboxes, pipelines]
  verbs: [get, list, watch, patch]
# What is true: conditions and figures.
- apiGroups: [pgtide.dev]
  resources: [tidedatabases/status, outboxes/status, inboxes/status, pipelines/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion on what is made for a resource need this of the owner.
- apiGroups: [pgtide.dev]
  resources: [tidedatabases/finalizers, outboxes/finalizers, inboxes/finalizers, pipelines/finalizers]
  verbs: [update]
# get: the Secrets that resources name. list, watch: to learn of changes; the operator asks for metadata alone, a
# distinction that RBAC does not know.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# The Secret of each relay Deployment, with what its pipelines need. RBAC cannot limit create to names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch, delete]
# Relays run under a ServiceAccount without rights or token, and their metrics have a Service.
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
# The relays.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# A relay Deployment of several pods keeps all but one when nodes are drained.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Nothing reaches a relay but requests for its metrics.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# What a user should know about a resource; patch: the same once more, counted.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Is a namespace going? Then nothing is made in it. Its UID is the cluster's id when none is given.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- if eq .Values.monitors.relays "pod-monitor" }}
# monitors.relays: a PodMonitor for each relay Deployment.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- end }}
