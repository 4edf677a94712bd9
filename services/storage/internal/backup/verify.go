package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
)

// Verifier compares every byte of a backup with its sums.
type Verifier struct {
	// Find opens the backups that lists name.
	Find func(path string) (Target, error)
	// Own leaves alone what other backups have, beyond whether it is there.
	Own bool
	// Rows counts the rows of tables by their ids, when it is not nil.
	Rows map[uint32]uint64
}

// Verify reads a backup. It returns the first fault, which names the file.
func (v *Verifier) Verify(ctx context.Context, t Target, d *Description) error {
	if d.Accounts != nil {
		if err := checkFile(ctx, t, *d.Accounts); err != nil {
			return err
		}
	}
	perUser, err := perUserTables(d)
	if err != nil {
		return err
	}
	c := &checking{verifier: v, target: t, others: map[string]Target{}, perUser: perUser}
	defer c.close()
	for _, p := range d.Parts {
		if err := checkFile(ctx, t, p.List); err != nil {
			return err
		}
		if err := c.list(ctx, p.List.Path); err != nil {
			return err
		}
	}
	return nil
}

func perUserTables(d *Description) (map[uint32]bool, error) {
	tables, err := d.DecodeTables()
	if err != nil {
		return nil, err
	}
	perUser := map[uint32]bool{}
	for _, versions := range tables {
		newest := versions[len(versions)-1]
		perUser[newest.GetId()] = TableOf(newest).Kind.PerUser()
	}
	return perUser, nil
}

// checking is a verification under way.
type checking struct {
	verifier *Verifier
	target   Target
	others   map[string]Target
	perUser  map[uint32]bool
	slots    [shardmap.Slots]bool
	// open is the file of hot rows that was read last.
	open     Source
	openPath string
}

func (c *checking) close() {
	if c.open != nil {
		_ = c.open.Close() // it was only read
		c.open = nil
	}
}

func (c *checking) list(ctx context.Context, path string) (err error) {
	l, err := openList(c.target, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for {
		lines, err := l.partition()
		if err != nil || len(lines) == 0 {
			return err
		}
		if err := c.keys(lines[0]); err != nil {
			return err
		}
		for _, line := range lines {
			if c.verifier.Rows != nil {
				c.verifier.Rows[line.Table] += line.Rows
			}
			if err := c.line(ctx, line); err != nil {
				return err
			}
		}
	}
}

// keys checks, once, the file that has the key of a partition's owner.
func (c *checking) keys(l *Line) error {
	slot := shardmap.UserSlot(l.Owner)
	if !c.perUser[l.Table] || c.slots[slot] {
		return nil
	}
	c.slots[slot] = true
	_, err := readSlotKeys(c.target, slot)
	return err
}

func (c *checking) line(ctx context.Context, l *Line) error {
	t := c.target
	if l.Backup != "" {
		var err error
		if t, err = c.other(l.Backup); err != nil {
			return err
		}
		if c.verifier.Own {
			ok, err := t.Exists(l.Path)
			if err == nil && !ok {
				err = dberr.New(dberr.NotFound, "the file %s of the backup %s, which this one builds upon, is not there", l.Path, l.Backup)
			}
			return err
		}
	}
	if len(l.Segment) > 0 {
		return checkFile(ctx, t, Sum{Path: l.Path, Bytes: l.Bytes, SHA256: l.SHA256})
	}
	if c.open == nil || c.openPath != l.Path {
		c.close()
		f, err := t.Open(l.Path)
		if err != nil {
			return err
		}
		c.open, c.openPath = f, l.Path
	}
	_, err := readBlock(c.open, l)
	return err
}

func (c *checking) other(path string) (Target, error) {
	if t, ok := c.others[path]; ok {
		return t, nil
	}
	t, err := c.verifier.Find(path)
	if err == nil {
		c.others[path] = t
	}
	return t, err
}

// checkFile reads a file and compares.
func checkFile(ctx context.Context, t Target, want Sum) error {
	f, err := t.Open(want.Path)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := copyBuffer(sum, &cancelReader{ctx: ctx, from: f})
	if err = errors.Join(err, f.Close()); err != nil {
		return copyErr("read "+want.Path+" of a backup", err)
	}
	if n != want.Bytes || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return damaged(want.Path, "it has %d bytes, and not the SHA-256 %s of the %d it had", n, want.SHA256, want.Bytes)
	}
	return nil
}

// blockMax bounds a sealed block of hot rows in bytes: one row may be as large as a write.
const blockMax = 128 << 20

// readBlock reads a block of hot rows as it is in the file.
func readBlock(f io.ReaderAt, l *Line) ([]byte, error) {
	if l.Bytes < 0 || l.Bytes > blockMax || l.Offset < 0 {
		return nil, damaged(l.Path, "a block of %d bytes at %d", l.Bytes, l.Offset)
	}
	sealed := make([]byte, l.Bytes)
	if _, err := f.ReadAt(sealed, l.Offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, damaged(l.Path, "it ends before byte %d", l.Offset+l.Bytes)
		}
		return nil, dberr.New(dberr.Unavailable, "read %s of a backup: %w", l.Path, err)
	}
	if hexSum(sealed) != l.SHA256 {
		return nil, damaged(l.Path, "the %d bytes at %d do not have the SHA-256 %s", l.Bytes, l.Offset, l.SHA256)
	}
	return sealed, nil
}

// cancelReader ends reading when its context ends.
type cancelReader struct {
	ctx  context.Context
	from io.Reader
}

func (r *cancelReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, dberr.FromStatus(err)
	}
	return r.from.Read(p)
}
