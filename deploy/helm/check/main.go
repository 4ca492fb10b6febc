// Looks at what the chart has rendered, as far as that can be told without a cluster: each object has the fields of its kind in Kubernetes' own types and
// no others, and names, labels, ports and mounts lead to each other. `go run . FILE < rendered` writes routes.toml to FILE.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

var faults []error

func fault(format string, arguments ...any) {
	faults = append(faults, fmt.Errorf(format, arguments...))
}

// What was rendered, as far as others refer to it.
type rendered struct {
	pods       map[string]core.PodTemplateSpec
	configMaps map[string]core.ConfigMap
	services   map[string]core.Service
	selectors  map[string]map[string]string
	policies   []networking.NetworkPolicy
}

func decode[T any](document []byte) T {
	var object T
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		fault("%w in\n%s", err, document)
	}
	return object
}

func (r *rendered) read(document []byte) {
	var kind struct {
		meta.TypeMeta `json:",inline"`
		Metadata      meta.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(document, &kind); err != nil {
		fault("%w in\n%s", err, document)
		return
	}
	if kind.Kind == "" {
		return
	}
	name := kind.Kind + " " + kind.Metadata.Name
	if wrong := validation.IsDNS1035Label(kind.Metadata.Name); len(wrong) > 0 {
		fault("%s: %v", name, wrong)
	}
	for key, value := range kind.Metadata.Labels {
		if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
			fault("%s: label %s: %v", name, key, wrong)
		}
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 ConfigMap":
		r.configMaps[kind.Metadata.Name] = decode[core.ConfigMap](document)
	case "v1 Service":
		service := decode[core.Service](document)
		r.services[kind.Metadata.Name] = service
		r.selectors[name] = service.Spec.Selector
	case "apps/v1 StatefulSet":
		set := decode[apps.StatefulSet](document)
		r.pods[name] = set.Spec.Template
		r.selectors[name] = set.Spec.Selector.MatchLabels
		if service, ok := r.services[set.Spec.ServiceName]; !ok || service.Spec.ClusterIP != core.ClusterIPNone {
			fault("%s: no headless Service %s", name, set.Spec.ServiceName)
		}
	case "apps/v1 Deployment":
		deployment := decode[apps.Deployment](document)
		r.pods[name] = deployment.Spec.Template
		r.selectors[name] = deployment.Spec.Selector.MatchLabels
	case "batch/v1 Job":
		r.pods[name] = decode[batch.Job](document).Spec.Template
	case "policy/v1 PodDisruptionBudget":
		r.selectors[name] = decode[policy.PodDisruptionBudget](document).Spec.Selector.MatchLabels
	case "networking.k8s.io/v1 NetworkPolicy":
		network := decode[networking.NetworkPolicy](document)
		r.policies = append(r.policies, network)
		r.selectors[name] = network.Spec.PodSelector.MatchLabels
	case "monitoring.coreos.com/v1 ServiceMonitor":
		// Its types are the operator's, which is not Kubernetes'.
	default:
		fault("%s of %s is not looked at here", name, kind.APIVersion)
	}
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

func (r *rendered) check() {
	for name, pod := range r.pods {
		mounts := map[string]bool{}
		for _, volume := range pod.Spec.Volumes {
			if wrong := validation.IsDNS1123Label(volume.Name); len(wrong) > 0 {
				fault("%s: volume %q: %v", name, volume.Name, wrong)
			}
			mounts[volume.Name] = true
			if volume.ConfigMap != nil {
				if _, ok := r.configMaps[volume.ConfigMap.Name]; !ok {
					fault("%s: no ConfigMap %s", name, volume.ConfigMap.Name)
				}
			}
		}
		for _, container := range pod.Spec.Containers {
			for _, mount := range container.VolumeMounts {
				if !mounts[mount.Name] {
					fault("%s: mounts %s, which is no volume", name, mount.Name)
				}
			}
			for _, port := range container.Ports {
				if wrong := validation.IsValidPortName(port.Name); len(wrong) > 0 {
					fault("%s: port %q: %v", name, port.Name, wrong)
				}
			}
			for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
				if probe != nil && !hasPort(container, probe.HTTPGet.Port) {
					fault("%s: a probe of port %v, which the container has not", name, probe.HTTPGet.Port)
				}
			}
		}
	}
	for name, selector := range r.selectors {
		var chosen *core.PodTemplateSpec
		for _, pod := range r.pods {
			if selects(selector, pod.Labels) {
				if chosen != nil {
					fault("%s: selects pods of two kinds", name)
				}
				chosen = &pod
			}
		}
		if chosen == nil {
			fault("%s: selects no pod", name)
		}
	}
	for name, service := range r.services {
		numbers, names := map[int32]bool{}, map[string]bool{}
		for _, port := range service.Spec.Ports {
			if numbers[port.Port] || names[port.Name] {
				fault("Service %s: port %d or name %s twice", name, port.Port, port.Name)
			}
			numbers[port.Port], names[port.Name] = true, true
			if wrong := validation.IsDNS1123Label(port.Name); len(wrong) > 0 {
				fault("Service %s: port %q: %v", name, port.Name, wrong)
			}
			for _, pod := range r.pods {
				if !selects(service.Spec.Selector, pod.Labels) {
					continue
				}
				// A number need not be among the container's ports.
				if port.TargetPort.Type == intstr.String && !hasPort(pod.Spec.Containers[0], port.TargetPort) {
					fault("Service %s: no port %s of the container", name, port.TargetPort.StrVal)
				}
				if !r.allowed(pod, port.TargetPort) {
					fault("Service %s: the NetworkPolicy lets nobody to port %v", name, port.TargetPort)
				}
			}
		}
	}
	if len(r.configMaps) != 1 || len(r.pods) == 0 {
		fault("%d ConfigMaps and %d kinds of pods", len(r.configMaps), len(r.pods))
	}
}

func hasPort(container core.Container, wanted intstr.IntOrString) bool {
	return number(container, wanted) != 0
}

func number(container core.Container, port intstr.IntOrString) int32 {
	if port.Type == intstr.Int {
		return port.IntVal
	}
	for _, has := range container.Ports {
		if has.Name == port.StrVal {
			return has.ContainerPort
		}
	}
	return 0
}

// Whether the policies of a pod, if there are some, let anybody to a port.
func (r *rendered) allowed(pod core.PodTemplateSpec, port intstr.IntOrString) bool {
	wanted, restricted := number(pod.Spec.Containers[0], port), false
	for _, network := range r.policies {
		if !selects(network.Spec.PodSelector.MatchLabels, pod.Labels) {
			continue
		}
		restricted = true
		for _, rule := range network.Spec.Ingress {
			for _, ports := range rule.Ports {
				last := ports.Port.IntVal
				if ports.EndPort != nil {
					last = *ports.EndPort
				}
				if ports.Port.IntVal <= wanted && wanted <= last {
					return true
				}
			}
		}
	}
	return !restricted
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: go run . FILE < rendered")
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	r := rendered{
		pods: map[string]core.PodTemplateSpec{}, configMaps: map[string]core.ConfigMap{}, services: map[string]core.Service{},
		selectors: map[string]map[string]string{},
	}
	for _, document := range bytes.Split(input, []byte("\n---\n")) {
		r.read(bytes.TrimPrefix(document, []byte("---\n")))
	}
	r.check()
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	for _, configMap := range r.configMaps {
		return os.WriteFile(os.Args[1], []byte(configMap.Data["routes.toml"]), 0o644)
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
