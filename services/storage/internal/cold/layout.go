package cold

import (
	"fmt"
	"path"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// partBytesMax is the longest name of a folder that is made: file systems allow 255 bytes.
const partBytesMax = 200

const (
	userRoot   = "user"
	sharedRoot = "shared"
	// extension ends the names of segments.
	extension = ".parquet"
)

// Dir is the folder of a partition: user/{user}/{namespace}/{table} or shared/{namespace}/{table}, below which a partitioned
// table has one for each partition. A user's folder holds everything of the user.
func Dir(t *catalog.Table, owner string) string {
	switch {
	case t.Kind.PerUser():
		return path.Join(userRoot, escape(owner), escape(t.Namespace), escape(t.Name))
	case owner != "": // a partition's name begins with a NUL, which says nothing to people
		return path.Join(sharedRoot, escape(t.Namespace), escape(t.Name), escape(strings.TrimPrefix(owner, "\x00")))
	}
	return path.Join(sharedRoot, escape(t.Namespace), escape(t.Name))
}

// escape makes a name safe as a part of a path: bytes outside of [a-z0-9_.-] become %XX, capital letters too, as there are file
// systems that fold case, and so does a dot that may lead a part. What gets long goes on in a folder below: a part that ends in % goes on.
func escape(name string) string {
	var b strings.Builder
	dots := len(name) <= partBytesMax/3 // no part can begin in the middle of it
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' && i > 0 && dots {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02x", c)
	}
	whole := b.String()
	var parts []string
	for len(whole) > partBytesMax {
		parts = append(parts, whole[:partBytesMax]+"%")
		whole = whole[partBytesMax:]
	}
	return strings.Join(append(parts, whole), "/")
}
