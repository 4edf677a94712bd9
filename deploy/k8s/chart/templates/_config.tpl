{{/* server.toml: what the chart decides over what values.config says. */}}
{{- define "kalamdb.config" -}}
{{- $cluster := dict "name" .Values.clusterName
      "join" (include "kalamdb.join" . | fromJsonArray)
      "bootstrap_expect" .Values.storage.bootstrapExpect
      "replication_factor" .Values.storage.replicationFactor }}
{{- $chart := dict "cluster" $cluster "storage" (dict "shards" .Values.storage.shards) }}
{{- include "kalamdb.toml" (dict "table" (mergeOverwrite (deepCopy .Values.config) $chart) "name" "") }}
{{- end }}

{{/* The storage nodes that everybody asks first. They are the ones that scaling down takes away last. */}}
{{- define "kalamdb.join" -}}
{{- $name := printf "%s-storage" (include "kalamdb.name" .) }}
{{- $list := list }}
{{- range $id := untilStep 1 (int (add1 .Values.storage.bootstrapExpect)) 1 }}
{{- $list = append $list (printf "%s-%d.%s.%s.svc.%s:%s" $name $id $name $.Release.Namespace $.Values.clusterDomain (include "kalamdb.port.rpc" $)) }}
{{- end }}
{{- toJson $list }}
{{- end }}

{{/*
A table as TOML: dict table, name. (Helm's toToml writes whole numbers as 8.0.) JSON's texts, numbers and lists
are TOML's too.
*/}}
{{- define "kalamdb.toml" }}
{{- $name := .name }}
{{- range $key, $value := .table }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $full := ternary $key (printf "%s.%s" $name $key) (eq $name "") }}

[{{ $full }}]
{{- include "kalamdb.toml" (dict "table" $value "name" $full) }}
{{- end }}
{{- end }}
{{- end }}
