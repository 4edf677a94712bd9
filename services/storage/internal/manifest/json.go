package manifest

import (
	"encoding/hex"
	"encoding/json"
	"path"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// FileName is the file beside the segments of a partition that lists them for other readers.
const FileName = "manifest.json"

// sharedScope is the scope of a SHARED table that is not partitioned.
const sharedScope = "shared"

// Path is where the manifest of a partition with these segments is: beside the one that was added last.
func Path(entries []Entry) string {
	return path.Join(path.Dir(entries[len(entries)-1].GetPath()), FileName)
}

// Version tells one list of a partition's segments from all others: the greatest id rises with what is added, and between two
// additions the number only falls.
type Version struct {
	ID    uint64
	Count int
}

// VersionOf is the version of a list of segments, oldest first.
func VersionOf(entries []Entry) Version {
	if len(entries) == 0 {
		return Version{}
	}
	return Version{ID: entries[len(entries)-1].ID, Count: len(entries)}
}

// ParseVersion reads the version of a manifest.json; zero when it is none.
func ParseVersion(raw []byte) Version {
	var f struct {
		Version  uint64     `json:"version"`
		Segments []struct{} `json:"segments"`
	}
	if json.Unmarshal(raw, &f) != nil {
		return Version{}
	}
	return Version{ID: f.Version, Count: len(f.Segments)}
}

// file is spec 6.5. What the original does not have is behind what it has. Times are milliseconds, and come from the
// segments, so that every replica writes the same.
type file struct {
	TableID struct {
		Namespace string `json:"namespace_id"`
		Name      string `json:"table_name"`
	} `json:"table_id"`
	User         *string `json:"user_id"`
	Version      uint64  `json:"version"`
	CreatedAt    int64   `json:"created_at"`
	UpdatedAt    int64   `json:"updated_at"`
	LastSequence uint64  `json:"last_sequence_number"`
	Segments     []piece `json:"segments"`
	Partition    string  `json:"partition,omitempty"`
}

// piece is a segment.
type piece struct {
	ID            string            `json:"id"`
	Path          string            `json:"path"`
	MinSeq        uint64            `json:"min_seq"`
	MaxSeq        uint64            `json:"max_seq"`
	Rows          uint64            `json:"row_count"`
	Bytes         uint64            `json:"size_bytes"`
	CreatedAt     int64             `json:"created_at"`
	SchemaVersion uint32            `json:"schema_version"`
	Status        string            `json:"status"`
	ColumnStats   map[uint32]*stats `json:"column_stats"`
	SHA256        string            `json:"sha256"`
	Level         uint32            `json:"level"`
	Tombstones    uint64            `json:"tombstones"`
	// Storage and Location are missing where the segment is local. A Path with a slash is from the root of the location: the segment is not
	// beside the manifest.
	Storage  string `json:"storage_id,omitempty"`
	Location uint32 `json:"location,omitempty"`
}

// stats are those of a column. Limits that were too long to be kept are missing.
type stats struct {
	Min   map[string]string `json:"min,omitempty"`
	Max   map[string]string `json:"max,omitempty"`
	Nulls uint64            `json:"null_count"`
}

// Scope is what stands for a partition where people read it: its user, "shared", or the name of a partition of a partitioned table.
func Scope(t *catalog.Table, owner string) string {
	switch {
	case t.Kind.PerUser():
		return owner
	case owner == "":
		return sharedScope
	}
	return strings.TrimPrefix(owner, "\x00") // it begins a partition's name, which no user has
}

// UpdatedUs is when the last of some segments was made.
func UpdatedUs(entries []Entry) (us int64) {
	for _, e := range entries {
		us = max(us, e.GetCreatedUs())
	}
	return us
}

// JSON is the manifest of a partition that has segments.
func JSON(t *catalog.Table, owner string, entries []Entry) ([]byte, error) {
	f := file{Version: VersionOf(entries).ID, UpdatedAt: UpdatedUs(entries) / 1000}
	f.TableID.Namespace, f.TableID.Name = t.Namespace, t.Name
	if t.Kind.PerUser() {
		f.User = &owner
	} else if owner != "" {
		f.Partition = Scope(t, owner)
	}
	dir, last := path.Dir(Path(entries))+"/", entries[len(entries)-1]
	for i, e := range entries {
		p, err := pieceOf(t, dir, e)
		if err != nil {
			return nil, err
		}
		if p.Storage != last.GetStorageId() || p.Location != last.GetLocation() {
			p.Path = e.GetPath()
		}
		if i == 0 || p.CreatedAt < f.CreatedAt {
			f.CreatedAt = p.CreatedAt
		}
		f.LastSequence = max(f.LastSequence, p.MaxSeq)
		f.Segments = append(f.Segments, p)
	}
	raw, err := json.Marshal(&f)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "write the manifest of a partition of %s: %w", t.QualifiedName(), err)
	}
	return raw, nil
}

