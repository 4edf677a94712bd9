package router

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// silentFor is how long a node that let an attempt pass without an answer is passed over: the others need as long to
// find out too and to elect another leader, and name the silent one until then. After it a node that is only slow is
// asked again, for longer.
const silentFor = 2 * time.Second

// answersWithin is how long a node may take to say anything at all, when it did not answer a call in time.
const answersWithin = 100 * time.Millisecond

// answers asks a node for something that it does not have: also that answer tells a node where one call takes long, behind
// another write of its row or a slow disk, from one that is paused or cut off. Only the latter is passed over.
func answers(ctx context.Context, conn *rpcnet.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	err := conn.Invoke(ctx, "/kalam.Nothing/AreYouThere", &emptypb.Empty{}, &emptypb.Empty{})
	return !dberr.Is(err, dberr.Timeout) && !dberr.Is(err, dberr.Unavailable)
}

// silent is the nodes that did not answer lately.
type silent struct{ until sync.Map } // address → time.Time

func (s *silent) add(addr string) { s.until.Store(addr, time.Now().Add(silentFor)) }

// remove is told of every answer, so it looks before it writes.
func (s *silent) remove(addr string) {
	if _, ok := s.until.Load(addr); ok {
		s.until.Delete(addr)
	}
}

func (s *silent) is(addr string) bool {
	until, ok := s.until.Load(addr)
	return ok && time.Now().Before(until.(time.Time))
}
