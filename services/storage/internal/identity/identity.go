// Package identity keeps who a storage node is: the file IDENTITY in its data directory.
//
// Raft knows a node by its server id. It is made with the directory, so a node whose disk was wiped comes
// back as another server: it no longer knows what it voted for.
package identity

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	fileName = "IDENTITY"
	format   = 1
	// bytesMax is far more than the file ever holds.
	bytesMax = 4 << 10
	// randomBytes tell incarnations of a node apart.
	randomBytes = 4
)

// Identity is who a node is.
type Identity struct {
	NodeID   uint16
	ServerID string
	// ClusterID is empty until the node belongs to one.
	ClusterID string
	// Founder says that this node makes its cluster and has not finished: only then may it start groups of its
	// own. A founder that lost its logs later must not start them again.
	Founder bool
}

// New makes the identity of a new data directory.
func New(nodeID uint16, random io.Reader) (Identity, error) {
	var b [randomBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Identity{}, dberr.New(dberr.Internal, "make a server id: %w", err)
	}
	return Identity{NodeID: nodeID, ServerID: fmt.Sprintf("%s-%s", name(nodeID), hex.EncodeToString(b[:]))}, nil
}

// Legacy is the identity of a data directory from before there was the file. Its groups were all started by the
// node itself.
func Legacy(nodeID uint16) Identity {
	return Identity{NodeID: nodeID, ServerID: name(nodeID), Founder: true}
}

func name(nodeID uint16) string { return fmt.Sprintf("n%d", nodeID) }

// file is the content on disk.
type file struct {
	Format    int    `json:"format"`
	NodeID    uint16 `json:"node_id"`
	ServerID  string `json:"server_id"`
	ClusterID string `json:"cluster_id"`
	Founder   bool   `json:"founder"`
}

// Load reads the identity; found is false when the directory has none.
func Load(fs vfs.FS, dir string) (id Identity, found bool, err error) {
	path := fs.PathJoin(dir, fileName)
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, dberr.New(dberr.Unavailable, "read the node's identity: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, bytesMax+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return Identity{}, false, dberr.New(dberr.Unavailable, "read the node's identity: %w", err)
	}
	id, err = decode(raw)
	if err != nil {
		return Identity{}, false, dberr.New(dberr.CodeOf(err), "%s: %w", path, err)
	}
	return id, true, nil
}

func decode(raw []byte) (Identity, error) {
	var f file
	if len(raw) > bytesMax {
		return Identity{}, dberr.New(dberr.Corrupt, "an identity of more than %d bytes", bytesMax)
	}
	if err := json.Unmarshal(raw, &f); err != nil || f.Format < 1 {
		return Identity{}, dberr.New(dberr.Corrupt, "not the identity of a node")
	}
	if f.Format > format {
		return Identity{}, dberr.New(dberr.Unsupported, "the identity has format %d, this version reads up to %d: use a newer version", f.Format, format)
	}
	if f.ServerID == "" {
		return Identity{}, dberr.New(dberr.Corrupt, "the identity names no server")
	}
	return Identity{NodeID: f.NodeID, ServerID: f.ServerID, ClusterID: f.ClusterID, Founder: f.Founder}, nil
}

// Save replaces the file durably.
func Save(fs vfs.FS, dir string, id Identity) error {
	raw, err := json.MarshalIndent(file{Format: format, NodeID: id.NodeID, ServerID: id.ServerID,
		ClusterID: id.ClusterID, Founder: id.Founder}, "", "  ")
	if err != nil {
		return dberr.New(dberr.Internal, "encode the node's identity: %w", err)
	}
	if err := replaceFile(fs, dir, append(raw, '\n')); err != nil {
		return dberr.New(dberr.Unavailable, "store the node's identity: %w", err)
	}
	return nil
}

// replaceFile leaves the old content or the new one, whenever the machine stops.
func replaceFile(fs vfs.FS, dir string, content []byte) error {
	temp := fs.PathJoin(dir, fileName+".tmp")
	f, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(temp, fs.PathJoin(dir, fileName)); err != nil {
		return err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
