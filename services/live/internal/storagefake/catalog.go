package storagefake

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// catalogQueue is more than any test changes while a follower is busy.
const catalogQueue = 1 << 16

// SetTable creates or changes a table.
func (s *Storage) SetTable(t *catalog.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[t.ID] = t.Index()
	s.announce(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableChanged{TableChanged: catalog.TableToProto(t)}})
}

// DropTable drops a table in the catalog; its watches end too.
func (s *Storage) DropTable(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, id)
	for key, p := range s.partitions {
		if key.table != id {
			continue
		}
		for w := range p.watches {
			w.fail = dberr.New(dberr.NotFound, "the table was dropped")
			w.session.touch(w)
		}
	}
	s.announce(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_TableDropped{TableDropped: id}})
}

// SetUser creates or changes a user.
func (s *Storage) SetUser(u *catalogv1.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[u.GetUserId()] = u
	s.announce(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_UserChanged{UserChanged: u.GetUserId()}})
}

func (s *Storage) announce(m *catalogv1.WatchResponse) {
	s.version++
	m.Version = s.version
	for _, c := range s.catalog {
		c <- m
	}
}

// Watch follows the catalog. It is named as in the generated service.
func (s *catalogService) Watch(_ *catalogv1.WatchRequest, stream grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	events := make(chan *catalogv1.WatchResponse, catalogQueue)
	s.mu.Lock()
	snapshot := &catalogv1.Snapshot{Shards: 1, ClusterId: "fake"}
	for _, t := range s.tables {
		snapshot.Tables = append(snapshot.Tables, catalog.TableToProto(t))
	}
	s.topology(snapshot)
	first := &catalogv1.WatchResponse{Version: s.version, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snapshot}}
	s.catalog = append(s.catalog, events)
	s.mu.Unlock()
	if err := stream.Send(first); err != nil {
		return err
	}
	for {
		select {
		case m := <-events:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// GetUser returns a user. Everybody exists who was not dropped.
func (s *catalogService) GetUser(_ context.Context, r *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[r.GetUserId()]
	if u == nil {
		u = &catalogv1.User{UserId: r.GetUserId(), Role: catalogv1.Role_ROLE_USER}
	}
	return &catalogv1.GetUserResponse{User: u}, nil
}
