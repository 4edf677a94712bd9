package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	bucketName = "segments"
	keyID      = "AKIATESTTESTTEST"
	secretKey  = "very/secret+key=="
	// azuriteAccount and azuriteKey are what every Azurite has; they open nothing else.
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// brief are limits with which a test of what fails ends soon.
var brief = Limits{Request: 2 * time.Second, Connect: time.Second, Attempts: 3, Backoff: time.Millisecond}

// s3Server serves S3 on loopback, through wrap.
func s3Server(t *testing.T, wrap func(http.Handler) http.Handler) Config {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(bucketName); err != nil {
		t.Fatal(err)
	}
	h := gofakes3.New(backend).Server()
	if wrap != nil {
		h = wrap(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return Config{Name: "x", Location: Location{Kind: S3, Bucket: bucketName, Prefix: "some/where"},
		Settings: Settings{Endpoint: server.URL, AllowHTTP: true}, Secrets: Secrets{AccessKeyID: keyID, SecretAccessKey: secretKey},
		Rules: Rules{Endpoints: []string{"127.0.0.1"}}, Limits: brief}
}

func gcsServer(t *testing.T) Config {
	t.Helper()
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{Scheme: "http", Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucketName})
	return Config{Name: "x", Location: Location{Kind: GCS, Bucket: bucketName, Prefix: "p"},
		Settings: Settings{Endpoint: server.URL(), AllowHTTP: true, Anonymous: true}, Rules: Rules{Endpoints: []string{"127.0.0.0/8"}}, Limits: brief}
}

func folder(t *testing.T) Config {
	t.Helper()
	return Config{Name: "x", Location: Location{Kind: Filesystem, Folder: filepath.Join(t.TempDir(), "a", "b")}, Limits: brief}
}

// azurite is a server that make test-azure starts.
func azurite(t *testing.T) Config {
	t.Helper()
	endpoint := os.Getenv("KALAMDB_TEST_AZURITE")
	if endpoint == "" {
		t.Skip("no Azurite: make test-azure installs and starts it (npm)")
	}
	key, err := container.NewSharedKeyCredential(azuriteAccount, azuriteKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(endpoint+"/"+bucketName, key, nil)
	if err == nil {
		_, err = c.Create(t.Context(), nil)
	}
	if err != nil && !bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		t.Fatal(err)
	}
	return Config{Name: "x", Location: Location{Kind: Azure, Bucket: bucketName, Prefix: "p"},
		Settings: Settings{Endpoint: endpoint, AllowHTTP: true, AccountName: azuriteAccount}, Secrets: Secrets{AccountKey: azuriteKey},
		Rules: Rules{Endpoints: []string{"127.0.0.1"}}, Limits: brief}
}

// TestAzureRefusesAWrongKey: and neither key nor signature is in the error.
func TestAzureRefusesAWrongKey(t *testing.T) {
	cfg := azurite(t)
	cfg.Secrets = Secrets{AccountKey: base64.StdEncoding.EncodeToString([]byte("another key"))}
	h := open(t, cfg).Probe(t.Context(), nil)
	if !dberr.Is(h.Err, dberr.PermissionDenied) || strings.Contains(h.Err.Error(), cfg.Secrets.AccountKey) {
		t.Errorf("a wrong key: %v", h.Err)
	}
	cfg.Secrets = Secrets{SASToken: "sv=2022-11-02&sr=c&sig=c2lnbmF0dXJlLXNpZ25hdHVyZQ%3D%3D"}
	h = open(t, cfg).Probe(t.Context(), nil)
	if h.Writable || strings.Contains(h.Err.Error(), "c2lnbmF0dXJl") {
		t.Errorf("a wrong signature: %v", h.Err)
	}
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func random(n int) ([]byte, Sum) {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	return data, Sum{Bytes: int64(n), SHA256: sum[:]}
}

// TestEveryKind is what all stores must do.
func TestEveryKind(t *testing.T) {
	for name, config := range map[string]func(*testing.T) Config{"folder": folder, "gcs": gcsServer, "azure": azurite,
		"s3": func(t *testing.T) Config { return s3Server(t, nil) }} {
		t.Run(name, func(t *testing.T) {
			s := open(t, config(t))
			if h := s.Probe(t.Context(), s.ReadProbe); !h.Healthy() || h.Err != nil || h.Latency <= 0 {
				t.Fatalf("a probe found %+v", h)
			}
			for _, size := range []int{0, 1, 1000, rangeBytes, 2*rangeBytes + 17} {
				roundTrip(t, s, size)
			}
			if err := s.Fetch(t.Context(), "not/there", Sum{Bytes: 3, SHA256: make([]byte, 32)}, io.Discard); !dberr.Is(err, dberr.NotFound) {
				t.Errorf("what is not there: %v", err)
			}
			if err := s.Delete(t.Context(), "not/there"); err != nil {
				t.Errorf("deleting what is not there: %v", err)
			}
			checkList(t, s)
		})
	}
}

func roundTrip(t *testing.T, s *Store, size int) {
	t.Helper()
	data, sum := random(size)
	key := fmt.Sprintf("user/%%41lice/batch-%d.parquet", size)
	if err := s.Put(t.Context(), key, bytes.NewReader(data), sum); err != nil {
		t.Fatalf("%d bytes: %v", size, err)
	}
	var got bytes.Buffer
	if err := s.Fetch(t.Context(), key, sum, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Fatalf("%d bytes: got %d, %v", size, got.Len(), err)
	}
	other := Sum{Bytes: sum.Bytes, SHA256: make([]byte, 32)}
	if err := s.Fetch(t.Context(), key, other, io.Discard); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("another file under the name: %v", err)
	}
	other = Sum{Bytes: sum.Bytes + 1, SHA256: sum.SHA256}
	if err := s.Fetch(t.Context(), key, other, io.Discard); err == nil {
		t.Error("a shorter file was taken")
	}
	if err := s.Put(t.Context(), "bad", bytes.NewReader(data), Sum{Bytes: sum.Bytes, SHA256: make([]byte, 32)}); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("a damaged local file was put: %v", err)
	}
	if raw, err := s.ReadAll(t.Context(), key, int64(size)); err != nil || !bytes.Equal(raw, data) {
		t.Errorf("read %d bytes, %v", len(raw), err)
	}
}

