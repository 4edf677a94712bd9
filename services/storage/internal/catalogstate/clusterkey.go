package catalogstate

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// keyClusterKey is the place of the cluster key in bucketMeta.
var keyClusterKey = []byte("cluster_key")

// wrappedKeyBytesMax bounds a wrapped key: services that wrap keys add some hundred bytes.
const wrappedKeyBytesMax = 4096

// setClusterKey keeps the first key: what was sealed with it must stay readable. One that names the key it replaces is the same key,
// wrapped by another master key.
func (t *transaction) setClusterKey(c *catalogv1.SetClusterKey) (*catalogv1.ApplyResponse, error) {
	k := c.GetKey()
	if n := len(k.GetWrapped()); n == 0 || n > wrappedKeyBytesMax || k.GetMasterId() == "" {
		return nil, refuse(dberr.InvalidArgument, "a cluster key of %d bytes, wrapped by %q: it has 1 to %d and names its master key", n, k.GetMasterId(), wrappedKeyBytesMax)
	}
	if !bytes.Equal(t.model.clusterKey.GetWrapped(), c.GetReplaced()) {
		return unchanged()
	}
	t.edit().clusterKey = k // decoded from the entry: nobody else has it
	return changed(), putMessage(t.bucket(bucketMeta), keyClusterKey, k)
}

// readClusterKey returns nil when there is none.
func readClusterKey(raw []byte) (*catalogv1.ClusterKey, error) {
	if raw == nil {
		return nil, nil
	}
	k := &catalogv1.ClusterKey{}
	if err := proto.Unmarshal(raw, k); err != nil {
		return nil, dberr.New(dberr.Corrupt, "decode the cluster key: %w", err)
	}
	return k, nil
}

// ClusterKey is the key that seals, nil when there is none. It is shared: it must not be changed.
func (s *State) ClusterKey() *catalogv1.ClusterKey { return s.model.Load().clusterKey }
