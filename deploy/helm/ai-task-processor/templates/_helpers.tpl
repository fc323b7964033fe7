{{- define "atp.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name)) -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- /* The name label is the job of the rules and dashboards: it never changes. */ -}}
{{- define "atp.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "atp.labels" -}}
{{ include "atp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "atp.metadata" -}}
name: {{ include "atp.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "atp.labels" . | nindent 2 }}
{{- end }}

{{- define "atp.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "atp.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "atp.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "atp.secretName" -}}
{{ .Values.secret.existingSecret | default (include "atp.fullname" .) }}
{{- end }}

{{- define "atp.hasSecret" -}}
{{- with .Values.secret }}{{ if or .values .keys .existingSecret }}true{{ end }}{{ end -}}
{{- end }}

{{- /* The key of a setting in the Secret that the chart makes. */ -}}
{{- define "atp.secretKey" -}}
{{ . | lower | replace "_" "-" }}
{{- end }}

{{- /* Helm reads numbers as floats: 1073741824 must not become 1.073741824e+09. */ -}}
{{- define "atp.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- define "atp.settings" -}}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "atp.text" $value | quote }}
{{- end }}
{{- end }}

{{- /* SHUTDOWN_GRACE_SECONDS, a second to leave by force, and a reserve. */ -}}
{{- define "atp.gracePeriod" -}}
{{ add 5 (.Values.settings.SHUTDOWN_GRACE_SECONDS | default 25 | float64 | ceil) }}
{{- end }}
