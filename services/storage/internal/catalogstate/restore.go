package catalogstate

import (
	"bytes"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// bucketRestoring has the tables of restores that have not ended: job id, table id → Table. It is made by the first restore: see
// bucketJobs. They are in no model, so that nothing finds them.
var bucketRestoring = []byte("restoring")

func restoringKey(job string, table uint32) []byte { return append([]byte(job), idKey(table)...) }

// restoring are the tables of a restore, in order of their ids.
func (t *transaction) restoring(job string) (tables []*catalogv1.Table, err error) {
	b := t.bucket(bucketRestoring)
	if b == nil {
		return nil, nil
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(job)); bytes.HasPrefix(k, []byte(job)); k, v = c.Next() {
		p := new(catalogv1.Table)
		if err := proto.Unmarshal(v, p); err != nil {
			return nil, dberr.New(dberr.Corrupt, "read a table that is being restored: %w", err)
		}
		tables = append(tables, p)
	}
	return tables, nil
}

// restoreJob finds a restore that runs.
func (t *transaction) restoreJob(id string) (*catalogv1.Job, error) {
	if b := t.bucket(bucketJobs); b == nil || !validJobID(id) || b.Get([]byte(id)) == nil {
		return nil, refuse(dberr.NotFound, "there is no job %s", id)
	}
	j, err := readJob(t.tx, id)
	if err != nil {
		return nil, err
	}
	if j.GetType() != catalog.JobRestore || j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_RUNNING {
		return nil, refuse(dberr.InvalidOperation, "job %s is no restore that runs", id)
	}
	return j, nil
}

func (t *transaction) restoreTable(c *catalogv1.RestoreTable) (*catalogv1.ApplyResponse, error) {
	if _, err := t.restoreJob(c.GetRestoreId()); err != nil {
		return nil, err
	}
	p := c.GetTable() // decoded from the entry: nobody else has it
	if p == nil {
		return nil, refuse(dberr.InvalidArgument, "a restore without a table")
	}
	p.Namespace, p.Name = strings.ToLower(p.GetNamespace()), strings.ToLower(p.GetName())
	tables, err := t.restoring(c.GetRestoreId())
	if err != nil {
		return nil, err
	}
	for _, other := range tables {
		if other.GetNamespace() == p.GetNamespace() && other.GetName() == p.GetName() {
			return &catalogv1.ApplyResponse{Table: other}, nil
		}
	}
	if e := t.model.byName[p.GetNamespace()+"."+p.GetName()]; e != nil {
		return nil, refuse(dberr.AlreadyExists, "Table %s already exists", e.table.QualifiedName())
	}
	if err := checkRestored(p); err != nil {
		return nil, err
	}
	b, err := t.tx.CreateBucketIfNotExists(bucketRestoring)
	if err != nil {
		return nil, err
	}
	meta := t.bucket(bucketMeta)
	p.Id = uint32(number(meta, keyNextTable)) + 1
	if err := putNumber(meta, keyNextTable, uint64(p.GetId())); err != nil {
		return nil, err
	}
	resp := changed()
	resp.Table = p
	return resp, putMessage(b, restoringKey(c.GetRestoreId(), p.GetId()), p)
}

// checkRestored checks a definition that comes from a file.
func checkRestored(p *catalogv1.Table) error {
	if !validName(p.GetNamespace()) {
		return checkName("Namespace", p.GetNamespace())
	}
	if err := checkTable(p); err != nil {
		return err
	}
	if p.GetSchemaVersion() == 0 {
		return refuse(dberr.InvalidArgument, "Table %s.%s has no schema version", p.GetNamespace(), p.GetName())
	}
	seen := map[uint32]bool{}
	for _, col := range p.GetColumns() {
		if id := col.GetId(); id == 0 || id >= p.GetNextColumnId() || seen[id] {
			return refuse(dberr.InvalidArgument, "Column '%s' has the id %d: they are distinct, and below %d", col.GetName(), id, p.GetNextColumnId())
		}
		seen[col.GetId()] = true
	}
	return checkPartitions(p)
}

func (t *transaction) restoreVersions(c *catalogv1.RestoreVersions) (*catalogv1.ApplyResponse, error) {
	if _, err := t.restoreJob(c.GetRestoreId()); err != nil {
		return nil, err
	}
	b := t.bucket(bucketRestoring)
	if b == nil || b.Get(restoringKey(c.GetRestoreId(), c.GetTableId())) == nil {
		return nil, refuse(dberr.TableNotFound, "table %d is not being restored by %s", c.GetTableId(), c.GetRestoreId())
	}
	for _, p := range c.GetVersions() {
		p.Id = c.GetTableId()
		if err := t.keepVersion(p); err != nil {
			return nil, err
		}
	}
	return changed(), nil
}

func (t *transaction) finishRestore(c *catalogv1.FinishRestore) (*catalogv1.ApplyResponse, error) {
	j, err := t.restoreJob(c.GetRestoreId())
	if err != nil {
		return nil, err
	}
	tables, err := t.restoring(c.GetRestoreId())
	if err != nil {
		return nil, err
	}
	if err := t.checkFinish(c, tables); err != nil {
		return nil, err
	}
	for _, n := range c.GetNamespaces() {
		if n.Name = strings.ToLower(n.GetName()); t.model.namespaces[n.GetName()] == nil {
			if err := t.addNamespace(n); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range tables {
		if err := t.bucket(bucketRestoring).Delete(restoringKey(c.GetRestoreId(), p.GetId())); err != nil {
			return nil, err
		}
		t.edit().putTable(p)
		t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableChanged{TableChanged: p}})
		if err := putMessage(t.bucket(bucketTables), idKey(p.GetId()), p); err != nil {
			return nil, err
		}
	}
	j.Status, j.UpdatedAtUs, j.Message = catalogv1.JobStatus_JOB_STATUS_COMPLETED, t.now, c.GetMessage()
	if c.GetProgress() != nil {
		j.Progress = c.GetProgress()
	}
	return t.endJob(j)
}

// checkFinish refuses what would end half done.
func (t *transaction) checkFinish(c *catalogv1.FinishRestore, tables []*catalogv1.Table) error {
	if !slices.EqualFunc(tables, c.GetTableIds(), func(p *catalogv1.Table, id uint32) bool { return p.GetId() == id }) {
		return refuse(dberr.Conflict, "restore %s has begun anew: its tables are other ones", c.GetRestoreId())
	}
	there := map[string]bool{}
	for _, n := range c.GetNamespaces() {
		name := strings.ToLower(n.GetName())
		if t.model.namespaces[name] == nil && reservedNamespaces[name] {
			return refuse(dberr.InvalidArgument, "Namespace name '%s' is reserved", name)
		}
		if err := checkName("Namespace", name); err != nil {
			return err
		}
		there[name] = true
	}
	for _, p := range tables {
		if e := t.model.byName[p.GetNamespace()+"."+p.GetName()]; e != nil {
			return refuse(dberr.AlreadyExists, "Table %s was created meanwhile", e.table.QualifiedName())
		}
		if !there[p.GetNamespace()] && t.model.namespaces[p.GetNamespace()] == nil {
			return refuse(dberr.NamespaceNotFound, "Namespace '%s' does not exist", p.GetNamespace())
		}
	}
	return checkJobTexts(c.GetRestoreId(), c.GetMessage())
}

func (t *transaction) abandonRestore(id string) (*catalogv1.ApplyResponse, error) {
	tables, err := t.restoring(id)
	if err != nil {
		return nil, err
	}
	for _, p := range tables {
		if err := t.bucket(bucketRestoring).Delete(restoringKey(id, p.GetId())); err != nil {
			return nil, err
		}
		if err := t.bucket(bucketDropped).Put(idKey(p.GetId()), droppedMark); err != nil { // its rows are to be removed
			return nil, err
		}
		if err := t.forgetVersions(p.GetId()); err != nil {
			return nil, err
		}
		t.wake = true
	}
	if len(tables) == 0 {
		return unchanged()
	}
	return changed(), nil
}

func (t *transaction) restoreAccounts(c *catalogv1.RestoreAccounts) (*catalogv1.ApplyResponse, error) {
	for _, u := range c.GetUsers() {
		if err := catalog.CheckUserID(u.GetUserId()); err != nil {
			return nil, refuse(dberr.CodeOf(err), "%w", err)
		}
		if err := checkRole(u.GetRole()); err != nil {
			return nil, err
		}
	}
	for _, u := range c.GetUsers() {
		old, err := readUser(t.tx, u.GetUserId())
		if err != nil {
			return nil, err
		}
		if old != nil {
			continue
		}
		if _, err := t.storeUser(u); err != nil {
			return nil, err
		}
	}
	return changed(), nil
}

// Restoring lists the tables that are being restored, of any restore.
func (s *State) Restoring() (tables []*catalogv1.Table, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketRestoring) == nil {
			return nil
		}
		return each(tx, bucketRestoring, func(p *catalogv1.Table) { tables = append(tables, p) })
	})
	return tables, err
}

// Entries returns the namespaces and the tables that match, each in order: of one namespace, or ("") of all.
func (s *State) Entries(namespace string) (namespaces []*catalogv1.Namespace, tables []*catalogv1.Table) {
	m := s.model.Load()
	for name, n := range m.namespaces {
		if namespace == "" || namespace == name {
			namespaces = append(namespaces, n)
		}
	}
	for _, e := range m.tables {
		if namespace == "" || namespace == e.table.Namespace {
			tables = append(tables, e.proto)
		}
	}
	slices.SortFunc(namespaces, func(a, b *catalogv1.Namespace) int { return strings.Compare(a.GetName(), b.GetName()) })
	slices.SortFunc(tables, func(a, b *catalogv1.Table) int { return int(a.GetId()) - int(b.GetId()) })
	return namespaces, tables
}
