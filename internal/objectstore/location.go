package objectstore

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Location is where a store's files are.
type Location struct {
	Kind Kind
	// Folder is the absolute folder of a Filesystem; Bucket that of the others (Azure says container), in which Prefix, without slashes
	// at its ends, begins every name.
	Folder, Bucket, Prefix string
}

// schemes of addresses of buckets.
var schemes = map[Kind][]string{S3: {"s3", "s3a"}, GCS: {"gs", "gcs"}, Azure: {"az", "azure", "azblob", "abfs"}}

// goodBucket is what all of them agree on.
var goodBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$`)

// ParseLocation reads a folder or an address: /mnt/shared, s3://bucket/prefix, gs://bucket, az://container. A bucket may be without its scheme.
func ParseLocation(kind Kind, text string) (Location, error) {
	if strings.ContainsRune(text, 0) {
		return Location{}, dberr.New(dberr.InvalidArgument, "the path of a storage has a NUL in it")
	}
	if kind == Filesystem {
		return parseFolder(text)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = schemes[kind][0], text
	}
	known := false
	for _, s := range schemes[kind] {
		known = known || s == scheme
	}
	if !known {
		return Location{}, dberr.New(dberr.InvalidArgument, "%.100q is not the path of a storage of type %s: %s://bucket/prefix", text, kind, schemes[kind][0])
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if !goodBucket.MatchString(bucket) {
		return Location{}, dberr.New(dberr.InvalidArgument, "%.100q is not the name of a bucket: 3 to 63 small letters, digits, dots and hyphens", bucket)
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		if err := CheckKey(prefix); err != nil {
			return Location{}, err
		}
	}
	return Location{Kind: kind, Bucket: bucket, Prefix: prefix}, nil
}

func parseFolder(text string) (Location, error) {
	folder := strings.TrimPrefix(text, "file://")
	for part := range strings.SplitSeq(folder, "/") {
		if part == ".." {
			return Location{}, dberr.New(dberr.InvalidArgument, "the folder %.100q has the part \"..\": say where it is", text)
		}
	}
	if !path.IsAbs(folder) {
		return Location{}, dberr.New(dberr.InvalidArgument, "the folder %.100q is not an absolute path: all storage nodes must find the same folder", text)
	}
	return Location{Kind: Filesystem, Folder: path.Clean(folder)}, nil
}

// String is the folder or the address.
func (l Location) String() string {
	if l.Kind == Filesystem {
		return l.Folder
	}
	return schemes[l.Kind][0] + "://" + path.Join(l.Bucket, l.Prefix)
}

// checkEndpoint reads where a service is that is not at its provider's own address.
func checkEndpoint(text string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return nil, dberr.New(dberr.InvalidArgument, "the endpoint %.100q is not an address: https://host:port", text)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, dberr.New(dberr.InvalidArgument, "an endpoint has no user, query or fragment in it: https://host:port")
	case u.Scheme == "http" && !allowHTTP:
		return nil, dberr.New(dberr.InvalidArgument, "the endpoint %.100q is not encrypted: use https, or say \"allow_http\": true", text)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, dberr.New(dberr.InvalidArgument, "the endpoint %.100q is not an address of https", text)
	}
	return u, nil
}
