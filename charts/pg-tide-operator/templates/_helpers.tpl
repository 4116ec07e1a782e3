{{- define "pg-tide-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "pg-tide-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "pg-tide-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pg-tide-operator.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "pg-tide-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pg-tide-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pg-tide-operator.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "pg-tide-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pg-tide
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* labels: [context, further labels...]; what the chart selects by cannot be overridden. */}}
{{- define "pg-tide-operator.labels" -}}
{{- $context := first . }}
{{- $labels := include "pg-tide-operator.ownLabels" $context | fromYaml }}
{{- range concat (rest .) (list $context.Values.commonLabels) }}
{{- $labels = merge $labels . }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{- define "pg-tide-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "pg-tide-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* reference: [repository, tag, digest] */}}
{{- define "pg-tide-operator.reference" -}}
{{- $repository := index . 0 }}{{ $tag := index . 1 }}{{ $digest := index . 2 }}
{{- if $digest }}{{ printf "%s@%s" $repository $digest }}{{ else }}{{ printf "%s:%s" $repository $tag }}{{ end }}
{{- end }}

{{- define "pg-tide-operator.image" -}}
{{- with .Values.image }}
{{- include "pg-tide-operator.reference" (list .repository (.tag | default $.Chart.AppVersion) .digest) }}
{{- end }}
{{- end }}

{{- /* The relays': the operator's, except for what is said otherwise. The digest of one repository is not another's. */}}
{{- define "pg-tide-operator.relayImage" -}}
{{- $own := .Values.image }}
{{- with .Values.relay.image }}
{{- $digest := .digest }}
{{- if not (or .repository .tag .digest) }}{{ $digest = $own.digest }}{{ end }}
{{- $tag := .tag | default $own.tag | default $.Chart.AppVersion }}
{{- include "pg-tide-operator.reference" (list (.repository | default $own.repository) $tag $digest) }}
{{- end }}
{{- end }}
