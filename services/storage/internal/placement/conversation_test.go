package placement

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// TestConversations runs the files of testdata. Commands:
//
//	cluster shards=n factor=n zone=z   begins with node n1
//	add id=n server=s zone=z           starts a node
//	kill, start, stopping server=s     a process dies, comes back with its data, says that it is stopping
//	drain, undrain, remove id=n        an operator's wishes
//	wait seconds=n                     time in which nothing is expected
//	fail times=n (step)                the next n of a step fail; negative: they are done and the answer is lost
//	new-leader                         another node leads group 0: all soft state is gone
//	run                                until nothing happens any more; prints the steps
//	show, activities                   prints the cluster, what the controller says
func TestConversations(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *sim
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var server, zone string
			var id, shards, factor, seconds, times int
			d.MaybeScanArgs(t, "server", &server)
			d.MaybeScanArgs(t, "zone", &zone)
			d.MaybeScanArgs(t, "id", &id)
			d.MaybeScanArgs(t, "shards", &shards)
			d.MaybeScanArgs(t, "factor", &factor)
			d.MaybeScanArgs(t, "seconds", &seconds)
			d.MaybeScanArgs(t, "times", &times)
			var err error
			switch d.Cmd {
			case "cluster":
				s = newSim(t, uint32(shards), uint32(factor), zone)
			case "add":
				err = s.add(uint32(id), server, zone)
			case "kill":
				s.procs[server].alive = false
			case "start":
				s.procs[server].alive = true
			case "stopping":
				s.procs[server].stopping = true
			case "drain", "undrain":
				_, err = s.directory.Drain(t.Context(), &clusterv1.DrainRequest{NodeId: uint32(id), Undrain: d.Cmd == "undrain"})
			case "remove":
				_, err = s.directory.Remove(t.Context(), &clusterv1.RemoveRequest{NodeId: uint32(id)})
			case "fail":
				s.failures[d.Input] = times
			case "new-leader":
				s.term++
				s.newController()
			case "wait":
				before := len(s.trace)
				for range seconds {
					s.second()
				}
				return strings.Join(s.trace[before:], "\n")
			case "run":
				return strings.Join(s.settle(600), "\n")
			case "show":
				return s.describe()
			case "activities":
				return strings.Join(s.controller.Activities(), "\n")
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintln("ok")
		})
	})
}
