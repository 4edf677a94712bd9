package objectstore

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		host, ip string
		allowed  []string
		good     bool
	}{
		{"minio.example.org", "203.0.113.5", nil, true},
		{"minio.example.org", "10.1.2.3", nil, false},
		{"minio.example.org", "10.1.2.3", []string{"minio.example.org"}, true},
		{"minio.example.org", "10.1.2.3", []string{"minio.example.org:9000"}, true},
		{"minio.example.org", "10.1.2.3", []string{"minio.example.org:9001"}, false},
		{"minio.example.org", "10.1.2.3", []string{"*.example.org"}, true},
		{"minio.example.org", "10.1.2.3", []string{"10.0.0.0/8"}, true},
		{"minio.example.org", "11.1.2.3", []string{"10.0.0.0/8"}, false},
		{"other.example.com", "203.0.113.5", []string{"minio.example.org"}, false},
		{"bucket.s3.amazonaws.com", "203.0.113.5", []string{"minio.example.org"}, true},
		{"evil-amazonaws.com", "203.0.113.5", []string{"minio.example.org"}, false},
		{"127.0.0.1", "127.0.0.1", nil, false},
		{"127.0.0.1", "127.0.0.1", []string{"127.0.0.1"}, true},
		// What tells of the machine is nobody's, however it is written, and whoever allows it.
		{"169.254.169.254", "169.254.169.254", []string{"169.254.169.254", "0.0.0.0/0"}, false},
		{"rebound.example.org", "169.254.169.254", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "::ffff:169.254.169.254", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "64:ff9b::a9fe:a9fe", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "fd00:ec2::254", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "fe80::1%eth0", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "0.0.0.0", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "::", []string{"rebound.example.org"}, false},
		{"rebound.example.org", "::1", nil, false},
		{"rebound.example.org", "100.64.0.1", nil, false},
	} {
		r := Rules{Endpoints: tc.allowed}
		err := r.checkHost(tc.host, "9000")
		if err == nil {
			err = r.checkAddress(tc.host, "9000", netip.MustParseAddr(tc.ip))
		}
		if (err == nil) != tc.good || err != nil && !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%s is %s, allowed %v: %v", tc.host, tc.ip, tc.allowed, err)
		}
	}
}

// TestAConnectionIsChecked: whatever was checked before, the address that is connected to counts.
func TestAConnectionIsChecked(t *testing.T) {
	asked := false
	cfg := s3Server(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true })
	})
	cfg.Settings.Endpoint = strings.Replace(cfg.Settings.Endpoint, "127.0.0.1", "localhost", 1) // a name that is public until it is resolved
	cfg.Rules = Rules{}
	h := open(t, cfg).Probe(t.Context(), nil)
	if h.Writable || asked || !dberr.Is(h.Err, dberr.InvalidArgument) || !strings.Contains(h.Err.Error(), "storage.endpoints_allowed") {
		t.Errorf("asked %v: %+v", asked, h)
	}
}

func TestEndpoints(t *testing.T) {
	for _, endpoint := range []string{"http://169.254.169.254/", "https://169.254.169.254", "file:///etc/passwd", "gopher://example.org", "example.org",
		"https://user:password@example.org", "https://example.org?x=y", "https://[::1]:9000", "https://2130706433"} {
		cfg := Config{Location: Location{Kind: S3, Bucket: bucketName}, Settings: Settings{Endpoint: endpoint, Anonymous: true}, Limits: brief}
		s, err := Open(t.Context(), cfg)
		if err == nil {
			h := s.Probe(t.Context(), nil)
			err = h.Err
			_ = s.Close()
		}
		if !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestFolders(t *testing.T) {
	top := t.TempDir()
	link, nowhere := filepath.Join(top, "link"), filepath.Join(top, "nowhere")
	for name, to := range map[string]string{link: "/etc", nowhere: filepath.Join(top, "x", "y")} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		folder string
		rules  Rules
		good   bool
	}{
		{top, Rules{}, true},
		{top + "/new/er", Rules{}, true},
		{top + "/a", Rules{Folders: []string{top}}, true},
		{top, Rules{Folders: []string{top + "/a"}}, false},
		{top + "/ab", Rules{Folders: []string{top + "/a"}}, false},
		{top + "/data", Rules{Forbidden: []string{top + "/data"}}, false},
		{top + "/data/hot", Rules{Forbidden: []string{top + "/data"}}, false},
		{top, Rules{Forbidden: []string{top + "/data"}}, false},
		{"/", Rules{}, false}, {"/etc", Rules{}, false}, {"/etc/cron.d/x", Rules{}, false}, {"/root", Rules{}, false}, {"/proc/self", Rules{}, false},
		{"/sys", Rules{}, false}, {"/var/log/x", Rules{}, false}, {"/etcetera", Rules{}, true},
		{link + "/x", Rules{}, false}, {nowhere, Rules{}, false},
		{"relative", Rules{}, false}, {top + "/../etc", Rules{}, false}, {top + "/a\x00b", Rules{}, false},
	} {
		if err := tc.rules.CheckFolder(tc.folder); (err == nil) != tc.good || err != nil && !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%q with %+v: %v", tc.folder, tc.rules, err)
		}
	}
}

func TestLocations(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		text string
		want string
	}{
		{S3, "s3://bucket/a/b/", "s3://bucket/a/b"}, {S3, "bucket", "s3://bucket"}, {GCS, "gcs://bucket", "gs://bucket"}, {Azure, "azure://bucket/x", "az://bucket/x"},
		{Filesystem, "/mnt/shared/", "/mnt/shared"}, {Filesystem, "file:///mnt/shared", "/mnt/shared"},
		{S3, "gs://bucket", ""}, {S3, "s3://b", ""}, {S3, "s3://bucket/../x", ""}, {S3, "s3://bucket/a b", ""}, {S3, "s3://bucket\x00", ""},
		{Filesystem, "mnt", ""}, {Filesystem, "/mnt/../etc", ""}, {Filesystem, "", ""},
	} {
		got, err := ParseLocation(tc.kind, tc.text)
		if tc.want == "" {
			if !dberr.Is(err, dberr.InvalidArgument) {
				t.Errorf("%q: %v", tc.text, err)
			}
		} else if err != nil || got.String() != tc.want {
			t.Errorf("%q: %q, %v", tc.text, got, err)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, bad := range []string{"", "/a", "a/", "a//b", "a/../b", "..", ".", "a../b", "__0x2f__", "a b", "a\x00", `a\b`, "ä", strings.Repeat("a", keyBytesMax+1)} {
		if err := CheckKey(bad); !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := Secrets{SecretAccessKey: secretKey, SASToken: "sig=abcdef"}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "s", s, "c", Config{Secrets: s})
	text := b.String() + fmt.Sprintf("%v %+v %#v %s %x", s, Config{Secrets: s}, s, &s, s)
	if strings.Contains(text, secretKey) || strings.Contains(text, "abcdef") {
		t.Error(text)
	}
	var cfg Config
	cfg.Location.Kind = S3
	for _, raw := range []string{`{"secret_access_key":["` + secretKey + `"]}`, `{"` + secretKey[:4], `{"unknown":"` + secretKey + `"}`} {
		if err := cfg.Options(raw); !dberr.Is(err, dberr.InvalidArgument) || strings.Contains(err.Error(), secretKey) {
			t.Errorf("%v", err)
		}
	}
}
