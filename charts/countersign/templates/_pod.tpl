{{/* What every pod has: nothing of the cluster's API, nothing of root. */}}
{{- define "countersign.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- if ne .part "migrations" }}
topologySpreadConstraints: # where there is a choice, one node does not take all of a part with it
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "countersign.selector" . | nindent 8 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index .root.Values .part).nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index .root.Values .part).tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index .root.Values .part).affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "countersign.podMeta" -}}
labels:
  {{- include "countersign.labels" . | nindent 2 }}
  {{- with (index .root.Values .part).podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # New settings are a new pod; they hold no secrets.
  checksum/settings: {{ include (print .root.Template.BasePath "/settings.yaml") .root | sha256sum }}
  {{- with (index .root.Values .part).podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "countersign.container" -}}
image: {{ include "countersign.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the parts find one another and what they share. */}}
{{- define "countersign.env" -}}
{{- $values := .root.Values -}}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- {name: COUNTERSIGN_DATA, value: /var/lib/countersign}
- {name: COUNTERSIGN_HOST, value: {{ $values.listen | quote }}}
- {name: COUNTERSIGN_FRONT_PORT, value: {{ $values.front.port | quote }}}
- {name: COUNTERSIGN_STATE_PORT, value: {{ $values.state.port | quote }}}
- {name: COUNTERSIGN_STATE_ADDRESS, value: {{ include "countersign.stateAddress" .root | quote }}}
- {name: COUNTERSIGN_TEMPORAL_ADDRESS, value: {{ $values.temporal.address | quote }}}
- {name: COUNTERSIGN_TEMPORAL_NAMESPACE, value: {{ $values.temporal.namespace | quote }}}
{{- with $values.publicUrl }}
- {name: COUNTERSIGN_PUBLIC_URL, value: {{ . | quote }}}
{{- end }}
{{- with $values.artifacts.url }}
- {name: COUNTERSIGN_ARTIFACTS, value: {{ . | quote }}}
{{- end }}
{{- with $values.artifacts.endpoint }}
- {name: COUNTERSIGN_ARTIFACTS_ENDPOINT, value: {{ . | quote }}}
{{- end }}
- name: COUNTERSIGN_DATABASE
  valueFrom:
    secretKeyRef: {name: {{ $values.database.existingSecret }}, key: {{ $values.database.key }}}
{{- end -}}

{{- define "countersign.envFrom" -}}
{{- with .root.Values.artifacts.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "countersign.mounts" -}}
- {name: data, mountPath: /var/lib/countersign}
- {name: settings, mountPath: /var/lib/countersign/countersign.toml, subPath: countersign.toml, readOnly: true}
- {name: keys, mountPath: /var/lib/countersign/keys, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if not .root.Values.artifacts.url }}
- {name: artifacts, mountPath: /var/lib/countersign/artifacts}
{{- end }}
{{- end -}}

{{/* All but the data folder, which is a claim for workers and empty for the others. `keys`: the files of the part's role. */}}
{{- define "countersign.volumes" -}}
- name: settings
  configMap: {name: {{ include "countersign.name" .root }}}
- name: keys
  secret:
    secretName: {{ .root.Values.keys.existingSecret }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}.json, path: {{ . }}.json}
      {{- end }}
- name: tmp
  emptyDir: {}
{{- if not .root.Values.artifacts.url }}
- name: artifacts
  persistentVolumeClaim: {claimName: {{ include "countersign.artifactsClaim" .root }}}
{{- end }}
{{- end -}}

{{- define "countersign.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: {{ .ready | quote }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
