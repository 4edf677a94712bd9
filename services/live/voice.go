package live

import (
	"context"
	"sync"
	"time"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

// aliveEvery is how often a stream is looked at: one that was silent since the last time gets a sign of life,
// so that something is said within twice that, a second. Gateways give up after 2.5 s.
const aliveEvery = 500 * time.Millisecond

// voice is all that is said on one gateway's stream.
type voice struct {
	stream connectStream
	wanted chan struct{} // closed when the gateway asks for signs of life; by receive only
	asked  bool

	mu    sync.Mutex // gRPC takes one message at a time
	spoke bool       // since the last look
}

// want is called by the receiving goroutine, any number of times.
func (v *voice) want() {
	if !v.asked {
		v.asked = true
		close(v.wanted)
	}
}

// send sends what the outbox holds, until it is closed and empty.
func (v *voice) send(ctx context.Context, st *group.Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	var signs sync.WaitGroup
	signs.Go(func() { v.signs(ctx, cancel) })
	defer signs.Wait() // nothing may be sent once the handler has returned
	defer cancel()
	for {
		m, ok := st.Out().Take(ctx)
		st.Reap()
		if !ok {
			return ctx.Err()
		}
		if err := v.say(m); err != nil {
			return err
		}
	}
}

// signs gives signs of life on a silent stream, once they are wanted. broken ends the sending.
func (v *voice) signs(ctx context.Context, broken context.CancelFunc) {
	select {
	case <-v.wanted:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if v.sign() != nil {
			broken()
			return
		}
	}
}

func (v *voice) say(m *livev1.ConnectResponse) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spoke = true
	return v.stream.Send(m)
}

func (v *voice) sign() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.spoke {
		v.spoke = false
		return nil
	}
	return v.stream.Send(&livev1.ConnectResponse{Event: &livev1.ConnectResponse_Alive{Alive: &livev1.Alive{}}})
}