// pieceOf describes a segment. Its path is relative to the manifest's folder.
func pieceOf(t *catalog.Table, dir string, e Entry) (piece, error) {
	p := piece{ID: path.Base(e.GetPath()), Path: strings.TrimPrefix(e.GetPath(), dir), MinSeq: e.GetSeqMin(), MaxSeq: e.GetSeqMax(),
		Rows: e.GetRows(), Bytes: e.GetBytes(), CreatedAt: e.GetCreatedUs() / 1000, SchemaVersion: e.GetSchemaVersion(),
		Status: "committed", ColumnStats: map[uint32]*stats{}, SHA256: hex.EncodeToString(e.GetSha256()), Level: e.GetLevel(),
		Tombstones: e.GetTombstones(), Storage: e.GetStorageId(), Location: e.GetLocation()}
	for _, c := range e.GetColumns() {
		column, ok := t.ColumnByID(c.GetColumnId())
		if !ok {
			continue // dropped meanwhile
		}
		s, err := statsOf(column.Type, c)
		if err != nil {
			return piece{}, dberr.New(dberr.CodeOf(err), "column %s of segment %s: %w", column.Name, e.GetPath(), err)
		}
		p.ColumnStats[c.GetColumnId()] = s
	}
	return p, nil
}

func statsOf(t catalog.Type, c *storagev1.SegmentColumn) (*stats, error) {
	s := &stats{Nulls: c.GetNulls()}
	for _, limit := range []struct {
		raw []byte
		to  *map[string]string
	}{{c.GetMin(), &s.Min}, {c.GetMax(), &s.Max}} {
		if len(limit.raw) == 0 {
			continue
		}
		d, _, err := keycodec.DecodeDatum(limit.raw)
		if err != nil {
			return nil, err
		}
		*limit.to = map[string]string{typeTag(t.Kind): valueText(d, t)}
	}
	return s, nil
}

// valueText writes whole numbers, times and dates in their unit since the epoch, and all else as SQL shows it.
func valueText(d datum.Datum, t catalog.Type) string {
	switch d.Kind() {
	case datum.KindInt, datum.KindTimestamp, datum.KindDate, datum.KindTime:
		return strconv.FormatInt(d.AsInt(), 10)
	}
	return datum.FormatText(d, t)
}

// typeTag names the type of a limit, as Arrow does.
func typeTag(k catalog.TypeKind) string {
	switch k {
	case catalog.Boolean:
		return "Boolean"
	case catalog.SmallInt:
		return "Int16"
	case catalog.Int:
		return "Int32"
	case catalog.BigInt:
		return "Int64"
	case catalog.Float:
		return "Float32"
	case catalog.Double:
		return "Float64"
	case catalog.Decimal:
		return "Decimal128"
	case catalog.Timestamp, catalog.DateTime:
		return "TimestampMicrosecond"
	case catalog.Date:
		return "Date32"
	case catalog.Time:
		return "Time64Microsecond"
	case catalog.UUID:
		return "Uuid"
	}
	return "Utf8"
}
