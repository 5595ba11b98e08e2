{{- define "reconciler.labels" -}}
app.kubernetes.io/name: reconciler
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: reconciler
{{- end }}

{{- define "reconciler.selector" -}}
app.kubernetes.io/name: reconciler
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "reconciler.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "reconciler.servers" -}}
{{- if .Values.agent.servers -}}
{{ join "," .Values.agent.servers }}
{{- else -}}
reconciler-server.{{ .Release.Namespace }}.svc:{{ .Values.server.port }}
{{- end -}}
{{- end }}
