{{- define "agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "agent.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "agent.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "agent.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "agent.selector" -}}
app.kubernetes.io/name: {{ include "agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "agent.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The namespaces that launches run in, as a JSON list. The first one is where they run if their queue names none. */}}
{{- define "agent.namespaces" -}}
{{- default (list .Release.Namespace) .Values.launches.namespaces | uniq | toJson -}}
{{- end -}}

{{/* Where images are built. */}}
{{- define "agent.buildNamespace" -}}
{{- default (include "agent.namespaces" . | fromJsonArray | first) .Values.builds.namespace -}}
{{- end -}}

{{/* The agent's configuration: what the chart knows, under what the values say. */}}
{{- define "agent.config" -}}
{{- $namespaces := include "agent.namespaces" . | fromJsonArray -}}
{{- $kubernetes := dict "namespace" (first $namespaces) "namespaces" (rest $namespaces) "fetch_image" (include "agent.image" .) -}}
{{- $defaults := dict
      "name" (printf "%s/%s" .Release.Namespace (include "agent.fullname" .))
      "resources" (list "kubernetes")
      "listen" "0.0.0.0:9090"
      "leader_election" (dict "lease" (include "agent.fullname" .) "namespace" .Release.Namespace)
      "backends" (dict "kubernetes" $kubernetes) -}}
{{- if .Values.builds.enabled -}}
{{- $_ := set $defaults "builder" (dict "namespace" (include "agent.buildNamespace" .)) -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite $defaults .Values.config) -}}
{{- end -}}
