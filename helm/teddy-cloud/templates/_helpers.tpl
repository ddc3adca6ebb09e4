{{/* Labels of everything that the chart makes. Usage: include "teddy-cloud.labels" (list . "network") */}}
{{- define "teddy-cloud.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: teddy-cloud
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "teddy-cloud.priorityClass" -}}
{{- .Values.priorityClass.name | default (printf "teddy-cloud-%s" .Release.Namespace) -}}
{{- end }}

{{/*
The settings that the command reads, as JSON: the values of the same names, and what follows from the rest of the values.
A run with a queue takes Kueue's kind of priority, so that the chart's PriorityClass is a default only without one.
*/}}
{{- define "teddy-cloud.settings" -}}
{{- $job := deepCopy .Values.job -}}
{{- if and (not $job.queue) .Values.kueue.localQueue.create -}}
{{- $_ := set $job "queue" .Values.kueue.localQueue.name -}}
{{- end -}}
{{- if and (not $job.priority) (not $job.queue) .Values.priorityClass.create -}}
{{- $_ := set $job "priority" (include "teddy-cloud.priorityClass" .) -}}
{{- end -}}
{{- $settings := pick .Values "store" "image" "imagePullPolicy" "imagePullSecrets" "spec" "head" "worker" "prices" -}}
{{- $_ := set $settings "job" $job -}}
{{- $_ := set $settings "serviceAccount" .Values.serviceAccount.name -}}
{{- toPrettyJson $settings -}}
{{- end }}

{{/* Which pods the network policies are about: those of runs, and the chart's own test. */}}
{{- define "teddy-cloud.pods" -}}
matchExpressions:
  - {key: teddy-cloud/role, operator: Exists}
{{- end }}

{{/* Pods that Ray runs on. */}}
{{- define "teddy-cloud.rayPods" -}}
matchExpressions:
  - {key: teddy-cloud/role, operator: In, values: [head, worker]}
{{- end }}

{{/* The port at which the store listens, where the values do not say: the endpoint's, else its scheme's, else 443. */}}
{{- define "teddy-cloud.storePort" -}}
{{- $url := urlParse (.Values.store.endpoint | default "https://s3.amazonaws.com") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end }}

{{/* Who may submit. */}}
{{- define "teddy-cloud.subjects" -}}
{{- range .Values.users.users }}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: {{ . | quote }}}
{{- end }}
{{- range .Values.users.groups }}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: {{ . | quote }}}
{{- end }}
{{- range .Values.users.serviceAccounts }}
- {kind: ServiceAccount, name: {{ .name | quote }}, namespace: {{ .namespace | quote }}}
{{- end }}
{{- end }}
