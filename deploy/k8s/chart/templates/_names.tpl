{{/* Names and labels. Objects of a role are named <release>-<role>; the release "kalamdb" gives kalamdb-storage. */}}

{{- define "kalamdb.name" -}}
{{- if contains "kalamdb" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-kalamdb" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* Labels by which pods of a role are found: dict root, role. They never change. */}}
{{- define "kalamdb.selector" -}}
app.kubernetes.io/name: kalamdb
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "kalamdb.labels" -}}
{{ include "kalamdb.selector" . }}
app.kubernetes.io/part-of: kalamdb
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kalamdb.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The Secret with jwt-secret, master-key and root-password. */}}
{{- define "kalamdb.authSecret" -}}
{{ .Values.auth.existingSecret | default (printf "%s-auth" (include "kalamdb.name" .)) }}
{{- end }}

{{/* The Secret that the certificate Job makes. */}}
{{- define "kalamdb.jobSecret" -}}
{{ include "kalamdb.name" . }}-certs
{{- end }}
