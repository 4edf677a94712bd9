{{/* What the pods of all roles have in common: dict root, role, values (the role's section). */}}

{{- define "kalamdb.podMeta" -}}
labels:
  {{- include "kalamdb.labels" . | nindent 2 }}
annotations:
  checksum/config: {{ include "kalamdb.config" .root | sha256sum }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "kalamdb.podSpec" -}}
serviceAccountName: {{ include "kalamdb.name" .root }}-{{ .role }}
automountServiceAccountToken: false
# Variables such as KALAMDB_PORT, made for Services, would be mistaken for settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- include "kalamdb.placement" . }}
{{- end }}

{{- define "kalamdb.placement" }}
affinity:
  podAntiAffinity:
    {{- if eq .values.antiAffinity "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "kalamdb.selector" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "kalamdb.selector" . | nindent 14 }}
    {{- end }}
topologySpreadConstraints:
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "kalamdb.selector" . | nindent 8 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "kalamdb.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "kalamdb.mounts" -}}
- {name: config, mountPath: /etc/kalamdb, readOnly: true}
- {name: tls, mountPath: /certs, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{/* Volumes. The certificate's files have the same names wherever they come from. */}}
{{- define "kalamdb.volumes" -}}
- name: config
  configMap: {name: {{ include "kalamdb.name" .root }}-config}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: tls
  secret:
    defaultMode: 0400
    {{- if eq .root.Values.tls.mode "job" }}
    secretName: {{ include "kalamdb.jobSecret" .root }}
    items:
      - {key: ca.crt, path: ca.crt}
      - {key: {{ .role }}.crt, path: {{ .role }}.crt}
      - {key: {{ .role }}.key, path: {{ .role }}.key}
    {{- else }}
    {{- $prefix := printf "%s-" (include "kalamdb.name" .root) }}
    secretName: {{ ternary (printf "%s%s" .root.Values.tls.existingSecretPrefix .role) (printf "%s%s-tls" $prefix .role) (eq .root.Values.tls.mode "existing") }}
    items:
      - {key: ca.crt, path: ca.crt}
      - {key: tls.crt, path: {{ .role }}.crt}
      - {key: tls.key, path: {{ .role }}.key}
    {{- end }}
{{- end }}
