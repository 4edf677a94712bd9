package objectstore

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	gcstorage "cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob/azureblob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/option"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// regionDefault is what servers that are not AWS call themselves.
	regionDefault = "us-east-1"
	// libraryAttempts and libraryBackoffMax bound what the libraries try by themselves; what we try again comes on top.
	libraryAttempts   = 2
	libraryBackoffMax = 2 * time.Second
	folderMode        = 0o750
)

func (s *Store) openS3(ctx context.Context) (err error) {
	set, secret := s.cfg.Settings, s.cfg.Secrets
	o := s3.Options{Region: set.Region, HTTPClient: s.client(), UsePathStyle: set.Endpoint != "", Credentials: aws.AnonymousCredentials{},
		// Other servers than AWS do not all know the newer checksums, and ours are compared anyway.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = libraryAttempts, libraryBackoffMax })}
	if o.Region == "" {
		o.Region = regionDefault
	}
	if set.Endpoint != "" {
		o.BaseEndpoint = aws.String(set.Endpoint)
	}
	if !set.Anonymous {
		o.Credentials = credentials.NewStaticCredentialsProvider(secret.AccessKeyID, secret.SecretAccessKey, secret.SessionToken)
	}
	s.bucket, err = s3blob.OpenBucket(ctx, s3.New(o), s.cfg.Location.Bucket, nil)
	return err
}

func (s *Store) openGCS(ctx context.Context) (err error) {
	set, client := s.cfg.Settings, s.client()
	opts := &gcsblob.Options{ClientOptions: []option.ClientOption{gcstorage.WithJSONReads()}}
	if set.Endpoint != "" {
		opts.ClientOptions = append(opts.ClientOptions, option.WithEndpoint(strings.TrimSuffix(set.Endpoint, "/")+"/storage/v1/"))
	}
	if !set.Anonymous {
		tokens, err := serviceAccount(client, s.cfg.Secrets.ServiceAccount)
		if err != nil {
			return err
		}
		client.Transport = &oauth2.Transport{Source: tokens, Base: client.Transport}
	}
	s.bucket, err = gcsblob.OpenBucket(ctx, &gcp.HTTPClient{Client: *client}, s.cfg.Location.Bucket, opts)
	return err
}

// serviceAccount makes tokens by a key. Other kinds of credentials, which may name files and programs to run, are refused.
func serviceAccount(client *http.Client, raw string) (oauth2.TokenSource, error) {
	var what struct {
		Type string `json:"type"`
	}
	if json.Unmarshal([]byte(raw), &what) != nil || what.Type != "service_account" {
		return nil, dberr.New(dberr.InvalidArgument, "the credentials of a storage of type gcs must be the key of a service account (\"type\": \"service_account\")")
	}
	cfg, err := google.JWTConfigFromJSON([]byte(raw), gcstorage.ScopeReadWrite)
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "the key of the service account cannot be read")
	}
	if _, err := checkEndpoint(cfg.TokenURL, false); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "\"token_uri\" of the service account's key: %s", err.Error())
	}
	// The tokens outlive every request; the client bounds each of its own.
	return cfg.TokenSource(context.WithValue(context.Background(), oauth2.HTTPClient, client)), nil
}

func (s *Store) openAzure(ctx context.Context) error {
	set, secret := s.cfg.Settings, s.cfg.Secrets
	address := strings.TrimSuffix(set.Endpoint, "/")
	if address == "" {
		address = "https://" + set.AccountName + ".blob.core.windows.net"
		if !goodBucket.MatchString(set.AccountName) {
			return dberr.New(dberr.InvalidArgument, "%.40q is not the name of an account of Azure", set.AccountName)
		}
	}
	address += "/" + s.cfg.Location.Bucket
	opts := &container.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: s.client(),
		Retry: policy.RetryOptions{MaxRetries: libraryAttempts - 1, RetryDelay: s.cfg.Limits.Backoff, MaxRetryDelay: libraryBackoffMax}}}
	var client *container.Client
	var err error
	if secret.AccountKey != "" {
		var key *container.SharedKeyCredential
		if key, err = container.NewSharedKeyCredential(set.AccountName, secret.AccountKey); err != nil {
			return dberr.New(dberr.InvalidArgument, "account_key is not a key of Azure, which is base64")
		}
		client, err = container.NewClientWithSharedKeyCredential(address, key, opts)
	} else {
		client, err = container.NewClientWithNoCredential(address+"?"+strings.TrimPrefix(secret.SASToken, "?"), opts)
	}
	if err != nil {
		return err
	}
	s.bucket, err = azureblob.OpenBucket(ctx, client, nil)
	return err
}

// errPermission is a folder that may not be written.
var errPermission = fs.ErrPermission

// openFolder opens a folder, which is made when it is not there.
func (s *Store) openFolder(context.Context) (err error) {
	root := s.cfg.Location.Folder
	if err := makeDurable(root); err != nil {
		return err
	}
	s.stored = func(key string) error { return syncPath(root, filepath.Join(root, filepath.FromSlash(key))) }
	s.deleted = func(key string) error {
		removeEmpty(root, filepath.Dir(filepath.Join(root, filepath.FromSlash(key))))
		return nil
	}
	s.bucket, err = fileblob.OpenBucket(root, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite, DirFileMode: folderMode})
	return err
}

// makeDurable makes a folder and those above it, each written to its parent.
func makeDurable(folder string) error {
	if info, err := os.Stat(folder); err == nil {
		if !info.IsDir() {
			return dberr.New(dberr.InvalidArgument, "%q is not a folder", folder)
		}
		return nil
	}
	if err := makeDurable(filepath.Dir(folder)); err != nil {
		return err
	}
	if err := os.Mkdir(folder, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncOne(filepath.Dir(folder))
}

// syncPath makes a file and the folders down to it durable: the library renames, and leaves the rest to the system.
func syncPath(root, file string) error {
	for {
		if err := syncOne(file); err != nil {
			return err
		}
		if file == root || len(file) <= len(root) {
			return nil
		}
		file = filepath.Dir(file)
	}
}

func syncOne(name string) error {
	f, err := os.Open(name) //nolint:gosec // below the storage's folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// removeEmpty removes folders that nothing is in any more: their names may be all that is left of a user. A file that is written there at
// the same time fails and is written again.
func removeEmpty(root, folder string) {
	for len(folder) > len(root) && os.Remove(folder) == nil {
		folder = filepath.Dir(folder)
	}
}
