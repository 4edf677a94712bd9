// Package disks makes small disks of files, which can be stalled and filled: a loop device with ext4, frozen by
// the kernel. It needs root and Debian's util-linux and e2fsprogs.
package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// filler takes what is left of a disk.
const filler = "filler"

// Disk is one mounted disk.
type Disk struct {
	// Path is where it is mounted.
	Path  string
	image string

	mu     sync.Mutex
	frozen bool
}

// New makes a disk of a size and mounts it at path.
func New(ctx context.Context, image, path string, megabytes int64) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("mounting disks needs root")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(megabytes<<20), f.Close()); err != nil {
		return nil, err
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-F", image); err != nil {
		return nil, err
	}
	d := &Disk{Path: path, image: image}
	return d, run(ctx, "mount", "-o", "loop", image, path)
}

// Freeze stalls every write until Thaw.
func (d *Disk) Freeze(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen {
		return nil
	}
	err := run(ctx, "fsfreeze", "-f", d.Path)
	d.frozen = err == nil
	return err
}

// Thaw undoes Freeze.
func (d *Disk) Thaw(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.frozen {
		return nil
	}
	err := run(ctx, "fsfreeze", "-u", d.Path)
	d.frozen = err != nil
	return err
}

// Fill leaves no room.
func (d *Disk) Fill() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.Path, &st); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(d.Path, filler))
	if err != nil {
		return err
	}
	defer f.Close()
	// What others write meanwhile makes it too large at first.
	for size := int64(st.Bfree) * st.Bsize; size > 0; size -= 256 << 10 {
		if err = syscall.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
			return nil
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return err
}

// Free undoes Fill.
func (d *Disk) Free() error {
	err := os.Remove(filepath.Join(d.Path, filler))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Close unmounts the disk and deletes it. Nobody may use it any more.
func (d *Disk) Close(ctx context.Context) error {
	err := d.Thaw(ctx)
	if err == nil {
		err = run(ctx, "umount", d.Path)
	}
	return errors.Join(err, os.Remove(d.image))
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
