package rest

import (
	"context"
	"net/http"
	"time"

	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/clusterhealth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
)

// clusterTimeout bounds asking the catalog's leader: who asks after a cluster's health does not want to
// wait for an election.
const clusterTimeout = 3 * time.Second

// Cluster is where the state of the cluster is asked for.
type Cluster struct {
	Client clusterv1.ClusterServiceClient
	Self   clusterhealth.Self
	// ID is the cluster's, for when its leader does not answer.
	ID string
}

// clusterHealth answers this machine, and administrators from anywhere.
func (a *API) clusterHealth(w http.ResponseWriter, r *http.Request) {
	if !edge.Client(r.Context()).IsLoopback() {
		sess, err := a.authenticate(r)
		if err != nil || !sess.Identity.Role.Admin() {
			writePlain(w, http.StatusForbidden, `{"error":"Access denied. Health endpoint is localhost-only."}`)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterTimeout)
	defer cancel()
	st, err := a.Cluster.Client.Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		a.Logger.Warn("the catalog's leader did not say how the cluster is", "error", err)
		writeJSON(w, http.StatusServiceUnavailable, clusterhealth.Unknown(a.Cluster.Self, a.Cluster.ID))
		return
	}
	report := clusterhealth.Of(st, a.Cluster.Self)
	status := http.StatusOK
	if report.Status == clusterhealth.Unhealthy {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, report)
}
