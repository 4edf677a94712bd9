package sqlfront

import (
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// ClusterAction is what a CLUSTER statement asks for, in its first spelling.
type ClusterAction string

// The actions of CLUSTER.
const (
	ClusterSnapshot        ClusterAction = "SNAPSHOT"
	ClusterPurge           ClusterAction = "PURGE"
	ClusterTriggerElection ClusterAction = "TRIGGER ELECTION"
	ClusterTransferLeader  ClusterAction = "TRANSFER LEADER"
	ClusterJoin            ClusterAction = "JOIN"
	ClusterRebalance       ClusterAction = "REBALANCE"
	ClusterStepDown        ClusterAction = "STEPDOWN"
	ClusterClear           ClusterAction = "CLEAR"
	ClusterVerify          ClusterAction = "VERIFY"
	ClusterDrain           ClusterAction = "DRAIN"
	ClusterUndrain         ClusterAction = "UNDRAIN"
	ClusterRemove          ClusterAction = "REMOVE"
	ClusterList            ClusterAction = "LIST"
	ClusterStatus          ClusterAction = "STATUS"
)

// Cluster is CLUSTER action [n].
type Cluster struct {
	Source
	Action ClusterAction
	// Number is a log index for PURGE, a node id for the others that take one.
	Number uint64
}

// Command names the statement.
func (s *Cluster) Command() string { return "CLUSTER " + string(s.Action) }

// clusterForms are the spellings; a hyphen is an operator between two words.
var clusterForms = []struct {
	first, second string
	action        ClusterAction
	// bits is the width of the number that follows; 0 is none.
	bits int
}{
	{"snapshot", "", ClusterSnapshot, 0}, {"purge", "", ClusterPurge, 63},
	{"trigger", "election", ClusterTriggerElection, 0}, {"transfer", "leader", ClusterTransferLeader, 32},
	{"rebalance", "", ClusterRebalance, 0}, {"stepdown", "", ClusterStepDown, 0}, {"step", "down", ClusterStepDown, 0},
	{"clear", "", ClusterClear, 0}, {"verify", "", ClusterVerify, 0}, {"drain", "", ClusterDrain, 32},
	{"undrain", "", ClusterUndrain, 32}, {"remove", "", ClusterRemove, 32}, {"list", "", ClusterList, 0},
	{"status", "", ClusterStatus, 0},
}

func (r *reader) cluster() (Statement, error) {
	s := &Cluster{Source: r.source()}
	r.pos++
	if r.accept("join") {
		// Its arguments are not read: whatever they are, the statement is refused when it is run.
		s.Action = ClusterJoin
		return s, nil
	}
	for _, f := range clusterForms {
		if r.word(0) != f.first {
			continue
		}
		r.pos++
		if f.second != "" {
			r.acceptPunct("-")
			if err := r.expect(f.second); err != nil {
				return nil, err
			}
		}
		s.Action = f.action
		if f.bits > 0 {
			if err := r.clusterNumber(s, f.bits); err != nil {
				return nil, err
			}
		}
		return r.end(s)
	}
	return nil, r.unexpected("an action of CLUSTER")
}

func (r *reader) clusterNumber(s *Cluster, bits int) (err error) {
	what := "the id of a node"
	if s.Action == ClusterPurge {
		what = "a log index"
	}
	t := r.at(0)
	if t.kind != tokNumber {
		return r.unexpected(what)
	}
	if s.Number, err = strconv.ParseUint(r.raw(t), 10, bits); err != nil {
		return r.fail(dberr.InvalidSQL, 0, "%s is a whole number of at most %d bits", what, bits)
	}
	r.pos++
	return nil
}
