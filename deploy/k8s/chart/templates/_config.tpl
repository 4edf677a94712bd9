{{/* server.toml: what the chart decides over what values.config says. */}}
{{- define "kalamdb.config" -}}
{{- $cluster := dict "name" .Values.clusterName "certs_dir" "/certs"
      "listen_addr" (printf ":%s" (include "kalamdb.port.rpc" .)) "raft_listen_addr" (printf ":%s" (include "kalamdb.port.raft" .))
      "join" (include "kalamdb.join" . | fromJsonArray)
      "bootstrap_expect" .Values.storage.bootstrapExpect
      "replication_factor" .Values.storage.replicationFactor }}
{{- /* An empty host is every address of the pod, IPv4 and IPv6. */}}
{{- $server := dict "host" "" "port" (int (include "kalamdb.port.http" .)) "grpc_port" (int (include "kalamdb.port.grpc" .))
      "ops_host" "" "ops_port" (int (include "kalamdb.port.ops" .)) "drain_delay" "5s" }}
{{- $chart := dict "server" $server "cluster" $cluster "storage" (dict "shards" .Values.storage.shards) }}
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
