# Modules that deploy/ is checked against, for bash scripts to source.
kubernetes=k8s.io/kubernetes@v1.37.2
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
certmanager=github.com/cert-manager/cert-manager@v1.21.2

module() { # the folder of a module in the module cache; Go's checksum database vouches for it
  (cd / && GOWORK=off GOFLAGS=-mod=mod go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p'
}

custom_resources() { # the definitions of the custom resources that the chart may write
  printf '%s\n' "$(module "$operator")/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml" \
    "$(module "$certmanager")"/deploy/crds/cert-manager.io_{certificates,issuers}.yaml
}
