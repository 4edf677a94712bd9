package catalogstate

import (
	"cmp"
	"maps"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// bucketStorages holds id → Storage. The first storage makes it, as the first job makes its buckets.
var bucketStorages = []byte("storages")

const (
	// storagesMax bounds the storages, all of which every role holds in memory.
	storagesMax = 256
	// locationsMax bounds the places one storage has had.
	locationsMax = 64
	// storageTextMax bounds each text of a storage in bytes, sealed credentials included.
	storageTextMax = 16 << 10
)

// Storages returns all storages but local, by id. They are shared and must not be changed; they have their sealed credentials.
func (s *State) Storages() []*catalogv1.Storage { return s.model.Load().sortedStorages() }

// Storage returns a storage by id, with its sealed credentials.
func (s *State) Storage(id string) (*catalogv1.Storage, bool) {
	st, ok := s.model.Load().storages[id]
	return st, ok
}

func (m *model) sortedStorages() []*catalogv1.Storage {
	return slices.SortedFunc(maps.Values(m.storages), func(a, b *catalogv1.Storage) int { return cmp.Compare(a.GetStorageId(), b.GetStorageId()) })
}

// shown is a storage as it leaves the storage role: without credentials.
func shown(s *catalogv1.Storage) *catalogv1.Storage {
	out := proto.CloneOf(s)
	out.HasCredentials, out.SealedCredentials = len(s.GetSealedCredentials()) > 0, nil
	return out
}

func (m *model) shownStorages() (out []*catalogv1.Storage) {
	for _, s := range m.sortedStorages() {
		out = append(out, shown(s))
	}
	return out
}

// loadStorages reads the bucket, if there is one.
func loadStorages(tx *bbolt.Tx, m *model) error {
	if tx.Bucket(bucketStorages) == nil {
		return nil
	}
	return each(tx, bucketStorages, func(s *catalogv1.Storage) { m.storages[s.GetStorageId()] = s })
}

func noStorage(id string) error {
	return refuse(dberr.NotFound, "Storage '%s' does not exist", id)
}

func (t *transaction) createStorage(c *catalogv1.CreateStorage) (*catalogv1.ApplyResponse, error) {
	s := c.GetStorage() // decoded from the entry: nobody else has it
	if old := t.model.storages[s.GetStorageId()]; old != nil || s.GetStorageId() == catalog.LocalStorage {
		if c.GetIfNotExists() {
			return unchanged()
		}
		return nil, refuse(dberr.AlreadyExists, "Storage '%s' already exists", s.GetStorageId())
	}
	switch _, err := objectstore.ParseKind(s.GetType()); {
	case c.GetCredentials() != "":
		return nil, refuse(dberr.InvalidArgument, "the credentials of a storage are not sealed")
	case err != nil:
		return nil, refuse(dberr.InvalidArgument, "%s", err.Error())
	case len(t.model.storages) >= storagesMax:
		return nil, refuse(dberr.LimitExceeded, "there are %d storages, which is the most (storagesMax)", storagesMax)
	case len(s.GetLocations()) != 1 || s.GetLocation() != 0:
		return nil, refuse(dberr.InvalidArgument, "a new storage has one location")
	}
	if err := catalog.CheckStorageID(s.GetStorageId()); err != nil {
		return nil, refuse(dberr.InvalidArgument, "%s", err.Error())
	}
	s.CreatedAtUs, s.Revision = t.now, 0
	return t.storeStorage(s)
}

// storeStorage writes a storage and tells the watchers.
func (t *transaction) storeStorage(s *catalogv1.Storage) (*catalogv1.ApplyResponse, error) {
	for _, text := range []string{s.GetName(), s.GetDescription(), s.GetConfig(), s.GetSharedTablesTemplate(), s.GetUserTablesTemplate(),
		s.GetLocations()[s.GetLocation()], string(s.GetSealedCredentials())} {
		if len(text) > storageTextMax {
			return nil, refuse(dberr.LimitExceeded, "a text of storage '%s' has %d bytes, the limit is %d (storageTextMax)", s.GetStorageId(), len(text), storageTextMax)
		}
	}
	s.UpdatedAtUs, s.HasCredentials = t.now, len(s.GetSealedCredentials()) > 0
	s.Revision++
	if _, err := t.tx.CreateBucketIfNotExists(bucketStorages); err != nil {
		return nil, err
	}
	t.edit().storages[s.GetStorageId()] = s
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_StorageChanged{StorageChanged: shown(s)}})
	resp := changed()
	resp.Storage = shown(s)
	return resp, putMessage(t.bucket(bucketStorages), []byte(s.GetStorageId()), s)
}

