package storages

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// Others has every other storage node read a file that this one wrote. st may not be in the catalog yet.
type Others func(ctx context.Context, st *catalogv1.Storage, f objectstore.ProbeFile) error

// Create checks a new storage, tries it from all nodes and seals its credentials. The result is what the log gets.
func (s *Storages) Create(ctx context.Context, c *catalogv1.CreateStorage, others Others) (*catalogv1.CreateStorage, error) {
	out := proto.CloneOf(c)
	out.Credentials = ""
	st := out.GetStorage()
	if _, exists := s.cfg.Catalog.Storage(st.GetStorageId()); exists || st.GetStorageId() == catalog.LocalStorage {
		return out, nil // the catalog says so
	}
	if err := catalog.CheckStorageID(st.GetStorageId()); err != nil {
		return nil, err
	}
	if len(st.GetLocations()) != 1 || st.GetLocations()[0] == "" {
		return nil, dberr.New(dberr.InvalidArgument, "a storage needs a PATH, BASE_DIRECTORY or BUCKET")
	}
	kind, err := objectstore.ParseKind(st.GetType())
	if err != nil {
		return nil, err
	}
	st.Type = string(kind)
	if err := splitPath(st, st.GetLocations()[0]); err != nil {
		return nil, err
	}
	if st.GetSharedTablesTemplate() == "" {
		st.SharedTablesTemplate = sharedTemplate
	}
	if st.GetUserTablesTemplate() == "" {
		st.UserTablesTemplate = userTemplate
	}
	if err := s.prepare(ctx, st, c.GetCredentials()); err != nil {
		return nil, err
	}
	return out, s.try(ctx, st, others)
}

// Alter checks a storage as it will be, tries it from all nodes and seals its credentials. The result is what the log gets.
func (s *Storages) Alter(ctx context.Context, c *catalogv1.AlterStorage, others Others) (*catalogv1.AlterStorage, error) {
	out := proto.CloneOf(c)
	out.Credentials = nil
	old, exists := s.cfg.Catalog.Storage(c.GetStorageId())
	if !exists {
		return out, nil // the catalog says so
	}
	if out.Path != nil {
		named := proto.CloneOf(old)
		if err := splitPath(named, out.GetPath()); err != nil {
			return nil, err
		}
		at, err := objectstore.ParseLocation(objectstore.Kind(old.GetType()), named.GetLocations()[0])
		if err != nil {
			return nil, err
		}
		named.Locations[0] = at.String()
		out.Path = &named.Locations[0]
		if named.GetUserTablesTemplate() != old.GetUserTablesTemplate() && out.UserTablesTemplate == nil {
			out.UserTablesTemplate = &named.UserTablesTemplate
		}
		if named.GetSharedTablesTemplate() != old.GetSharedTablesTemplate() && out.SharedTablesTemplate == nil {
			out.SharedTablesTemplate = &named.SharedTablesTemplate
		}
	}
	st, err := catalogstate.Altered(old, out)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, st, c.GetCredentials()); err != nil {
		return nil, err
	}
	if out.Config != nil || c.Credentials != nil {
		if err := s.stillOurs(ctx, st, len(old.GetLocations())); err != nil {
			return nil, err
		}
	}
	if err := s.try(ctx, st, others); err != nil {
		return nil, err
	}
	if out.Config != nil {
		out.Config = &st.Config
	}
	if string(st.GetSealedCredentials()) != string(old.GetSealedCredentials()) {
		out.SealedCredentials = st.GetSealedCredentials()
	}
	return out, nil
}

