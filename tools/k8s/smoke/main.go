// Command smoke runs the containers of rendered manifests as plain processes on this machine: the same commands,
// variables, server.toml and probes. Only what a pod has of its own is replaced: addresses (each process has a
// loopback address), folders, and the certificates, which it makes. It waits until every process is ready, sends a
// statement through a gateway, stops everything with SIGTERM and checks that it stopped cleanly in time.
//
//	helm template … | smoke -bin folder-of-programs
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// readyWithin bounds the start of the whole cluster, stopWithin that of its stop.
	readyWithin = 3 * time.Minute
	stopWithin  = 100 * time.Second
	askWithin   = 10 * time.Second
	pollEvery   = 200 * time.Millisecond
	rootPass    = "smoke-root-password"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the programs")
	flag.Parse()
	if err := run(*bin); err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
}

func run(bin string) (err error) {
	manifests, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	set, err := parse(manifests)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "smoke")
	if err != nil {
		return err
	}
	c := &cluster{set: set, bin: bin, dir: dir, certs: filepath.Join(dir, "certs")}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	defer func() {
		if err != nil {
			c.kill()
			fmt.Fprintln(os.Stderr, "logs are in", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	if err := c.makeCerts(ctx); err != nil {
		return err
	}
	if err := c.start(); err != nil {
		return err
	}
	if err := c.ready(ctx); err != nil {
		return err
	}
	if err := c.ask(ctx); err != nil {
		return err
	}
	return c.stop()
}

// cluster is the processes of one set of manifests.
type cluster struct {
	set        *manifestSet
	bin        string
	dir, certs string
	processes  []*process
}

type process struct {
	name, ip string
	w        *workload
	cmd      *exec.Cmd
	done     chan error
}

func (c *cluster) makeCerts(ctx context.Context) error {
	for _, w := range c.set.workloads {
		if w.Kind != "Job" {
			continue
		}
		command := w.Spec.Template.Spec.InitContainers[0].Command
		cmd := exec.CommandContext(ctx, c.program(command[0]), c.local(command[1:])...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
		return nil
	}
	return fmt.Errorf("the manifests have no Job that makes certificates")
}

func (c *cluster) program(path string) string { return filepath.Join(c.bin, filepath.Base(path)) }

// local puts our folder where a container has its own.
func (c *cluster) local(args []string) (out []string) {
	for _, a := range args {
		out = append(out, strings.ReplaceAll(a, "/certs", c.certs))
	}
	return out
}

func (c *cluster) start() error {
	for _, w := range c.set.workloads {
		if w.Kind == "Job" {
			continue
		}
		for i := range w.replicas() {
			if err := c.launch(w, w.Spec.Ordinals.Start+i); err != nil {
				return err
			}
		}
	}
	return nil
}

// launch starts one pod's container. Storage nodes have the addresses that join is rewritten to.
func (c *cluster) launch(w *workload, ordinal int) error {
	p := &process{w: w, ip: fmt.Sprintf("127.0.7.%d", len(c.processes)+100), done: make(chan error, 1)}
	if w.Kind == "StatefulSet" {
		p.ip = storageIP(ordinal)
	}
	p.name = fmt.Sprintf("%s-%d", w.Metadata.Name, ordinal)
	dir := filepath.Join(c.dir, p.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(dir, "server.toml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(c.set.config, `"/certs"`, strconv.Quote(c.certs))), 0o600); err != nil {
		return err
	}
	env, err := c.env(p, ordinal, dir, config)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	container := w.Spec.Template.Spec.Containers[0]
	p.cmd = exec.Command(c.program(container.Command[0]), container.Command[1:]...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, env, log, log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { p.done <- p.cmd.Wait() }()
	c.processes = append(c.processes, p)
	return nil
}

func storageIP(id int) string { return fmt.Sprintf("127.0.7.%d", id) }

// env is the container's variables, and over them what this machine needs to be different.
func (c *cluster) env(p *process, ordinal int, dir, config string) ([]string, error) {
	known := map[string]string{"status.podIP": p.ip, "metadata.name": p.name,
		"metadata.labels['apps.kubernetes.io/pod-index']": strconv.Itoa(ordinal), "metadata.labels['topology.kubernetes.io/zone']": ""}
	secrets := map[string]string{"root-password": rootPass, "jwt-secret": strings.Repeat("smoke", 12)}
	out := []string{"PATH=" + os.Getenv("PATH")}
	for _, e := range p.w.Spec.Template.Spec.Containers[0].Env {
		value, ok := e.Value, true
		if f := e.ValueFrom.FieldRef.FieldPath; f != "" {
			value, ok = known[f]
		} else if k := e.ValueFrom.SecretKeyRef.Key; k != "" {
			value, ok = secrets[k]
		}
		if !ok {
			return nil, fmt.Errorf("variable %s comes from where a pod on this machine has nothing", e.Name)
		}
		out = append(out, e.Name+"="+value)
	}
	var join []string
	for id := 1; id <= c.set.seeds; id++ {
		join = append(join, storageIP(id)+":9090")
	}
	return append(out, "KALAMDB_CONFIG="+config, "KALAMDB_DATA_DIR="+dir, "KALAMDB_CLUSTER_JOIN="+strings.Join(join, ","),
		"KALAMDB_CLUSTER_LISTEN_ADDR="+p.ip+":9090", "KALAMDB_CLUSTER_ADVERTISE_ADDR="+p.ip+":9090",
		"KALAMDB_CLUSTER_RAFT_LISTEN_ADDR="+p.ip+":9091", "KALAMDB_CLUSTER_RAFT_ADVERTISE_ADDR="+p.ip+":9091",
		"KALAMDB_SERVER_HOST="+p.ip, "KALAMDB_SERVER_OPS_HOST="+p.ip), nil
}

// ready waits until every container's probes succeed.
func (c *cluster) ready(ctx context.Context) error {
	for _, p := range c.processes {
		container := p.w.Spec.Template.Spec.Containers[0]
		for _, probe := range []probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			port := 0
			for _, q := range container.Ports {
				if q.Name == probe.HTTPGet.Port {
					port = q.ContainerPort
				}
			}
			url := fmt.Sprintf("http://%s:%d%s", p.ip, port, probe.HTTPGet.Path)
			if err := p.wait(ctx, url); err != nil {
				return err
			}
		}
		fmt.Println("ready:", p.name)
	}
	return nil
}

func (p *process) wait(ctx context.Context, url string) error {
	last := "no answer"
	for {
		resp, err := http.Get(url)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = resp.Status + " " + string(body)
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%s ended: %w", p.name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%s): %s", p.name, url, last)
		case <-time.After(pollEvery):
		}
	}
}

// ask does what the chart's test does.
func (c *cluster) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	gateway := ""
	for _, p := range c.processes {
		if filepath.Base(p.cmd.Path) == "kalamdb-gateway" {
			gateway = p.ip
		}
	}
	body, err := json.Marshal(map[string]string{"sql": "SELECT count(*) AS n FROM system.namespaces"})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+gateway+":8080/api/sql", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("root", rootPass)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Printf("answered: %s\n", bytes.TrimSpace(answer))
	if !bytes.Contains(answer, []byte(`"status":"success"`)) {
		return fmt.Errorf("the gateway answered %s", resp.Status)
	}
	return nil
}

// stop ends clients' side first, as a namespace that is deleted does not: so that each stop is a clean one.
func (c *cluster) stop() error {
	for i := len(c.processes) - 1; i >= 0; i-- {
		p := c.processes[i]
		began := time.Now()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		grace := time.Duration(p.w.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
		select {
		case err := <-p.done:
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		case <-time.After(min(grace, stopWithin)):
			return fmt.Errorf("%s did not stop within %s, when Kubernetes would have killed it", p.name, grace)
		}
		fmt.Printf("stopped: %s in %.1f s\n", p.name, time.Since(began).Seconds())
	}
	return nil
}

func (c *cluster) kill() {
	for _, p := range c.processes {
		_ = p.cmd.Process.Kill() // it may have ended
	}
}
