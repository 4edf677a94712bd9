package main

import (
	"bytes"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// manifestSet is what a smoke run needs of rendered manifests.
type manifestSet struct {
	workloads []*workload // StatefulSets first
	config    string      // server.toml
	seeds     int         // storage nodes that server.toml joins
}

// workload is a StatefulSet, a Deployment or a Job.
type workload struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Replicas *int
		Ordinals struct{ Start int }
		Template struct {
			Spec struct {
				TerminationGracePeriodSeconds int
				InitContainers, Containers    []container
			}
		}
	}
	Data map[string]string
	// of a HorizontalPodAutoscaler
	minReplicas int
}

type container struct {
	Command                                     []string
	Env                                         []variable
	Ports                                       []containerPort
	StartupProbe, LivenessProbe, ReadinessProbe probe
}

type variable struct {
	Name, Value string
	ValueFrom   struct {
		FieldRef     struct{ FieldPath string }
		SecretKeyRef struct{ Key string }
	}
}

type containerPort struct {
	Name          string
	ContainerPort int
}

type probe struct {
	HTTPGet struct{ Path, Port string }
}

// replicas is how many pods there would be: a workload that is scaled has its least number.
func (w *workload) replicas() int {
	switch {
	case w.Spec.Replicas != nil:
		return *w.Spec.Replicas
	case w.minReplicas > 0:
		return w.minReplicas
	}
	return 1
}

func parse(manifests []byte) (*manifestSet, error) {
	set := &manifestSet{}
	least := map[string]int{}
	var deployments []*workload
	for _, doc := range bytes.Split(manifests, []byte("\n---")) {
		var w workload
		if err := yaml.Unmarshal(doc, &w); err != nil {
			return nil, err
		}
		switch w.Kind {
		case "StatefulSet":
			set.workloads = append(set.workloads, &w)
		case "Deployment", "Job":
			deployments = append(deployments, &w)
		case "ConfigMap":
			set.config = w.Data["server.toml"]
		case "HorizontalPodAutoscaler":
			var h struct {
				Spec struct{ MinReplicas int }
			}
			if err := yaml.Unmarshal(doc, &h); err != nil {
				return nil, err
			}
			least[w.Metadata.Name] = h.Spec.MinReplicas
		}
	}
	for _, d := range deployments {
		d.minReplicas = least[d.Metadata.Name]
	}
	set.workloads = append(set.workloads, deployments...)
	for line := range strings.Lines(set.config) {
		if strings.HasPrefix(line, "join = ") {
			set.seeds = strings.Count(line, ":")
		}
	}
	if set.config == "" || set.seeds == 0 || len(set.workloads) < 2 {
		return nil, fmt.Errorf("the manifests have no server.toml with join, or no workloads")
	}
	return set, nil
}
