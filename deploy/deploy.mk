# Targets for deploy/, included by the Makefile. The tools are Go modules pinned in tools/k8s.

CHART := deploy/k8s/chart
# Kubernetes whose kinds the chart is checked against; tools/k8s/schemas/write.sh has the module.
KUBE_VERSION := 1.37.2
KUBECONFORM := bin/kubeconform -strict -summary -schema-location 'deploy/k8s/schemas/{{.ResourceKind}}{{.KindSuffix}}.json'
TEMPLATE := bin/helm template kalamdb $(CHART) --namespace kalamdb --kube-version $(KUBE_VERSION)

bin/helm bin/kubeconform bin/compose-check &: tools/k8s/go.mod tools/k8s/go.sum
	cd tools/k8s && GOWORK=off go build -o ../../bin/ helm.sh/helm/v3/cmd/helm github.com/yannh/kubeconform/cmd/kubeconform
	cd tools/k8s && GOWORK=off go build -o ../../bin/compose-check github.com/compose-spec/compose-go/v2/cmd
	@touch bin/helm bin/kubeconform bin/compose-check

.PHONY: check-deploy
check-deploy: bin/helm bin/kubeconform bin/compose-check ## the chart, the plain manifests and the compose file are valid
	bin/helm lint --strict $(CHART)
	@for values in $(CHART)/ci/*.yaml; do echo "$$values"; \
	  bin/helm lint --strict --quiet --values $$values $(CHART) && \
	  $(TEMPLATE) --values $$values | $(KUBECONFORM); done
	@deploy/k8s/render.sh "$$PWD/bin/helm" $(KUBE_VERSION) bin/manifests
	@diff -r bin/manifests deploy/k8s/manifests || { echo "deploy/k8s/manifests is not current: make k8s-manifests"; exit 1; }
	$(KUBECONFORM) -ignore-filename-pattern values.yaml deploy/k8s/manifests
	cd deploy/compose && ../../bin/compose-check compose.yaml >/dev/null

.PHONY: k8s-manifests
k8s-manifests: bin/helm ## render deploy/k8s/manifests from the chart again
	deploy/k8s/render.sh "$(CURDIR)/bin/helm" $(KUBE_VERSION) deploy/k8s/manifests

.PHONY: k8s-schemas
k8s-schemas: ## write deploy/k8s/schemas again (needs the Go module proxy)
	tools/k8s/schemas/write.sh

# The server finds out from these which of its features exist.
KUBE_PKG := k8s.io/component-base/version
KUBE_LDFLAGS := -X $(KUBE_PKG).gitVersion=v$(KUBE_VERSION) -X $(KUBE_PKG).gitMajor=1 -X $(KUBE_PKG).gitMinor=37

bin/kube-apiserver: tools/kubeapi/go.mod tools/kubeapi/go.sum
	cd tools/kubeapi && GOWORK=off CGO_ENABLED=0 go build -ldflags '$(KUBE_LDFLAGS)' -o ../../bin/ k8s.io/kubernetes/cmd/kube-apiserver
	@touch bin/kube-apiserver

.PHONY: k8s-dry-run
k8s-dry-run: bin/helm bin/kube-apiserver ## a real Kubernetes API server accepts what deploy/k8s says (needs etcd, kubectl, jq)
	deploy/k8s/dry-run.sh bin/helm bin/kube-apiserver

.PHONY: k8s-smoke
k8s-smoke: bin/helm ## run the chart's containers as processes: commands, variables, server.toml, probes, stop (programs from bin/)
	cd tools/k8s && GOWORK=off go build -o ../../bin/k8s-smoke ./smoke
	$(TEMPLATE) | bin/k8s-smoke -bin "$(CURDIR)/bin"