func checkList(t *testing.T, s *Store) {
	t.Helper()
	data, sum := random(10)
	var want []string
	for i := range 5 {
		key := fmt.Sprintf("list/%d/f", i)
		want = append(want, key)
		if err := s.Put(t.Context(), key, bytes.NewReader(data), sum); err != nil {
			t.Fatal(err)
		}
	}
	listed := func() (keys []string) {
		if err := s.List(t.Context(), "list/", func(o Object) error { keys = append(keys, o.Key); return nil }); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if got := listed(); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if err := s.Delete(t.Context(), want[2]); err != nil {
		t.Fatal(err)
	}
	if got := listed(); !slices.Equal(got, slices.Delete(want, 2, 3)) {
		t.Errorf("after a delete %v", got)
	}
	if n, err := s.Stat(t.Context(), want[0]); n != 10 || err != nil {
		t.Errorf("stat: %d, %v", n, err)
	}
}

// TestWhatStoresDoWrong puts a proxy between us and the server, which misbehaves: times is how often.
func TestWhatStoresDoWrong(t *testing.T) {
	throttle := func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
	}
	truncate := func(w http.ResponseWriter, _ *http.Request, r *httptest.ResponseRecorder) {
		replay(w, r, r.Body.Bytes()[:r.Body.Len()/2])
	}
	flip := func(w http.ResponseWriter, _ *http.Request, r *httptest.ResponseRecorder) {
		body := bytes.Clone(r.Body.Bytes())
		if len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		replay(w, r, body)
	}
	xml := func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) {
		_, _ = io.WriteString(w, `<Error><Code>InternalError</Code><Message>with status 200</Message></Error>`)
	}
	drip := func(w http.ResponseWriter, req *http.Request, r *httptest.ResponseRecorder) {
		replay(w, r, r.Body.Bytes()[:1])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	}
	etag := func(w http.ResponseWriter, _ *http.Request, r *httptest.ResponseRecorder) {
		r.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
		replay(w, r, r.Body.Bytes())
	}
	for _, tc := range []struct {
		name, method string
		fault        fault
		times        int
		// forever is the code of what never ends; empty: it does no harm.
		forever dberr.Code
	}{
		{"throttled reads", http.MethodGet, throttle, 2, dberr.Unavailable},
		{"throttled writes", http.MethodPut, throttle, 2, dberr.Unavailable},
		{"truncated", http.MethodGet, truncate, 2, dberr.Unavailable},
		{"wrong bytes", http.MethodGet, flip, 0, dberr.Corrupt},
		{"an error with status 200", http.MethodGet, xml, 2, dberr.Corrupt},
		{"a slow drip", http.MethodGet, drip, 1, dberr.Unavailable},
		{"wrong ETags", "", etag, 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &proxy{method: tc.method, fault: tc.fault}
			cfg := s3Server(t, p.wrap)
			cfg.Limits.Request = 300 * time.Millisecond
			s := open(t, cfg)
			data, sum := random(100_000)
			once := func() error {
				if err := s.Put(t.Context(), "a/b", bytes.NewReader(data), sum); err != nil {
					return err
				}
				var got bytes.Buffer
				err := s.Fetch(t.Context(), "a/b", sum, &got)
				if err == nil && !bytes.Equal(got.Bytes(), data) {
					t.Error("wrong bytes were taken for right")
				}
				return err
			}
			p.set(tc.times)
			if err := once(); err != nil {
				t.Errorf("%d times: %v", tc.times, err)
			}
			p.set(1 << 30)
			err := once()
			if tc.forever == "" && err != nil || tc.forever != "" && !dberr.Is(err, tc.forever) {
				t.Errorf("for ever: %v, want %q", err, tc.forever)
			}
			if err != nil && (strings.Contains(err.Error(), secretKey) || strings.Contains(err.Error(), keyID)) {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
}

// TestWhatIsStoredIsReadBack: a store that damages what it is given is found out, and given it again.
func TestWhatIsStoredIsReadBack(t *testing.T) {
	left := 0
	cfg := s3Server(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && left > 0 {
				left--
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				body[len(body)-1] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			h.ServeHTTP(w, r)
		})
	})
	s := open(t, cfg)
	data, sum := random(1000)
	for _, tc := range []struct {
		times int
		want  dberr.Code
	}{{1, ""}, {1 << 30, dberr.Corrupt}} {
		left = tc.times
		if err := s.Put(t.Context(), "a", bytes.NewReader(data), sum); tc.want == "" && err != nil || tc.want != "" && !dberr.Is(err, tc.want) {
			t.Errorf("damaged %d times: %v, want %q", tc.times, err, tc.want)
		}
	}
}

