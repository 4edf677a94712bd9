package storages

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

// Default templates of spec 6.6.
const (
	sharedTemplate = "{namespace}/{tableName}"
	userTemplate   = "{namespace}/{tableName}/{userId}"
)

// valueBytesMax is the longest name that is put into a path as it is; what is longer is cut and told apart by its SHA-256. A whole key has
// 1,024 bytes, a part of a path 255.
const valueBytesMax = 200

// The variables, in the order they must have.
const (
	varNamespace = "namespace"
	varTable     = "tablename"
	varShard     = "shard"
	varUser      = "userid"
)

var order = []string{varNamespace, varTable, varShard, varUser}

// aliases are other spellings, without case, underscores and hyphens.
var aliases = map[string]string{"namespace": varNamespace, "namespaceid": varNamespace, "tablename": varTable, "table": varTable, "tableid": varTable,
	"shard": varShard, "shardid": varShard, "userid": varUser, "user": varUser}

// variable is {name} and the seed's ${name}.
var variable = regexp.MustCompile(`\$?\{([A-Za-z_-]+)\}`)

func variableName(text string) string {
	return aliases[strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(text))]
}

// checkTemplate refuses a template that does not tell partitions apart, or leads elsewhere.
func checkTemplate(text string, user bool) error {
	var seen []string
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		name := variableName(m[1])
		if name == "" {
			return dberr.New(dberr.InvalidArgument, "the template %.100q has {%s}, there are {namespace}, {tableName}, {shard} and {userId}", text, m[1])
		}
		if slices.Contains(seen, name) {
			return dberr.New(dberr.InvalidArgument, "the template %.100q has {%s} twice", text, m[1])
		}
		seen = append(seen, name)
	}
	if !slices.IsSortedFunc(seen, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) }) {
		return dberr.New(dberr.InvalidArgument, "the template %.100q has its variables in another order than {namespace}, {tableName}, {shard}, {userId}", text)
	}
	switch {
	case user && !slices.Contains(seen, varUser):
		return dberr.New(dberr.InvalidArgument, "the template %.100q for USER tables has no {userId}", text)
	case !user && (!slices.Contains(seen, varNamespace) || !slices.Contains(seen, varTable)):
		return dberr.New(dberr.InvalidArgument, "the template %.100q for SHARED tables needs {namespace} and {tableName}", text)
	case !user && slices.Contains(seen, varUser):
		return dberr.New(dberr.InvalidArgument, "the template %.100q for SHARED tables has {userId}: their rows are nobody's own", text)
	}
	rest := variable.ReplaceAllString(text, "x")
	if rest != path.Clean(rest) || strings.HasPrefix(rest, "/") || !fixedText.MatchString(rest) {
		return dberr.New(dberr.InvalidArgument, "the template %.100q is not a relative path of letters, digits and _ . - with variables", text)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if strings.Contains(part, "..") || strings.Contains(part, "__") || strings.HasPrefix(part, "_kalamdb") {
			return dberr.New(dberr.InvalidArgument, "the template %.100q has the part %q", text, part)
		}
	}
	return nil
}

var fixedText = regexp.MustCompile(`^[A-Za-z0-9_./=-]+$`)

// expand is the folder of a partition. What a template leaves out that tells partitions apart comes behind it.
func expand(template string, shard uint32, t *catalog.Table, owner string) string {
	values := map[string]string{varNamespace: t.Namespace, varTable: t.Name, varShard: strconv.FormatUint(uint64(shard), 10), varUser: owner}
	seen := map[string]bool{}
	dir := variable.ReplaceAllStringFunc(template, func(m string) string {
		name := variableName(variable.FindStringSubmatch(m)[1])
		seen[name] = true
		return escape(values[name])
	})
	for _, name := range []string{varNamespace, varTable} {
		if !seen[name] {
			dir = path.Join(dir, escape(values[name]))
		}
	}
	if !t.Kind.PerUser() && owner != "" { // a partition of a partitioned table
		dir = path.Join(dir, escape(strings.TrimPrefix(owner, "\x00")))
	}
	return dir
}

// escape is cold's, in one part: %xx for all that is not [a-z0-9_.-], and for a dot or an underscore behind another: libraries give
// meanings of their own to .. and __.
func escape(value string) string {
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' && (i == 0 || value[i-1] != c) || c == '.' && i > 0 && value[i-1] != c {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() <= valueBytesMax {
		return b.String()
	}
	sum := sha256.Sum256([]byte(value))
	return b.String()[:valueBytesMax/2] + "%%" + hex.EncodeToString(sum[:16])
}

// Place is where new segments of a partition go: to its user's storage if the table asks for that and the user has one, else to the table's. One
// that does not exist is local: tables from before there were storages name such ones.
func (s *Storages) Place(shard uint32, t *catalog.Table, owner string) (cold.Place, error) {
	id := t.Options.StorageID
	if t.Options.UseUserStorage && t.Kind == catalog.UserTable {
		u, err := s.cfg.Catalog.User(owner)
		if err != nil {
			return cold.Place{}, err
		}
		if u.GetStorageMode() == catalog.StorageModeRegion && u.GetStorageId() != "" {
			id = u.GetStorageId()
		}
	}
	st, ok := s.cfg.Catalog.Storage(id)
	if !ok {
		return cold.Place{Dir: cold.Dir(t, owner)}, nil
	}
	return placeIn(st, shard, t, owner), nil
}

func placeIn(st *catalogv1.Storage, shard uint32, t *catalog.Table, owner string) cold.Place {
	template := st.GetSharedTablesTemplate()
	if t.Kind.PerUser() {
		template = st.GetUserTablesTemplate()
	}
	return cold.Place{Storage: st.GetStorageId(), Location: st.GetLocation(), Dir: expand(template, shard, t, owner)}
}
