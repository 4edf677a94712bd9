package cold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Place is where new segments of a partition go.
type Place struct {
	// Storage is empty for the disks of the shard's replicas; Location is which of the storage's.
	Storage  string
	Location uint32
	// Dir is the folder below it.
	Dir string
}

// Holds reports whether a segment is in the place's storage and location. The folder may be another: templates change.
func (p Place) Holds(seg *storagev1.Segment) bool {
	return p.Storage == seg.GetStorageId() && (p.Storage == "" || p.Location == seg.GetLocation())
}

// Remote has the files of segments that are not local.
type Remote interface {
	// Open opens a file that is what the segment says; it fetches it first when it must.
	Open(ctx context.Context, seg *storagev1.Segment) (vfs.File, error)
}

// Outgoing is the folder of files that are on their way to a storage.
const Outgoing = "outgoing"

// OutgoingPath is where a segment for a storage is written before it is put there.
func OutgoingPath(seg *storagev1.Segment) string {
	return path.Join(Outgoing, path.Base(seg.GetPath()))
}

// nameIn names a new segment of a place. In storages, which many shards share, the name says whose it is: that shard's leader removes it when
// nothing names it.
func (o *Output) nameIn(place Place, shard uint32) string {
	name := "batch-" + o.Name()
	if place.Storage != "" {
		name += fmt.Sprintf("-s%d", shard)
	}
	return path.Join(place.Dir, name+extension)
}

// place is where a partition's segments go.
func (o *Output) place(p Partition) (Place, error) {
	if o.Place == nil {
		return Place{Dir: Dir(p.Table, p.Owner)}, nil
	}
	return o.Place(p.Shard, p.Table, p.Owner)
}

// localPath is where a segment's file is written here.
func localPath(seg *storagev1.Segment) string {
	if seg.GetStorageId() == "" {
		return seg.GetPath()
	}
	return OutgoingPath(seg)
}

// Copy writes a segment's file anew where its partition's segments go now, and has it committed.
func (o *Output) Copy(ctx context.Context, readers *Readers, p Partition, seg *storagev1.Segment) (moved *storagev1.Segment, err error) {
	place, err := o.place(p)
	if err != nil {
		return nil, err
	}
	moved = proto.CloneOf(seg)
	moved.StorageId, moved.Location, moved.Path = place.Storage, place.Location, o.nameIn(place, p.Shard)
	from, err := readers.OpenFile(ctx, p.Shard, seg)
	if err != nil {
		return nil, unreadable(seg, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := o.Files.Create(localPath(moved))
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(to, &readerAt{from: from}, make([]byte, copyBytes)); err != nil {
		return nil, errors.Join(dberr.New(dberr.Unavailable, "copy segment %s: %w", seg.GetPath(), err), to.Abort())
	}
	if err := to.Commit(moved); err != nil {
		return nil, err
	}
	return moved, o.Commit(ctx, moved)
}
