// Package objectstore keeps whole files in a folder that machines share, in S3, in Google Cloud Storage or in Azure Blob Storage, behind one
// small interface. It knows nothing of what the files are.
//
// What a store says is not believed: what was put is read back, what is fetched has the length and the SHA-256 that the caller knows. What
// may pass is tried again, and every request has an end. Where requests may go to is checked (Rules), after names are resolved. No error
// carries a credential.
package objectstore

import (
	"context"
	"crypto/md5" //nolint:gosec // what S3 and GCS tell of an object; it is compared, not trusted against an adversary
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"gocloud.dev/blob"
	"golang.org/x/sync/semaphore"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Kind is where a store keeps files.
type Kind string

// The kinds.
const (
	Filesystem Kind = "filesystem"
	S3         Kind = "s3"
	GCS        Kind = "gcs"
	Azure      Kind = "azure"
)

// ParseKind reads the name of a kind, in any case; azure_blob is another name of azure.
func ParseKind(name string) (Kind, error) {
	switch k := Kind(strings.ToLower(name)); k {
	case Filesystem, S3, GCS, Azure:
		return k, nil
	case "azure_blob":
		return Azure, nil
	case "local", "file":
		return Filesystem, nil
	}
	return "", dberr.New(dberr.InvalidArgument, "storage type %.32q is not filesystem, s3, gcs or azure", name)
}

const (
	// keyBytesMax is the limit of S3 and GCS for an object's name.
	keyBytesMax = 1024
	// rangeBytes is how much one request of Fetch asks for, rangesAtOnce how many of them run for one file: what Fetch holds in memory.
	rangeBytes   = 8 << 20
	rangesAtOnce = 4
	// requestsMax bounds the ranges of one store that are on their way, whoever asks.
	requestsMax = 16
	// listPageMax is how many objects one request lists.
	listPageMax = 1000
	// uploadBytesPerSecond is what an upload must reach to be given more time than one request has.
	uploadBytesPerSecond = 1 << 20
)

// Limits bound requests. Zero values mean the defaults of spec 6.6.
type Limits struct {
	// Request bounds one request, its answer's body included; the default is 60 s. Connect bounds making a connection; the default is 10 s.
	Request, Connect time.Duration
	// Attempts is how often a request is made that fails for a reason that may pass; the default is 4.
	Attempts int
	// Backoff is the pause before the second attempt, which doubles up to a hundredfold; the default is 100 ms.
	Backoff time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Request == 0 {
		l.Request = 60 * time.Second
	}
	if l.Connect == 0 {
		l.Connect = 10 * time.Second
	}
	if l.Attempts == 0 {
		l.Attempts = 4
	}
	if l.Backoff == 0 {
		l.Backoff = 100 * time.Millisecond
	}
	return l
}

// Config describes a store.
type Config struct {
	// Name is what errors call the store.
	Name     string
	Location Location
	Settings Settings
	Secrets  Secrets
	Rules    Rules
	Limits   Limits
}

// Sum is what a file is.
type Sum struct {
	Bytes  int64
	SHA256 []byte
}

// Object is a file in a store, as a list tells of it.
type Object struct {
	Key   string
	Bytes int64
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	cfg      Config
	bucket   *blob.Bucket
	requests *semaphore.Weighted
	redact   *strings.Replacer
	// after is told of files that were put or deleted, by kinds that have to do more.
	stored, deleted func(key string) error
	close           func()
}

// Open checks where a store is and makes a client for it. It asks the store nothing: see Probe.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	s := &Store{cfg: cfg, requests: semaphore.NewWeighted(requestsMax), redact: cfg.Secrets.replacer()}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	open := map[Kind]func(context.Context) error{Filesystem: s.openFolder, S3: s.openS3, GCS: s.openGCS, Azure: s.openAzure}[cfg.Location.Kind]
	if err := open(ctx); err != nil {
		return nil, s.failed(ctx, "open", "", err)
	}
	if p := cfg.Location.Prefix; p != "" {
		s.bucket = blob.PrefixedBucket(s.bucket, p+"/")
	}
	return s, nil
}

// Close frees the store's connections. Nothing may be in use.
func (s *Store) Close() error {
	err := s.bucket.Close()
	if s.close != nil {
		s.close()
	}
	return err
}

// goodKey: what every kind takes as it is, so that a key is the same in all of them, and in a folder is the path.
var goodKey = regexp.MustCompile(`^[A-Za-z0-9_.%=@+-]+(/[A-Za-z0-9_.%=@+-]+)*$`)

// CheckKey refuses names that some kind of store would change or not take. A prefix of List may end in a slash.
func CheckKey(key string) error {
	if len(key) > keyBytesMax || !goodKey.MatchString(key) {
		return dberr.New(dberr.InvalidArgument, "%.80q cannot be the name of a file in a storage: parts of [A-Za-z0-9_.%%=@+-] with slashes between, %d bytes at most", key, keyBytesMax)
	}
	for part := range strings.SplitSeq(key, "/") {
		// Libraries write what they do not like as __0x2f__, ../ among it, and read it back as that.
		if part == "." || strings.HasSuffix(part, "..") || strings.Contains(part, "__0x") {
			return dberr.New(dberr.InvalidArgument, "%.80q cannot be the name of a file in a storage: it has the part %q", key, part)
		}
	}
	return nil
}

