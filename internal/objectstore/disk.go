package objectstore

import "syscall"

// DiskUse is how large the file system of a folder is and how much of it is used, in bytes; ok is false where that cannot be told.
func DiskUse(folder string) (total, used uint64, ok bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(folder, &s) != nil {
		return 0, 0, false
	}
	size := uint64(s.Bsize)
	return s.Blocks * size, (s.Blocks - s.Bfree) * size, true
}
