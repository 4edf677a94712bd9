// Command schemas writes the JSON schemas that deploy/k8s is checked against. Kubernetes' kinds come from the OpenAPI
// document of the k8s.io/kubernetes module, custom resources from the definitions in their projects' modules; the
// files are what `go mod download` put into the module cache, so Go's checksum database vouches for them.
//
// The schemas are strict (a field nobody knows is an error), stand alone (no references) and have no descriptions.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// depthMax stops a definition that contains itself. The kinds we write nest about twenty levels.
const depthMax = 64

// object is a JSON object.
type object = map[string]any

func main() {
	swagger := flag.String("openapi", "", "file api/openapi-spec/swagger.json of k8s.io/kubernetes")
	kinds := flag.String("kinds", "", "Kubernetes' kinds to write: group/version/kind, comma separated; v1/kind without group")
	out := flag.String("out", "", "folder to write to")
	flag.Parse()
	if err := run(*swagger, strings.Split(*kinds, ","), *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

// run writes one file for each kind and for each version of each custom resource definition.
func run(swagger string, kinds []string, out string, crds []string) error {
	var doc struct {
		Definitions map[string]object `json:"definitions"`
	}
	b, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("%s: %w", swagger, err)
	}
	a := &api{definitions: doc.Definitions, names: map[string]string{}}
	a.index()
	for _, k := range kinds {
		schema, err := a.kind(k)
		if err != nil {
			return err
		}
		if err := write(out, k, schema); err != nil {
			return err
		}
	}
	for _, path := range crds {
		if err := a.custom(path, out); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// api is Kubernetes' OpenAPI document.
type api struct {
	definitions map[string]object
	names       map[string]string // group/version/Kind, lower case → definition
}

func (a *api) index() {
	for name, def := range a.definitions {
		list, _ := def["x-kubernetes-group-version-kind"].([]any)
		if len(list) != 1 {
			continue // several are the types of API requests, which are in every group
		}
		gvk, _ := list[0].(object)
		group, _ := gvk["group"].(string)
		version, _ := gvk["version"].(string)
		kind, _ := gvk["kind"].(string)
		a.names[strings.ToLower(strings.TrimPrefix(group+"/"+version+"/"+kind, "/"))] = name
	}
}

func (a *api) kind(gvk string) (object, error) {
	name, ok := a.names[strings.ToLower(gvk)]
	if !ok {
		return nil, fmt.Errorf("the document has no kind %q", gvk)
	}
	schema, err := a.expand(object{"$ref": "#/definitions/" + name}, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", gvk, err)
	}
	identify(schema, gvk)
	return schema, nil
}

// expand replaces references by what they refer to and keeps only what validates.
func (a *api) expand(in object, depth int) (object, error) {
	if depth > depthMax {
		return nil, fmt.Errorf("more than %d levels", depthMax)
	}
	if ref, ok := in["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/definitions/")
		if strings.HasSuffix(name, ".pkg.api.resource.Quantity") {
			return object{"type": []any{"string", "number"}}, nil // the document says string; 1 and 0.5 are read as well
		}
		def, ok := a.definitions[name]
		if !ok {
			return nil, fmt.Errorf("no definition %q", name)
		}
		return a.expand(def, depth+1)
	}
	out := object{}
	for _, key := range []string{"type", "enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"} {
		if v, ok := in[key]; ok {
			out[key] = v
		}
	}
	if in["format"] == "int-or-string" || in["x-kubernetes-int-or-string"] == true {
		out["type"] = []any{"integer", "string"}
	}
	return out, a.children(in, out, depth)
}

func (a *api) children(in, out object, depth int) error {
	if props, ok := in["properties"].(object); ok {
		expanded := object{}
		for name, p := range props {
			schema, err := a.expand(p.(object), depth+1)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			expanded[name] = schema
		}
		out["properties"] = expanded
		if in["x-kubernetes-preserve-unknown-fields"] != true {
			out["additionalProperties"] = false
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if child, ok := in[key].(object); ok {
			schema, err := a.expand(child, depth+1)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			out[key] = schema
		}
	}
	return nil
}

// custom writes the versions of one custom resource definition.
func (a *api) custom(path, out string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group string `json:"group"`
			Names struct {
				Kind string `json:"kind"`
			} `json:"names"`
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPIV3Schema object `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(b, &crd); err != nil {
		return err
	}
	for _, v := range crd.Spec.Versions {
		schema, err := a.expand(v.Schema.OpenAPIV3Schema, 0)
		if err != nil {
			return err
		}
		meta, err := a.expand(object{"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}, 0)
		if err != nil {
			return err
		}
		schema["properties"].(object)["metadata"] = meta
		gvk := crd.Spec.Group + "/" + v.Name + "/" + crd.Spec.Names.Kind
		identify(schema, gvk)
		if err := write(out, gvk, schema); err != nil {
			return err
		}
	}
	return nil
}

// identify makes a schema accept its own kind only.
func identify(schema object, gvk string) {
	at := strings.LastIndex(gvk, "/")
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	props := schema["properties"].(object)
	props["apiVersion"] = object{"const": gvk[:at]}
	props["kind"] = object{"const": gvk[at+1:]}
	required, _ := schema["required"].([]any)
	schema["required"] = append([]any{"apiVersion", "kind", "metadata"}, without(required, "apiVersion", "kind", "metadata")...)
}

func without(list []any, drop ...string) (out []any) {
	for _, v := range list {
		keep := true
		for _, d := range drop {
			keep = keep && v != d
		}
		if keep {
			out = append(out, v)
		}
	}
	return out
}

// write names the file as kubeconform looks for it: kind-group-version.json with the group's first word.
func write(out, gvk string, schema object) error {
	parts := strings.Split(strings.ToLower(gvk), "/")
	name := parts[len(parts)-1]
	if len(parts) == 3 {
		group, _, _ := strings.Cut(parts[0], ".")
		name += "-" + group
	}
	b, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, name+"-"+parts[len(parts)-2]+".json"), append(b, '\n'), 0o644)
}
