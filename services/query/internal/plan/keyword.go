package plan

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// engineWords are keywords of the engine that PostgreSQL allows as names. The text that is written from
// a parse tree quotes PostgreSQL's keywords only.
var engineWords = map[string]bool{"anti": true, "asof": true, "at": true, "by": true, "columns": true, "describe": true,
	"generated": true, "glob": true, "lambda": true, "map": true, "pivot": true, "pivot_longer": true, "pivot_wider": true,
	"positional": true, "qualify": true, "semi": true, "show": true, "struct": true, "summarize": true, "try_cast": true,
	"unpack": true, "unpivot": true}

// quoteKeywords makes the names among engineWords quoted ones, by writing them in capitals: those are
// quoted, and to the engine a name is the same in capitals. Names of results are not touched; any word
// may follow AS.
func quoteKeywords(stmt proto.Message) {
	sqlfront.Walk(stmt, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.ColumnRef:
			quoteAll(n.GetFields())
		case *pg.RangeVar:
			quote(&n.Relname)
		case *pg.Alias:
			quote(&n.Aliasname)
			quoteAll(n.GetColnames())
		case *pg.CommonTableExpr:
			quote(&n.Ctename)
			quoteAll(n.GetAliascolnames())
		case *pg.JoinExpr:
			quoteAll(n.GetUsingClause())
		case *pg.WindowDef:
			quote(&n.Name)
			quote(&n.Refname)
		}
		return true
	})
}

func quoteAll(list []*pg.Node) {
	for _, n := range list {
		if s := n.GetString_(); s != nil {
			quote(&s.Sval)
		}
	}
}

func quote(name *string) {
	if engineWords[*name] {
		*name = strings.ToUpper(*name)
	}
}