// Put stores a file in place of what has the key, and returns when the store has shown that it has it: its length, and its MD5 where the
// store computes one, else all of it is read back. from is read several times.
func (s *Store) Put(ctx context.Context, key string, from io.ReaderAt, want Sum) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	sums, err := sumOf(io.NewSectionReader(from, 0, want.Bytes))
	if err != nil {
		return dberr.New(dberr.Unavailable, "read the file that is to become %s of storage %s: %w", key, s.cfg.Name, err)
	}
	if string(sums.sha256) != string(want.SHA256) || sums.bytes != want.Bytes {
		return dberr.New(dberr.Corrupt, "the local file that is to become %s of storage %s is not what was written (%d bytes, SHA-256 %x)",
			key, s.cfg.Name, want.Bytes, want.SHA256)
	}
	return s.again(ctx, func(ctx context.Context) error {
		if err := s.upload(ctx, key, io.NewSectionReader(from, 0, want.Bytes), want.Bytes); err != nil {
			return s.failed(ctx, "write", key, err)
		}
		if s.stored != nil {
			if err := s.stored(key); err != nil {
				return s.failed(ctx, "make durable", key, err)
			}
		}
		return s.readBack(ctx, key, want, sums.md5)
	})
}

func (s *Store) upload(ctx context.Context, key string, from io.Reader, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request+time.Duration(bytes/uploadBytesPerSecond)*time.Second)
	defer cancel()
	// Not by a Writer: those of Azure and S3 take a nil pipe when an upload fails while they are being closed.
	return s.bucket.Upload(ctx, key, &cutting{from: from, cut: cancel}, &blob.WriterOptions{ContentType: "application/octet-stream",
		BufferSize: rangeBytes, MaxConcurrency: 2})
}

// cutting is a reader that ends an upload when it fails: else the store would make a file of what there is.
type cutting struct {
	from io.Reader
	cut  context.CancelFunc
}

func (c *cutting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.cut()
	}
	return n, err
}

// readBack compares what the store has with what was put.
func (s *Store) readBack(ctx context.Context, key string, want Sum, sum []byte) error {
	one, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request)
	defer cancel()
	attr, err := s.bucket.Attributes(one, key)
	if err != nil {
		if dberr.Is(s.failed(ctx, "look at", key, err), dberr.NotFound) { // it was just written
			return dberr.New(dberr.Unavailable, "storage %s does not have %s after it was written", s.cfg.Name, key)
		}
		return s.failed(ctx, "look at", key, err)
	}
	if attr.Size != want.Bytes {
		return dberr.New(dberr.Corrupt, "storage %s has %d bytes of %s, %d were written", s.cfg.Name, attr.Size, key, want.Bytes)
	}
	// Azure tells what the writer claimed, encrypted S3 something else: only the same MD5 proves anything.
	if s.cfg.Location.Kind != Azure && string(attr.MD5) == string(sum) {
		return nil
	}
	return s.Fetch(ctx, key, want, io.Discard)
}

// Stat is how long a file is; NotFound when it is not there.
func (s *Store) Stat(ctx context.Context, key string) (bytes int64, err error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	err = s.again(ctx, func(ctx context.Context) error {
		one, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request)
		defer cancel()
		attr, err := s.bucket.Attributes(one, key)
		if err != nil {
			return s.failed(ctx, "look at", key, err)
		}
		bytes = attr.Size
		return nil
	})
	return bytes, err
}

// Delete removes a file. One that is not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	return s.again(ctx, func(ctx context.Context) error {
		one, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request)
		defer cancel()
		err := s.bucket.Delete(one, key)
		if err != nil {
			if err = s.failed(ctx, "delete", key, err); !dberr.Is(err, dberr.NotFound) {
				return err
			}
		}
		if s.deleted != nil {
			return s.deleted(key)
		}
		return nil
	})
}

// List visits the files whose keys begin with prefix, in order of key, until visit fails. A store may leave out what was written lately
// and tell of what is gone.
func (s *Store) List(ctx context.Context, prefix string, visit func(Object) error) error {
	if p := strings.TrimSuffix(prefix, "/"); p != "" {
		if err := CheckKey(p); err != nil {
			return err
		}
	}
	token := blob.FirstPageToken
	for token != nil {
		var page []*blob.ListObject
		var next []byte
		err := s.again(ctx, func(ctx context.Context) error {
			one, cancel := context.WithTimeout(ctx, s.cfg.Limits.Request)
			defer cancel()
			var err error
			if page, next, err = s.bucket.ListPage(one, token, listPageMax, &blob.ListOptions{Prefix: prefix}); err != nil {
				return s.failed(ctx, "list", prefix, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, o := range page {
			if err := visit(Object{Key: o.Key, Bytes: o.Size}); err != nil {
				return err
			}
		}
		if token = next; len(token) == 0 {
			return nil
		}
	}
	return nil
}

// sums are computed in one pass.
type sums struct {
	bytes       int64
	sha256, md5 []byte
}

func sumOf(r io.Reader) (sums, error) {
	long, short := sha256.New(), md5.New() //nolint:gosec // see the import
	n, err := io.Copy(io.MultiWriter(long, short), r)
	return sums{bytes: n, sha256: long.Sum(nil), md5: short.Sum(nil)}, err
}

// isMissing: of a folder, which is made with its first file.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
