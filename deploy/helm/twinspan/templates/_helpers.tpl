{{- define "twinspan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "twinspan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "twinspan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "twinspan.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Both take a dict with `root` and `component`. */ -}}
{{- define "twinspan.selector" -}}
app.kubernetes.io/name: {{ include "twinspan.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "twinspan.labels" -}}
{{ include "twinspan.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: twinspan
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "twinspan.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "twinspan.secret" -}}
{{- default (printf "%s-credentials" (include "twinspan.fullname" .)) .Values.credentials.existingSecret -}}
{{- end -}}

{{- define "twinspan.account" -}}
{{- default "cloudcore" .Values.cloudcore.serviceAccount.name -}}
{{- end -}}

{{- /* The listeners of the Hono- and Ditto-compatible services: name, port, protocol. */ -}}
{{- define "twinspan.ports" -}}
- {name: http-ditto, port: 8080}
- {name: http-registry, port: 28080}
- {name: http-hono, port: 18080}
- {name: https-hono, port: 18443}
- {name: mqtt, port: 1883}
- {name: mqtts, port: 8883}
- {name: amqp, port: 5672}
- {name: amqps, port: 5671}
- {name: coaps, port: 5684, protocol: UDP}
- {name: north-amqp, port: 15672}
- {name: north-amqps, port: 15671}
{{- end -}}

{{- define "twinspan.hubports" -}}
- {name: hub, port: 10000}
- {name: https-join, port: 10002}
- {name: tunnel, port: 10004}
{{- end -}}

{{- define "twinspan.serviceports" -}}
{{- range . }}
- name: {{ .name }}
  port: {{ .port }}
  targetPort: {{ .name }}
  protocol: {{ default "TCP" .protocol }}
{{- end }}
{{- end -}}

{{- /* What both components bind beyond loopback; in a Pod, NetworkPolicies and Services say who gets there. */ -}}
{{- define "twinspan.base" -}}
data_dir: /var/lib/twinspan
credentials_file: /etc/twinspan/credentials/credentials.json
insecure: true
observe:
  http: {bind: "0.0.0.0:8088"}
  logs: {form: json}
{{- end -}}

{{- define "twinspan.open" -}}
ditto:
  http: {bind: "0.0.0.0:8080"}
hono:
  registry: {bind: "0.0.0.0:28080"}
  http: {bind: "0.0.0.0:18080", tls_bind: "0.0.0.0:18443"}
  mqtt: {bind: "0.0.0.0:1883", tls_bind: "0.0.0.0:8883"}
  amqp: {bind: "0.0.0.0:5672", tls_bind: "0.0.0.0:5671"}
  coap: {tls_bind: "0.0.0.0:5684"}
  northbound: {bind: "0.0.0.0:15672", tls_bind: "0.0.0.0:15671"}
{{- if .Values.gateway.tls.existingSecret }}
  tls: {certificate: /etc/twinspan/tls/tls.crt, key: /etc/twinspan/tls/tls.key}
{{- end }}
{{- end -}}

{{- /* The Pod of a component; a dict with `root`, `component`, `values`, `ports`, `args` and `open` (serves devices). */ -}}
{{- define "twinspan.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "twinspan.labels" . | nindent 4 }}
  annotations:
    checksum/settings: {{ .settings | sha256sum }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .component "cloudcore" }}
  serviceAccountName: {{ include "twinspan.account" $root }}
  {{- else }}
  automountServiceAccountToken: false
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: 30
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: {{ .component }}
      image: {{ include "twinspan.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        {{- toYaml .args | nindent 8 }}
      env:
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- with .values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: http-ops, containerPort: 8088, protocol: TCP}
        {{- range .ports }}
        - {name: {{ .name }}, containerPort: {{ .port }}, protocol: {{ default "TCP" .protocol }}}
        {{- end }}
      startupProbe:
        httpGet: {path: /liveness, port: http-ops}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /liveness, port: http-ops}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readiness, port: http-ops}
        periodSeconds: 5
        timeoutSeconds: 5
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: data, mountPath: /var/lib/twinspan}
        - {name: tmp, mountPath: /tmp}
        - {name: settings, mountPath: /etc/twinspan/settings, readOnly: true}
        - {name: credentials, mountPath: /etc/twinspan/credentials, readOnly: true}
        {{- if and .open $root.Values.gateway.tls.existingSecret }}
        - {name: tls, mountPath: /etc/twinspan/tls, readOnly: true}
        {{- end }}
  volumes:
    - name: data
      {{- if .values.persistence.enabled }}
      persistentVolumeClaim:
        claimName: {{ default (printf "%s-%s" (include "twinspan.fullname" $root) .component) .values.persistence.existingClaim }}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
    - name: settings
      configMap: {name: {{ include "twinspan.fullname" $root }}-{{ .component }}}
    - name: credentials
      secret: {secretName: {{ include "twinspan.secret" $root }}, defaultMode: 0440}
    {{- if and .open $root.Values.gateway.tls.existingSecret }}
    - name: tls
      secret: {secretName: {{ $root.Values.gateway.tls.existingSecret }}, defaultMode: 0440}
    {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- with .values.affinity }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    nodeAffinity:  # not on the edge nodes that it serves
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions:
              - {key: node-role.kubernetes.io/edge, operator: DoesNotExist}
    {{- end }}
{{- end -}}

{{- /* ConfigMap, claim and Deployment of a component; the dict of `twinspan.pod`. */ -}}
{{- define "twinspan.component" -}}
{{- $root := .root -}}
{{- $name := printf "%s-%s" (include "twinspan.fullname" $root) .component -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- include "twinspan.labels" . | nindent 4 }}
data:
  settings.yaml: |
    {{- .settings | nindent 4 }}
{{- if and .values.persistence.enabled (not .values.persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name }}
  labels:
    {{- include "twinspan.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with .values.persistence.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ .values.persistence.size }}}
{{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "twinspan.labels" . | nindent 4 }}
spec:
  replicas: 1  # the data directory has one owner
  strategy: {type: Recreate}
  selector:
    matchLabels:
      {{- include "twinspan.selector" . | nindent 6 }}
  template:
    {{- include "twinspan.pod" . | nindent 4 }}
{{- if $root.Values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels:
    {{- include "twinspan.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $root.Values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "twinspan.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
