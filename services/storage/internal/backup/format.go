package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// DescriptionFile says what a backup is. It is written last: a folder without it is no backup.
	DescriptionFile = "backup.json"
	// AccountsFile has the accounts, one a line, sealed by the backup's key.
	AccountsFile = "accounts.sealed"

	format1 = 1
	// descriptionMax bounds the file in bytes: the definitions of all tables are in it.
	descriptionMax = 1 << 30
	// slotKeysMax bounds a file of keys in bytes.
	slotKeysMax = 256 << 20
	// lineMax bounds one line of a list in bytes.
	lineMax = 1 << 20
)

// Description is what a backup is.
type Description struct {
	Format int `json:"format"`
	// ID is that of the job that made it.
	ID        string `json:"id"`
	ClusterID string `json:"cluster_id"`
	// Shards the cluster had.
	Shards uint32 `json:"cluster_shards"`
	// Namespace is empty for the whole database.
	Namespace string `json:"namespace,omitempty"`
	// CutUS is the moment, in µs since 1970, for which it has exactly what was committed.
	CutUS int64 `json:"cut_us"`
	// Parent is the path of the backup whose files are named and not copied.
	Parent string `json:"parent,omitempty"`
	// Key is the backup's own, sealed by the cluster key, which the master key has wrapped.
	Key        []byte             `json:"key"`
	ClusterKey keyring.WrappedKey `json:"cluster_key"`
	Parts      []Part             `json:"shards"`
	// Namespaces and Tables are messages of the catalog; of each table the versions, oldest first.
	Namespaces []json.RawMessage   `json:"namespaces"`
	Tables     [][]json.RawMessage `json:"tables"`
	Accounts   *Sum                `json:"accounts,omitempty"`
	// AccountsWritten counts how often the accounts were written anew, without users who were erased.
	AccountsWritten int `json:"accounts_written,omitempty"`
}

// Sum is a file and what must be in it.
type Sum struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Part is what one shard has written: its list names the files.
type Part struct {
	Shard    uint32 `json:"shard"`
	Position uint64 `json:"position"`
	List     Sum    `json:"list"`
	Files    uint64 `json:"files"`
	Bytes    uint64 `json:"bytes"`
	Rows     uint64 `json:"rows"`
}

