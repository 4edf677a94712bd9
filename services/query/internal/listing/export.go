package listing

import (
	"net/url"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

var exportColumns = []catalog.Column{text("job_id"), text("status"), {Name: "created_at", Type: catalog.Type{Kind: catalog.Timestamp}},
	text("message"), text("download_url")}

// Export answers EXPORT USER DATA and SHOW EXPORT. Nothing is stored, so there is always one: what the caller has when it is fetched.
func (l *Listings) Export(id catalog.Identity, now time.Time) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.UseOwnRows); err != nil {
		return nil, err
	}
	export := catalog.ExportID(now)
	return systemtable.OneShot(exportColumns, [][]datum.Datum{{datum.Text(export), datum.Text("completed"), datum.Timestamp(now.UnixMicro()),
		datum.Text("Fetch download_url within 24 hours: the archive is made while it is sent, of the rows there are then"),
		datum.Text("/v1/exports/" + url.PathEscape(id.UserID) + "/" + export)}})
}
