package scaling

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/clusterproc"
)

const (
	// askEvery is how often the nodes are asked whether a state was reached, askTimeout how long one answer may take.
	askEvery   = 50 * time.Millisecond
	askTimeout = 10 * time.Second
	// metricsMax bounds one answer: 1,025 groups take about 1.2 MiB.
	metricsMax = 16 << 20
)

// metrics are the samples of one node: name with labels → value.
type metrics map[string]float64

func metricsOf(ctx context.Context, addr string) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", addr, resp.Status)
	}
	return parseMetrics(io.LimitReader(resp.Body, metricsMax))
}

func parseMetrics(r io.Reader) (metrics, error) {
	m := metrics{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		m[line[:i]] = v
	}
	return m, lines.Err()
}

// of is a metric of one group.
func (m metrics) of(metric, group string) (float64, bool) {
	v, ok := m["kalamdb_storage_"+metric+`{group="`+group+`"}`]
	return v, ok
}

// groupNames are what metrics call the groups of a cluster.
func groupNames(shards int) []string {
	names := []string{"catalog"}
	for i := range shards {
		names = append(names, strconv.Itoa(i))
	}
	return names
}

// terms sums up the highest term known of each group: what it rises by are elections.
func terms(nodes []metrics, shards int) (sum float64) {
	for _, group := range groupNames(shards) {
		highest := 0.0
		for _, m := range nodes {
			term, _ := m.of("raft_term", group)
			highest = max(highest, term)
		}
		sum += highest
	}
	return sum
}

// complete says what is missing until every group has one leader, a replica on each node that has all of the leader's
// log, and, in a new cluster, has been changed as often as it takes to make them voters: groups begin with one
// voter, and each further one is added and promoted. Nobody writes, so everything is in place then.
func complete(nodes []metrics, shards int, isNew bool) error {
	for _, group := range groupNames(shards) {
		var leaders, changes, log float64
		for _, m := range nodes {
			leads, ok := m.of("raft_leader", group)
			if !ok {
				return fmt.Errorf("group %s is not on every node", group)
			}
			last, _ := m.of("raft_last_index", group)
			leaders, log = leaders+leads, log+leads*last
			made, _ := m.of("raft_member_changes_total", group)
			changes += made
		}
		if leaders != 1 {
			return fmt.Errorf("group %s has %.0f leaders", group, leaders)
		}
		if want := float64(2 * (len(nodes) - 1)); isNew && changes < want {
			return fmt.Errorf("group %s has seen %.0f of %.0f changes of members", group, changes, want)
		}
		for _, m := range nodes {
			if commit, _ := m.of("raft_commit_index", group); commit != log {
				return fmt.Errorf("a replica of group %s knows %.0f of %.0f entries to be committed", group, commit, log)
			}
		}
	}
	return nil
}

// until asks all nodes for their metrics again and again until holds finds nothing missing.
func until(ctx context.Context, nodes []*clusterproc.Node, holds func([]metrics) error) error {
	last := errors.New("it was not asked")
	for {
		all, err := everyMetrics(ctx, nodes)
		if err == nil {
			err = holds(all)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err // what is missing says more than that time is over
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}

func everyMetrics(ctx context.Context, nodes []*clusterproc.Node) ([]metrics, error) {
	var all []metrics
	for _, n := range nodes {
		m, err := metricsOf(ctx, n.OpsAddr())
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}