// Line is a file of a partition, or a part of one, as a list names it. Lists are in order of table and owner.
type Line struct {
	Path string `json:"path"`
	// Offset is where it begins: hot rows of many partitions share a file.
	Offset int64  `json:"offset,omitempty"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Table  uint32 `json:"table"`
	Owner  string `json:"owner,omitempty"`
	Rows   uint64 `json:"rows"`
	// Backup is the path of the backup that has it, and BackupID its id; empty: this one.
	Backup   string `json:"backup,omitempty"`
	BackupID string `json:"backup_id,omitempty"`
	// Segment is the message of the segment that was sealed; empty: these are hot rows.
	Segment []byte `json:"segment,omitempty"`
}

// envelope is the content of DescriptionFile.
type envelope struct {
	SHA256 string          `json:"sha256"`
	Backup json.RawMessage `json:"backup"`
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// WriteDescription completes a backup.
func WriteDescription(t Target, d *Description) error {
	d.Format = format1
	raw, err := json.Marshal(d)
	if err != nil {
		return dberr.New(dberr.Internal, "encode %s: %w", DescriptionFile, err)
	}
	return writeSummed(t, DescriptionFile, raw)
}

// writeSummed writes JSON with its sum.
func writeSummed(t Target, path string, raw []byte) error {
	out, err := json.Marshal(envelope{SHA256: hexSum(raw), Backup: raw})
	if err != nil {
		return dberr.New(dberr.Internal, "encode %s: %w", path, err)
	}
	f, err := t.Create(path)
	if err != nil {
		return err
	}
	if _, err := f.Write(out); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit()
}

// readSummed reads what writeSummed wrote: every byte has to be as it was.
func readSummed(t Target, path string, limit int64) (json.RawMessage, error) {
	f, err := t.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, dberr.New(dberr.Unavailable, "read %s of a backup: %w", path, err)
	}
	if int64(len(raw)) > limit {
		return nil, dberr.New(dberr.LimitExceeded, "%s of a backup has more than %d bytes", path, limit)
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, damaged(path, "it is no JSON: %v", err)
	}
	if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, raw) || hexSum(e.Backup) != e.SHA256 {
		return nil, damaged(path, "its SHA-256 is another one")
	}
	return e.Backup, nil
}

func damaged(path, why string, args ...any) error {
	return dberr.New(dberr.Corrupt, "the file %s of the backup is damaged: %s", path, fmt.Sprintf(why, args...))
}

// ReadDescription reads what a backup is.
func ReadDescription(t Target) (*Description, error) {
	raw, err := readSummed(t, DescriptionFile, descriptionMax)
	if dberr.Is(err, dberr.NotFound) {
		return nil, dberr.New(dberr.NotFound, "there is no backup here, or one that was not completed: %w", err)
	}
	if err != nil {
		return nil, err
	}
	d := new(Description)
	if err := json.Unmarshal(raw, d); err != nil {
		return nil, damaged(DescriptionFile, "%v", err)
	}
	if d.Format != format1 {
		return nil, dberr.New(dberr.Unsupported, "the backup has format %d, this version reads %d: use a newer version", d.Format, format1)
	}
	return d, nil
}

// Encode is a message of the catalog as a description has it.
func Encode(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a definition: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, dberr.New(dberr.Internal, "encode a definition: %w", err)
	}
	return out.Bytes(), nil
}

func decode(raw json.RawMessage, m proto.Message) error {
	if err := protojson.Unmarshal(raw, m); err != nil {
		return damaged(DescriptionFile, "a definition: %v", err)
	}
	return nil
}

// DecodeNamespaces returns the namespaces.
func (d *Description) DecodeNamespaces() (list []*catalogv1.Namespace, err error) {
	for _, raw := range d.Namespaces {
		n := new(catalogv1.Namespace)
		if err := decode(raw, n); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// DecodeTables returns the tables, each with its versions, oldest first: the last is what the table is.
func (d *Description) DecodeTables() (list [][]*catalogv1.Table, err error) {
	for _, versions := range d.Tables {
		var of []*catalogv1.Table
		for _, raw := range versions {
			t := new(catalogv1.Table)
			if err := decode(raw, t); err != nil {
				return nil, err
			}
			of = append(of, t)
		}
		if len(of) == 0 {
			return nil, damaged(DescriptionFile, "a table without a definition")
		}
		list = append(list, of)
	}
	return list, nil
}

// Totals sums up the parts.
func (d *Description) Totals() (files, bytes, rows uint64) {
	for _, p := range d.Parts {
		files, bytes, rows = files+p.Files, bytes+p.Bytes, rows+p.Rows
	}
	return files, bytes, rows
}

// slotPath is the file with the data keys of a slot's users.
func slotPath(slot uint16) string { return fmt.Sprintf("keys/%d.json", slot) }

// slotKeys is its content: user id → data key, sealed.
type slotKeys map[string][]byte

func writeSlotKeys(t Target, slot uint16, keys slotKeys) error {
	raw, err := json.Marshal(keys)
	if err != nil {
		return dberr.New(dberr.Internal, "encode %s: %w", slotPath(slot), err)
	}
	return writeSummed(t, slotPath(slot), raw)
}

func readSlotKeys(t Target, slot uint16) (slotKeys, error) {
	raw, err := readSummed(t, slotPath(slot), slotKeysMax)
	if err != nil {
		return nil, err
	}
	keys := slotKeys{}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, damaged(slotPath(slot), "%v", err)
	}
	return keys, nil
}

// Purposes of what keys seal.
func userKeyPurpose(user string) string { return "user-key/" + user }

// KeyPurpose is what a backup's own key is sealed for.
func KeyPurpose(backup string) string { return "backup-key/" + backup }

func hotPurpose(table uint32, owner string) string {
	return fmt.Sprintf("backup-hot/%d/%s", table, owner)
}

// userKeyID names a user's key in a sealed file; whose it is, the list says: ids of users may be as long as ids of keys.
const userKeyID = "user"

func backupKeyID(backup string) string { return "backup/" + backup }
