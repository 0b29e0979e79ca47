{{- define "countersign.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects pods of one part: never changes in the life of a release. Takes (dict "root" $ "part" "front"). */}}
{{- define "countersign.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "countersign.labels" -}}
{{ include "countersign.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "countersign.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "countersign.account" -}}
{{- $own := (index .root.Values .part).serviceAccount.name -}}
{{- default (printf "%s-%s" (include "countersign.name" .root) .part) $own -}}
{{- end -}}

{{- define "countersign.stateAddress" -}}
{{- printf "http://%s-state:%d" (include "countersign.name" .) (int .Values.state.port) -}}
{{- end -}}

{{- define "countersign.artifactsClaim" -}}
{{- default (printf "%s-artifacts" (include "countersign.name" .)) .Values.artifacts.volume.existingClaim -}}
{{- end -}}
