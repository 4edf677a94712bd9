package objectstore

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Settings are what a service needs to know besides the bucket; nothing of it is secret.
type Settings struct {
	Region    string `json:"region,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	AllowHTTP bool   `json:"allow_http,omitempty"`
	// AccountName is Azure's.
	AccountName string `json:"account_name,omitempty"`
	// Anonymous sends no credentials.
	Anonymous bool `json:"anonymous,omitempty"`
}

// Secrets are credentials. They print as ***.
type Secrets struct {
	AccessKeyID     string `json:"access_key_id,omitempty"`
	SecretAccessKey string `json:"secret_access_key,omitempty"`
	SessionToken    string `json:"session_token,omitempty"`
	// ServiceAccount is the JSON of a service account's key: GCS.
	ServiceAccount string `json:"service_account,omitempty"`
	AccountKey     string `json:"account_key,omitempty"`
	SASToken       string `json:"sas_token,omitempty"`
}

const masked = "***"

// String hides them.
func (Secrets) String() string { return masked }

// GoString hides them.
func (Secrets) GoString() string { return masked }

// LogValue hides them.
func (Secrets) LogValue() slog.Value { return slog.StringValue(masked) }

// Format hides them, whatever the verb.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(masked)) }

// replacer hides secrets in texts that others made.
func (s Secrets) replacer() *strings.Replacer {
	var pairs []string
	for _, v := range []string{s.AccessKeyID, s.SecretAccessKey, s.SessionToken, s.ServiceAccount, s.AccountKey, strings.TrimPrefix(s.SASToken, "?")} {
		if len(v) > 3 {
			pairs = append(pairs, v, masked, url.QueryEscape(v), masked)
		}
	}
	return strings.NewReplacer(pairs...)
}

// names are the keys of CREDENTIALS and CONFIG (spec 6.6), both generations', and what they are.
func (c *Config) set(key string, value any) error {
	text, isText := value.(string)
	flag, isFlag := value.(bool)
	texts := map[string]*string{"region": &c.Settings.Region, "endpoint": &c.Settings.Endpoint, "account_name": &c.Settings.AccountName,
		"access_key_id": &c.Secrets.AccessKeyID, "secret_access_key": &c.Secrets.SecretAccessKey, "session_token": &c.Secrets.SessionToken,
		"service_account_json": &c.Secrets.ServiceAccount, "service_account_key": &c.Secrets.ServiceAccount,
		"account_key": &c.Secrets.AccountKey, "access_key": &c.Secrets.AccountKey, "sas_token": &c.Secrets.SASToken}
	flags := map[string]*bool{"allow_http": &c.Settings.AllowHTTP, "anonymous": &c.Settings.Anonymous}
	if object, ok := value.(map[string]any); ok && strings.HasPrefix(key, "service_account") {
		raw, err := json.Marshal(object)
		if err != nil {
			return dberr.New(dberr.InvalidArgument, "%s of a storage is not JSON", key)
		}
		text, isText = string(raw), true
	}
	switch {
	case texts[key] != nil && isText:
		*texts[key] = text
	case flags[key] != nil && isFlag:
		*flags[key] = flag
	case texts[key] != nil || flags[key] != nil:
		return dberr.New(dberr.InvalidArgument, "%s of a storage has a value of another type", key)
	default:
		return dberr.New(dberr.InvalidArgument, "%.40q is no setting of a storage of type %s", key, c.Location.Kind)
	}
	return nil
}

// optionsOf are the keys each kind knows.
var optionsOf = map[Kind][]string{
	Filesystem: {},
	S3:         {"region", "endpoint", "allow_http", "anonymous", "access_key_id", "secret_access_key", "session_token"},
	GCS:        {"endpoint", "allow_http", "anonymous", "service_account_json", "service_account_key"},
	Azure:      {"endpoint", "allow_http", "account_name", "account_key", "access_key", "sas_token"},
}

// Options reads the JSON of CREDENTIALS or CONFIG into c, whose Location says of which kind the store is. An error never repeats a value.
func (c *Config) Options(raw string) error {
	if strings.TrimSpace(raw) == "" {
		return nil
	}
	var values map[string]any
	if json.Unmarshal([]byte(raw), &values) != nil {
		return dberr.New(dberr.InvalidArgument, "CREDENTIALS and CONFIG of a storage must be an object of JSON")
	}
	for key, value := range values {
		if key == "type" || key == "root" && c.Location.Kind == Filesystem {
			if err := c.checkType(key, value); err != nil {
				return err
			}
			continue
		}
		if !slices.Contains(optionsOf[c.Location.Kind], key) {
			return dberr.New(dberr.InvalidArgument, "%.40q is no setting of a storage of type %s, which has: %s", key, c.Location.Kind,
				strings.Join(optionsOf[c.Location.Kind], ", "))
		}
		if err := c.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// checkType compares what CONFIG repeats of the statement.
func (c *Config) checkType(key string, value any) error {
	text, _ := value.(string)
	kind, err := ParseKind(text)
	switch {
	case key == "root" && text != c.Location.Folder:
		return dberr.New(dberr.InvalidArgument, "\"root\" of CONFIG is another folder than PATH")
	case key == "type" && (err != nil || kind != c.Location.Kind):
		return dberr.New(dberr.InvalidArgument, "\"type\" of CONFIG contradicts TYPE %s", c.Location.Kind)
	}
	return nil
}

// check refuses what cannot work.
func (c *Config) check() error {
	if e := c.Settings.Endpoint; e != "" {
		u, err := checkEndpoint(e, c.Settings.AllowHTTP)
		if err != nil {
			return err
		}
		if err := c.Rules.checkHost(u.Hostname(), u.Port()); err != nil {
			return err
		}
	}
	s := c.Secrets
	switch c.Location.Kind {
	case Filesystem:
		return c.Rules.CheckFolder(c.Location.Folder)
	case S3:
		if !c.Settings.Anonymous && (s.AccessKeyID == "" || s.SecretAccessKey == "") {
			return dberr.New(dberr.InvalidArgument, "a storage of type s3 needs CREDENTIALS with access_key_id and secret_access_key, or \"anonymous\": true")
		}
	case GCS:
		if !c.Settings.Anonymous && s.ServiceAccount == "" {
			return dberr.New(dberr.InvalidArgument, "a storage of type gcs needs CREDENTIALS with service_account_json, or \"anonymous\": true")
		}
	case Azure:
		if c.Settings.AccountName == "" && (c.Settings.Endpoint == "" || s.SASToken == "") || s.AccountKey == "" && s.SASToken == "" {
			return dberr.New(dberr.InvalidArgument, "a storage of type azure needs account_name, and CREDENTIALS with account_key or sas_token")
		}
	default:
		return dberr.New(dberr.InvalidArgument, "a storage of no known type")
	}
	return nil
}