// stillOurs refuses another endpoint or account where the first n locations, which segments name, are not.
func (s *Storages) stillOurs(ctx context.Context, st *catalogv1.Storage, n int) error {
	for i := range n {
		cfg, err := s.configOf(ctx, st, uint32(i))
		if err != nil {
			return err
		}
		cfg.Limits = probeLimits
		store, err := objectstore.Open(ctx, cfg)
		if err == nil {
			err = errors.Join(s.checkMark(ctx, store), store.Close())
		}
		if err != nil {
			return dberr.New(dberr.InvalidOperation, "storage '%s' would not find its files at %s any more: %s; copy them there first, or create another storage and move the tables",
				st.GetStorageId(), st.GetLocations()[i], err.Error())
		}
	}
	return nil
}

// prepare puts the secrets of CONFIG to those of CREDENTIALS and seals them.
func (s *Storages) prepare(ctx context.Context, st *catalogv1.Storage, credentials string) error {
	for _, t := range []struct {
		text string
		user bool
	}{{st.GetSharedTablesTemplate(), false}, {st.GetUserTablesTemplate(), true}} {
		if err := checkTemplate(t.text, t.user); err != nil {
			return err
		}
	}
	config := st.GetConfig()
	st.Config = ""
	cfg, err := s.configOf(ctx, st, st.GetLocation()) // with the secrets there are
	if err != nil {
		return err
	}
	st.Locations[st.GetLocation()] = cfg.Location.String()
	before := cfg.Secrets
	for _, raw := range []string{config, credentials} {
		if err := cfg.Options(raw); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(cfg.Settings)
	if err != nil {
		return dberr.New(dberr.Internal, "write the settings of a storage: %w", err)
	}
	if st.Config = string(raw); st.Config == "{}" {
		st.Config = ""
	}
	if cfg.Secrets != before {
		plain, err := json.Marshal(cfg.Secrets)
		if err != nil {
			return dberr.New(dberr.Internal, "write the credentials of a storage: %w", err)
		}
		if st.SealedCredentials, err = s.cfg.Keys.Seal(ctx, purpose(st.GetStorageId()), plain); err != nil {
			return err
		}
	}
	return nil
}

// try probes a storage; an error says what is wrong with it. The reason is the storage's, whatever its code: nothing is tried again.
func (s *Storages) try(ctx context.Context, st *catalogv1.Storage, others Others) error {
	h, err := s.probe(ctx, st, others, true)
	if err == nil && !h.Healthy() {
		err = h.Err
	}
	if err == nil {
		return nil
	}
	code := dberr.InvalidOperation
	if dberr.Is(err, dberr.InvalidArgument) {
		code = dberr.InvalidArgument
	}
	return dberr.New(code, "storage '%s' is not usable: %s", st.GetStorageId(), err.Error())
}

func (s *Storages) probe(ctx context.Context, st *catalogv1.Storage, others Others, mark bool) (objectstore.Health, error) {
	cfg, err := s.configOf(ctx, st, st.GetLocation())
	if err != nil {
		return objectstore.Health{}, err
	}
	cfg.Limits = probeLimits
	store, err := objectstore.Open(ctx, cfg)
	if err != nil {
		return objectstore.Health{}, err
	}
	defer func() { _ = store.Close() }() // its own, and nothing is kept of it
	h := store.Probe(ctx, func(ctx context.Context, f objectstore.ProbeFile) error { return others(ctx, st, f) })
	if h.Healthy() && mark {
		err = s.mark(ctx, store)
	}
	return h, err
}

// ReadProbe reads a file that another node has just written.
func (s *Storages) ReadProbe(ctx context.Context, st *catalogv1.Storage, f objectstore.ProbeFile) error {
	if !strings.HasPrefix(f.Key, objectstore.ProbePrefix) {
		return dberr.New(dberr.InvalidArgument, "%.80q is not a file of a probe", f.Key)
	}
	cfg, err := s.configOf(ctx, st, st.GetLocation())
	if err != nil {
		return err
	}
	store, err := objectstore.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // it was only read
	if err := store.ReadProbe(ctx, f); err != nil {
		if dberr.Is(err, dberr.NotFound) && cfg.Location.Kind == objectstore.Filesystem {
			return dberr.New(dberr.InvalidArgument, "the folder %s is not the same one here: it must be a folder that all storage nodes share", cfg.Location)
		}
		return err
	}
	return nil
}

// Check answers STORAGE CHECK.
func (s *Storages) Check(ctx context.Context, id string, extended bool, others Others) (*catalogv1.CheckStorageResponse, error) {
	st, ok := s.cfg.Catalog.Storage(id)
	if !ok {
		return nil, dberr.New(dberr.NotFound, "Storage '%s' does not exist", id)
	}
	began := time.Now()
	h, err := s.probe(ctx, st, others, false)
	if err == nil {
		err = h.Err
	}
	resp := &catalogv1.CheckStorageResponse{TestedAtUs: began.UnixMicro(), StorageId: id, Readable: h.Readable, Writable: h.Writable, Listable: h.Listable,
		Deletable: h.Deletable, LatencyUs: h.Latency.Microseconds()}
	if err != nil {
		resp.Error = err.Error()
	}
	if extended && err == nil {
		err = s.measure(ctx, st, resp)
	}
	if err != nil && resp.GetError() == "" {
		resp.Error = err.Error()
	}
	if ctx.Err() != nil { // else what is wrong with a storage is the answer, not an error of the statement
		return nil, dberr.FromStatus(ctx.Err())
	}
	return resp, nil
}

// probeLimits are those of somebody who waits to hear what is wrong: a statement has 30 s.
var probeLimits = objectstore.Limits{Request: 10 * time.Second, Connect: 5 * time.Second, Attempts: 2}

// measuredMax bounds the files that are counted.
const measuredMax = 1_000_000

// measure adds up what is in a storage's present location; what its file system has, where it is a folder.
func (s *Storages) measure(ctx context.Context, st *catalogv1.Storage, resp *catalogv1.CheckStorageResponse) error {
	store, release, err := s.use(ctx, st.GetStorageId(), st.GetLocation())
	if err != nil {
		return err
	}
	defer release()
	if total, used, ok := objectstore.DiskUse(st.GetLocations()[st.GetLocation()]); ok && st.GetType() == string(objectstore.Filesystem) {
		resp.TotalBytes, resp.UsedBytes = &total, &used
		return nil
	}
	used, n := uint64(0), 0
	err = store.List(ctx, "", func(o objectstore.Object) error {
		if n++; n > measuredMax {
			return dberr.New(dberr.LimitExceeded, "the storage has more than %d files (measuredMax): they are not counted", measuredMax)
		}
		used += uint64(o.Bytes)
		return nil
	})
	if err == nil {
		resp.UsedBytes = &used
	}
	return err
}

// firstVariable is where the template begins in the seed's PATH 's3://bucket/prefix/${namespace}/${user_id}'.
var firstVariable = regexp.MustCompile(`/?[^/]*\$?\{`)

// splitPath parts the seed's PATH into a location and templates.
func splitPath(st *catalogv1.Storage, text string) error {
	at := firstVariable.FindStringIndex(text)
	if at == nil {
		st.Locations = []string{text}
		return nil
	}
	st.Locations = []string{strings.TrimSuffix(text[:at[0]], "/")}
	template := strings.Trim(text[at[0]:], "/")
	var shared []string
	for part := range strings.SplitSeq(template, "/") {
		keep := true
		for _, m := range variable.FindAllStringSubmatch(part, -1) {
			keep = keep && variableName(m[1]) != varUser
		}
		if keep {
			shared = append(shared, part)
		}
	}
	st.UserTablesTemplate, st.SharedTablesTemplate = template, strings.Join(shared, "/")
	if !strings.Contains(strings.ToLower(template), "user") {
		st.UserTablesTemplate = template + "/{userId}"
	}
	if checkTemplate(st.GetSharedTablesTemplate(), false) != nil { // the seed's may name only the user
		st.SharedTablesTemplate = sharedTemplate
	}
	return nil
}
