{{/* Of routes.toml, as the templates need it, in JSON: read once, so that no number stands in two places. */}}
{{- define "kferry.file" -}}
{{- if not .Values.routes }}{{ fail "no routes.toml: helm … --set-file routes=routes.toml" }}{{ end }}
{{- $file := fromToml .Values.routes }}
{{- with $file.Error }}{{ fail (printf "routes.toml: %s" .) }}{{ end }}
{{- $admin := default dict $file.admin }}
{{- $limits := default dict $file.limits }}
{{- $relayed := dict }}
{{- range $file.routes }}
{{- if eq (default "bootstrap" .mode) "relay" }}
{{- $_ := set $relayed .cluster true }}
{{- range $cluster, $_ := .credentials }}{{ $_ := set $relayed $cluster true }}{{ end }}
{{- end }}
{{- end }}
{{- $listeners := list }}
{{- range $index, $listener := $file.listeners }}
{{- $bind := required (printf "routes.toml: listener %q has no bind" .name) .bind }}
{{- if hasPrefix "127." $bind }}{{ fail (printf "routes.toml: listener %q is bound to %s, where no other pod can reach it: write bind = \"0.0.0.0:%s\"" .name $bind (splitList ":" $bind | last)) }}{{ end }}
{{- $offset := int (default 0 .broker_port_offset) }}
{{- $told := int (hasKey . "advertised_port_offset" | ternary .advertised_port_offset $offset) }}
{{- $blocks := list }}
{{- range $name, $cluster := $file.clusters }}
{{- if and (hasKey $relayed $name) .broker_ports }}
{{- $ends := splitList "-" (toString .broker_ports) }}
{{- $first := first $ends | trim | int }}
{{- $last := last $ends | trim | int }}
{{- $block := dict "cluster" $name "id" (int .id) "nodes" (toString .node_ids) "count" (sub (add $last 1) $first) }}
{{- $_ := set $block "first" (add $first $offset) }}
{{- $_ := set $block "last" (add $last $offset) }}
{{- $_ := set $block "told" (add $first $told) }}
{{- $blocks = append $blocks $block }}
{{- end }}
{{- end }}
{{- $listeners = append $listeners (dict "name" .name "slug" (regexReplaceAll "[^a-z0-9]+" (lower .name) "-" | trunc 25 | trimAll "-") "portName" (printf "listener-%d" $index) "port" (splitList ":" $bind | last | int) "blocks" $blocks "host" (default "" .advertised_host)) }}
{{- end }}
{{- $out := dict "listeners" $listeners "mirrors" (len (default list $file.mirrors)) }}
{{- range $name, $_ := .Values.proxy.services }}
{{- $known := false }}
{{- range $listeners }}{{ if eq .name $name }}{{ $known = true }}{{ end }}{{ end }}
{{- if not $known }}{{ fail (printf "proxy.services has %q, and routes.toml no listener of that name" $name) }}{{ end }}
{{- end }}
{{- $_ := set $out "proxyAdmin" (default "127.0.0.1:9190" $admin.bind) }}
{{- $_ := set $out "mirrorAdmin" (default "127.0.0.1:9191" $admin.mirror_bind) }}
{{- $_ := set $out "drainSeconds" (div (add (int (default 30000 $limits.drain_timeout_ms)) 999) 1000) }}
{{- /* What a pod must be restarted for, ports, what clients are told of them, and live moves: all else is taken while it runs. */}}
{{- $_ := set $out "bound" (sha256sum (toJson (list $listeners $admin.bind $file.state $file.moves))) }}
{{- toJson $out }}
{{- end }}

{{- define "kferry.adminPort" -}}
{{- if hasPrefix "127." .bind }}{{ fail (printf "routes.toml: [admin] %s is %s, where neither probes nor Prometheus reach it: write %s = \"0.0.0.0:%s\"" .key .bind .key (splitList ":" .bind | last)) }}{{ end }}
{{- splitList ":" .bind | last }}
{{- end }}

{{- define "kferry.fullname" -}}
{{- if contains "kferry" .Release.Name }}{{ .Release.Name | trunc 30 | trimSuffix "-" }}{{ else }}{{ printf "%s-kferry" (.Release.Name | trunc 23 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "kferry.labels" -}}
app.kubernetes.io/name: kferry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "kferry.proxySelector" -}}
app.kubernetes.io/name: kferry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: proxy
{{- end }}

{{- define "kferry.mirrorSelector" -}}
app.kubernetes.io/name: kferry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: mirror
{{- end }}

{{/* What is the same in every pod. */}}
{{- define "kferry.pod" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: routes
    configMap:
      name: {{ include "kferry.fullname" . }}
  {{- range .Values.secrets }}
  - name: {{ printf "secret-%s" . | trunc 63 }}
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
{{- end }}

{{/* And in every container. */}}
{{- define "kferry.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  # The folder, not the file: a file that is mounted by itself stays the old one after an edit.
  - name: routes
    mountPath: /etc/kferry
    readOnly: true
  {{- range .Values.secrets }}
  - name: {{ printf "secret-%s" . | trunc 63 }}
    mountPath: /run/kferry/{{ . }}
    readOnly: true
  {{- end }}
{{- end }}