func (t *transaction) alterStorage(c *catalogv1.AlterStorage) (*catalogv1.ApplyResponse, error) {
	old := t.model.storages[c.GetStorageId()]
	if old == nil {
		return nil, noStorage(c.GetStorageId())
	}
	if c.Credentials != nil {
		return nil, refuse(dberr.InvalidArgument, "the credentials of a storage are not sealed")
	}
	s, err := Altered(old, c)
	if err != nil {
		return nil, refuse(dberr.CodeOf(err), "%s", err.Error())
	}
	if proto.Equal(s, old) {
		return &catalogv1.ApplyResponse{Storage: shown(old)}, nil
	}
	return t.storeStorage(s)
}

// Altered is a storage as a command will make it; the plain credentials of the command are left out.
func Altered(old *catalogv1.Storage, c *catalogv1.AlterStorage) (*catalogv1.Storage, error) {
	s := proto.CloneOf(old)
	for _, f := range []struct{ to, from *string }{{&s.Name, c.Name}, {&s.Description, c.Description}, {&s.Config, c.Config},
		{&s.SharedTablesTemplate, c.SharedTablesTemplate}, {&s.UserTablesTemplate, c.UserTablesTemplate}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if c.SealedCredentials != nil {
		s.SealedCredentials = c.GetSealedCredentials()
	}
	if c.Path == nil {
		return s, nil
	}
	at := slices.Index(s.GetLocations(), c.GetPath())
	if at < 0 {
		if at = len(s.GetLocations()); at >= locationsMax {
			return nil, dberr.New(dberr.LimitExceeded, "storage '%s' has had %d paths, which is the most (locationsMax): create another storage",
				s.GetStorageId(), locationsMax)
		}
		s.Locations = append(s.Locations, c.GetPath())
	}
	s.Location = uint32(at)
	return s, nil
}

func (t *transaction) dropStorage(c *catalogv1.DropStorage) (*catalogv1.ApplyResponse, error) {
	id := c.GetStorageId()
	if id == catalog.LocalStorage {
		return nil, refuse(dberr.InvalidOperation, "Cannot drop storage 'local': it always exists")
	}
	if t.model.storages[id] == nil {
		if c.GetIfExists() {
			return unchanged()
		}
		return nil, noStorage(id)
	}
	if n := t.model.tablesIn(id); n > 0 {
		return nil, refuse(dberr.InvalidOperation, "Cannot drop storage '%s': %d table(s) still using it", id, n)
	}
	user, err := t.userIn(id)
	if err != nil {
		return nil, err
	}
	if user != "" {
		return nil, refuse(dberr.InvalidOperation, "Cannot drop storage '%s': user '%s' still uses it", id, user)
	}
	delete(t.edit().storages, id)
	t.emit(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_StorageDropped{StorageDropped: id}})
	return changed(), t.bucket(bucketStorages).Delete([]byte(id))
}

// TablesIn is how many tables name a storage.
func (s *State) TablesIn(storage string) int { return s.model.Load().tablesIn(storage) }

func (m *model) tablesIn(storage string) (n int) {
	for _, e := range m.tables {
		if e.table.Options.StorageID == storage {
			n++
		}
	}
	return n
}

// userIn is a user who has a storage, "" when there is none. It goes over all users, dropped ones too, as they can be restored: storages are
// dropped by hand and seldom, and a count would be one more thing to keep right.
func (t *transaction) userIn(storage string) (user string, err error) {
	err = t.bucket(bucketUsers).ForEach(func(k, v []byte) error {
		u := &catalogv1.User{}
		if user != "" {
			return nil
		}
		if err := proto.Unmarshal(v, u); err != nil {
			return dberr.New(dberr.Corrupt, "read user: %w", err)
		}
		if u.GetStorageId() == storage {
			user = u.GetUserId()
		}
		return nil
	})
	return user, err
}

// checkStorage refuses a storage that does not exist. Tables from before there were storages may name such ones: their segments are local.
func (t *transaction) checkStorage(id string) error {
	if id == "" || id == catalog.LocalStorage || t.model.storages[id] != nil {
		return nil
	}
	return noStorage(id)
}

// checkUserStorage checks what CREATE and ALTER USER make of a user.
func (t *transaction) checkUserStorage(u *catalogv1.User) error {
	switch u.GetStorageMode() {
	case "", catalog.StorageModeTable, catalog.StorageModeRegion:
	default:
		return refuse(dberr.InvalidArgument, "storage mode %.32q is not table or region", u.GetStorageMode())
	}
	return t.checkStorage(u.GetStorageId())
}