func replay(w http.ResponseWriter, r *httptest.ResponseRecorder, body []byte) {
	for k, v := range r.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(r.Code)
	_, _ = w.Write(body)
}

func TestAListMayBeStale(t *testing.T) {
	stale := 1
	cfg := s3Server(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("list-type") == "2" && stale > 0 {
				stale--
				_, _ = io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><Name>segments</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	if h := open(t, cfg).Probe(t.Context(), nil); !h.Healthy() {
		t.Errorf("a list that was stale once: %+v", h)
	}
	stale = 1 << 30
	if h := open(t, cfg).Probe(t.Context(), nil); h.Listable || !h.Writable || !h.Readable || !h.Deletable || h.Err == nil {
		t.Errorf("a list that is always stale: %+v", h)
	}
}

func TestRefusalsOfAServerAreNotTriedAgain(t *testing.T) {
	for status, want := range map[int]dberr.Code{http.StatusForbidden: dberr.PermissionDenied, http.StatusUnauthorized: dberr.PermissionDenied,
		http.StatusBadRequest: dberr.InvalidArgument, http.StatusTemporaryRedirect: dberr.InvalidArgument} {
		n := 0
		cfg := s3Server(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n++
				w.Header().Set("Location", "http://169.254.169.254/latest/meta-data/")
				w.WriteHeader(status)
				_, _ = fmt.Fprintf(w, `<Error><Code>Some</Code><Message>not with %s %s</Message></Error>`, keyID, r.Header.Get("Authorization"))
			})
		})
		data, sum := random(5)
		err := open(t, cfg).Put(t.Context(), "a", bytes.NewReader(data), sum)
		if !dberr.Is(err, want) || n > libraryAttempts {
			t.Errorf("status %d: %v (%s) after %d requests, want %s", status, err, dberr.CodeOf(err), n, want)
		}
		if strings.Contains(err.Error(), keyID) {
			t.Errorf("a secret is in %v", err)
		}
	}
}

func TestTheCallersEndIsTheCallers(t *testing.T) {
	s := open(t, s3Server(t, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	data, sum := random(5)
	if err := s.Put(ctx, "a", bytes.NewReader(data), sum); !dberr.Is(err, dberr.Canceled) {
		t.Errorf("put: %v", err)
	}
	if err := s.Fetch(ctx, "a", sum, io.Discard); !dberr.Is(err, dberr.Canceled) {
		t.Errorf("fetch: %v", err)
	}
	failing := errors.New("the disk is full")
	if err := s.Put(t.Context(), "a", bytes.NewReader(data), sum); err != nil {
		t.Fatal(err)
	}
	if err := s.Fetch(t.Context(), "a", sum, writer(func([]byte) (int, error) { return 0, failing })); !errors.Is(err, failing) {
		t.Errorf("a full disk: %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
