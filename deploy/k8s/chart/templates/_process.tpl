{{/*
How a process is told what it is: the only place that knows the programs' settings, ports and endpoints, besides
_config.tpl and tls-job.yaml.
*/}}

{{- define "kalamdb.port.http" }}8080{{ end }}
{{- define "kalamdb.port.grpc" }}8081{{ end }}
{{- define "kalamdb.port.ops" }}8082{{ end }}
{{- define "kalamdb.port.rpc" }}9090{{ end }}
{{- define "kalamdb.port.raft" }}9091{{ end }}

{{/* The container's fields of a role: dict root, role, values. */}}
{{- define "kalamdb.process" -}}
image: {{ include "kalamdb.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [/usr/local/bin/kalamdb-{{ .role }}]
env:
  {{- include "kalamdb.env" . | nindent 2 }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: ops, containerPort: {{ include "kalamdb.port.ops" .root }}}
  {{- if ne .role "gateway" }}
  - {name: rpc, containerPort: {{ include "kalamdb.port.rpc" .root }}}
  {{- end }}
  {{- if eq .role "storage" }}
  - {name: raft, containerPort: {{ include "kalamdb.port.raft" .root }}}
  {{- else if eq .role "gateway" }}
  - {name: http, containerPort: {{ include "kalamdb.port.http" .root }}}
  - {name: grpc, containerPort: {{ include "kalamdb.port.grpc" .root }}}
  {{- end }}
# Alive: the process answers. Ready: it can do its work now. SIGTERM is all that a stop takes: the process stops being
# ready, a gateway serves on for server.drain_delay, and leadership and clients are handed over (no preStop is needed).
startupProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
resources:
  {{- toYaml .values.resources | nindent 2 }}
securityContext:
  {{- include "kalamdb.containerSecurity" .root | nindent 2 }}
{{- end }}

{{- define "kalamdb.env" -}}
- {name: KALAMDB_CONFIG, value: /etc/kalamdb/server.toml}
# The time before it is killed, less the drain delay and a margin.
- {name: KALAMDB_SERVER_SHUTDOWN_TIMEOUT, value: {{ sub .values.terminationGracePeriodSeconds 10 }}s}
# The address that others are told, of roles that have no name of their own.
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
# Kubernetes 1.35 and newer copy the node's zone to the pod; before that it is empty, which means unknown.
- name: KALAMDB_CLUSTER_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- if eq .role "storage" }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: KALAMDB_CLUSTER_NODE_ID
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
{{- $self := printf "$(POD_NAME).%s-storage.%s.svc.%s" (include "kalamdb.name" .root) .root.Release.Namespace .root.Values.clusterDomain }}
- {name: KALAMDB_CLUSTER_ADVERTISE_ADDR, value: "{{ $self }}:{{ include "kalamdb.port.rpc" .root }}"}
- {name: KALAMDB_CLUSTER_RAFT_ADVERTISE_ADDR, value: "{{ $self }}:{{ include "kalamdb.port.raft" .root }}"}
- {name: KALAMDB_DATA_DIR, value: /data}
# A Secret from before there was a master key has none: then nothing can be sealed.
- name: KALAMDB_MASTER_KEY
  valueFrom: {secretKeyRef: {name: {{ include "kalamdb.authSecret" .root }}, key: master-key, optional: true}}
{{- end }}
{{- if eq .role "gateway" }}
- {name: KALAMDB_CLUSTER_API_ADDR, value: "http://$(POD_IP):{{ include "kalamdb.port.http" .root }}"}
- name: KALAMDB_JWT_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "kalamdb.authSecret" .root }}, key: jwt-secret}}
- name: KALAMDB_ROOT_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "kalamdb.authSecret" .root }}, key: root-password}}
{{- end }}
{{- end }}

{{- define "kalamdb.certsCommand" -}}
[/usr/local/bin/kalamdb-certs, --dir=/certs, --cluster={{ .Values.clusterName }}, --valid={{ .Values.tls.job.valid }}]
{{- end }}
