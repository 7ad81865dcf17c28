{{- define "nodens.labels" -}}
app.kubernetes.io/name: nodens
app.kubernetes.io/component: node-local-dns
{{- end }}

{{- define "nodens.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{/* Whole bytes of "32MiB", "512KiB", "1GiB" or a bare number. */}}
{{- define "nodens.bytes" -}}
{{- $text := toString . -}}
{{- if hasSuffix "KiB" $text -}}{{ mul (trimSuffix "KiB" $text | int64) 1024 }}
{{- else if hasSuffix "MiB" $text -}}{{ mul (trimSuffix "MiB" $text | int64) 1048576 }}
{{- else if hasSuffix "GiB" $text -}}{{ mul (trimSuffix "GiB" $text | int64) 1073741824 }}
{{- else -}}{{ trimSuffix "B" $text | int64 }}
{{- end -}}
{{- end }}

{{/* "host:port", with brackets round an IPv6 host. */}}
{{- define "nodens.hostport" -}}
{{- if contains ":" .host -}}[{{ .host }}]:{{ .port }}{{- else -}}{{ .host }}:{{ .port }}{{- end -}}
{{- end }}

{{/* The effective configuration: computed from the simple values, `config` laid over it. */}}
{{- define "nodens.config" -}}
{{- $cluster := list -}}
{{- range list .Values.clusterDomain "in-addr.arpa" "ip6.arpa" -}}
{{- $cluster = append $cluster (dict
      "name" .
      "forward" (dict "to" $.Values.upstream.clusterIPs "transport" "tcp")
      "cache" (dict "max_ttl" "30s" "negative_max_ttl" "5s")) -}}
{{- end -}}
{{- $world := dict "name" "." "forward" (dict "to" (list "/etc/resolv.conf") "transport" "auto") -}}
{{- $any := "0.0.0.0" -}}
{{- range concat .Values.local .Values.kubeDnsServiceIPs -}}
{{- if contains ":" . -}}{{- $any = "::" -}}{{- end -}}
{{- end -}}
{{- $computed := dict
      "listen" (dict "addresses" (concat .Values.local .Values.kubeDnsServiceIPs))
      "zones" (append (concat $cluster .Values.extraZones) $world)
      "observe" (dict
        "metrics" (include "nodens.hostport" (dict "host" $any "port" 9253))
        "health" (include "nodens.hostport" (dict "host" (first .Values.local) "port" 8080))) -}}
{{- toYaml (mergeOverwrite $computed (deepCopy .Values.config)) -}}
{{- end }}

{{/*
The memory limit, in MiB: the three shared caches, then for each UDP socket (addresses x workers) its near table and its
receive buffer, which the kernel doubles and charges to the pod, then 64 MiB for the program, TCP connections and lookups
in flight at their limits. `workers: auto` is counted as 4.
*/}}
{{- define "nodens.memory" -}}
{{- $c := include "nodens.config" . | fromYaml -}}
{{- $workers := $c.listen.workers | default 1 -}}
{{- if eq (toString $workers) "auto" -}}{{- $workers = 4 -}}{{- end -}}
{{- $sockets := mul (len $c.listen.addresses) ($workers | int64) -}}
{{- $shared := add (include "nodens.bytes" ($c.cache.size | default "32MiB") | int64)
      (include "nodens.bytes" ($c.cache.negative_size | default "8MiB") | int64)
      (include "nodens.bytes" ($c.cache.failure_size | default "1MiB") | int64) -}}
{{- $each := add (include "nodens.bytes" ($c.cache.near_size | default "12MiB") | int64)
      (mul 2 (include "nodens.bytes" ($c.listen.receive_buffer | default "8MiB") | int64)) -}}
{{- div (add $shared (mul $sockets $each) 1048575) 1048576 | add 64 -}}Mi
{{- end }}

{{/* Drain time plus ten seconds: the interface and rules are removed after the drain. */}}
{{- define "nodens.grace" -}}
{{- $drain := .Values.config.listen.drain | default "5s" -}}
{{- add (trimSuffix "s" $drain | int64) 10 -}}
{{- end }}
