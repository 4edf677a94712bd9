package systemtable

import (
	"context"
	"encoding/hex"
	"encoding/json"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// erasuresPage is how many receipts are asked for at a time.
const erasuresPage = 50

// notErased is what an erasure leaves, as every receipt says.
const notErased = "rows in SHARED tables that tell of the user: they are in no partition of the user's; " +
	"the user's id here and in the jobs; ids of requests (hashes), which go by themselves; logs of the programs"

// erasures pages through the catalog.
func (t *Tables) erasures(catalog.Identity) pager {
	after, more := "", true
	return func(ctx context.Context) ([][]datum.Datum, error) {
		if !more {
			return nil, nil
		}
		resp, err := t.cfg.Catalog.Client().ListErasures(ctx, &catalogv1.ListErasuresRequest{AfterJobId: after, Limit: erasuresPage})
		if err != nil {
			return nil, err
		}
		list := resp.GetErasures()
		more = resp.GetHasMore() && len(list) > 0
		out := make([][]datum.Datum, 0, len(list))
		for _, e := range list {
			after = e.GetJobId()
			row, err := erasureRow(e)
			if err != nil {
				return nil, err
			}
			out = append(out, row)
		}
		return out, nil
	}
}

// Receipt reads the receipt of one job.
func (t *Tables) Receipt(ctx context.Context, id catalog.Identity, job string) (*Stream, error) {
	def, _ := t.Lookup(System, "erasures")
	if err := CanRead(id, def); err != nil {
		return nil, err
	}
	resp, err := t.cfg.Catalog.Client().ListErasures(ctx, &catalogv1.ListErasuresRequest{JobId: job})
	if err != nil {
		return nil, err
	}
	if len(resp.GetErasures()) == 0 {
		return nil, dberr.New(dberr.NotFound, "there is no receipt of a job '%s': system.erasures lists those there are", job)
	}
	row, err := erasureRow(resp.GetErasures()[0])
	if err != nil {
		return nil, err
	}
	return OneShot(def.Columns, [][]datum.Datum{row})
}

type erasedTable struct {
	TableID       uint32 `json:"table_id"`
	Name          string `json:"table,omitempty"`
	HotRows       uint64 `json:"hot_rows"`
	UniqueEntries uint64 `json:"unique_entries"`
	Changes       uint64 `json:"changes"`
	Segments      uint64 `json:"segments"`
	SegmentRows   uint64 `json:"segment_rows"`
	SegmentBytes  uint64 `json:"segment_bytes"`
}

type erasedFile struct {
	Path   string `json:"path"`
	Bytes  uint64 `json:"bytes"`
	SHA256 string `json:"sha256"`
	// StorageID is where it was; without one, the disks of the shard's replicas.
	StorageID string `json:"storage_id,omitempty"`
}

type erasedNode struct {
	NodeID        uint32 `json:"node_id"`
	ServerID      string `json:"server_id"`
	ConfirmedAtUS int64  `json:"confirmed_at_us"`
	Files         uint64 `json:"files"`
	ShardLogCut   uint64 `json:"shard_log_cut"`
	CatalogLogCut uint64 `json:"catalog_log_cut"`
}

type erasedBackup struct {
	BackupID     string `json:"backup_id"`
	KeyDestroyed bool   `json:"key_destroyed"`
}

func erasureRow(e *catalogv1.Erasure) ([]datum.Datum, error) {
	tables, files, nodes, backups := []erasedTable{}, []erasedFile{}, []erasedNode{}, []erasedBackup{}
	for _, t := range e.GetSurvey().GetTables() {
		line := erasedTable{t.GetTableId(), "", t.GetHotRows(), t.GetUniqueEntries(), t.GetChanges(), t.GetSegments(), t.GetSegmentRows(), t.GetSegmentBytes()}
		if t.GetName() != "" {
			line.Name = t.GetNamespace() + "." + t.GetName()
		}
		tables = append(tables, line)
	}
	for _, f := range e.GetSurvey().GetFiles() {
		files = append(files, erasedFile{f.GetPath(), f.GetBytes(), hex.EncodeToString(f.GetSha256()), f.GetStorageId()})
	}
	for _, n := range e.GetNodes() {
		nodes = append(nodes, erasedNode{n.GetNodeId(), n.GetServerId(), n.GetConfirmedAtUs(), n.GetFiles(), n.GetShardLogCut(), n.GetCatalogLogCut()})
	}
	for _, b := range e.GetBackups() {
		backups = append(backups, erasedBackup{b.GetBackupId(), b.GetKeyDestroyed()})
	}
	status := "running"
	if e.GetFinishedAtUs() != 0 {
		status = "finished"
	}
	row := []datum.Datum{datum.Text(e.GetJobId()), datum.Text(e.GetType()), datum.Text(e.GetUserId()), datum.TextOrNull(e.GetAskedBy()),
		datum.Text(status), datum.Timestamp(e.GetBegunAtUs()), moment(e.GetFinishedAtUs()), datum.Int(int64(e.GetSurvey().GetFilesTotal())),
		datum.Int(int64(e.GetBeginIndex())), datum.Int(int64(e.GetEraseIndex()))}
	for _, v := range []any{tables, files, nodes, backups} {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, dberr.New(dberr.Internal, "describe an erasure: %w", err)
		}
		row = append(row, datum.Text(string(raw)))
	}
	return append(row, datum.Text(notErased)), nil
}
