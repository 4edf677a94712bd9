package catalogview

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// GetUser answers what the newest version is, once the test says it.
func (f *fakeStorage) GetUser(ctx context.Context, _ *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	f.asked <- struct{}{}
	select {
	case version := <-f.newest:
		if version == 0 {
			return nil, dberr.New(dberr.Unavailable, "no leader")
		}
		return &catalogv1.GetUserResponse{Version: version}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errMissing = dberr.New(dberr.TableNotFound, "no such table")

// lookUp finds a table from version 11 on; the view of these tests begins with 10.
func lookUp(v *View, runs *int) func() error {
	return func() error {
		*runs++
		if v.State().Version < 11 {
			return errMissing
		}
		return nil
	}
}

func TestWhatAnotherNodeMadeIsFoundOnceTheViewHasIt(t *testing.T) {
	for _, code := range []dberr.Code{dberr.TableNotFound, dberr.NamespaceNotFound, dberr.ColumnNotFound, dberr.SchemaChanged} {
		t.Run(string(code), func(t *testing.T) {
			v, a, _, events, _ := setUp(t)
			runs, done := 0, make(chan error, 1)
			find := func() error {
				if runs++; v.State().Version < 11 {
					return dberr.New(code, "not what the view has")
				}
				return nil
			}
			go func() { done <- v.CatchUp(t.Context(), find) }()
			<-a.asked
			a.newest <- 11
			a.user(11, "u") // only now does the watch say so
			if e := <-events; e.UserChanged != "u" {
				t.Fatalf("got %+v", e)
			}
			if err := <-done; err != nil || runs != 2 {
				t.Errorf("%v after %d runs, want none after 2", err, runs)
			}
		})
	}
}

func TestAViewThatDoesNotCatchUpAnswersWhatItFound(t *testing.T) {
	v, a, _, _, _ := setUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the request's, as its caller has no patience
	defer cancel()
	runs, done := 0, make(chan error, 1)
	go func() { done <- v.CatchUp(ctx, lookUp(v, &runs)) }()
	<-a.asked
	a.newest <- 11 // the watch never says so
	if err := <-done; !errors.Is(err, errMissing) || runs != 1 {
		t.Errorf("%v after %d runs, want %v after 1", err, runs, errMissing)
	}
}

func TestWhatDoesNotExistIsLookedUpOnce(t *testing.T) {
	v, a, _, _, _ := setUp(t)
	for _, newest := range []uint64{10, 0} { // nothing newer; nobody who knows
		runs, done := 0, make(chan error, 1)
		go func() { done <- v.CatchUp(t.Context(), lookUp(v, &runs)) }()
		<-a.asked
		a.newest <- newest
		if err := <-done; !errors.Is(err, errMissing) || runs != 1 {
			t.Errorf("newest %d: %v after %d runs", newest, err, runs)
		}
	}
}

func TestOnlyWhatIsMissingAsks(t *testing.T) {
	v, a, _, _, _ := setUp(t)
	for _, want := range []error{nil, errors.New("plain"), dberr.New(dberr.PermissionDenied, "no")} {
		runs := 0
		if err := v.CatchUp(t.Context(), func() error { runs++; return want }); err != want || runs != 1 {
			t.Errorf("%v after %d runs, want %v after 1", err, runs, want)
		}
	}
	if len(a.asked) != 0 {
		t.Errorf("the leader was asked %d times", len(a.asked))
	}
}

// Invoke asks the first node.
func (c *inTurn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.conns[0].Invoke(ctx, method, args, reply, opts...)
}

func TestQuestionsAreSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &versions{now: time.Now}
		answers, asked := make(chan uint64), 0
		from := func(context.Context) (uint64, error) {
			asked++
			return <-answers, nil
		}
		var all sync.WaitGroup
		get := func(want uint64) {
			all.Go(func() {
				if version, ok := s.get(t.Context(), from); !ok || version != want {
					t.Errorf("version %d, %t, want %d", version, ok, want)
				}
			})
		}
		get(1)
		synctest.Wait() // the first question may be answered already: those who come now share another one
		for range 50 {
			get(2)
		}
		synctest.Wait()
		answers <- 1
		answers <- 2
		all.Wait()
		if asked != 2 {
			t.Errorf("the leader was asked %d times, want 2", asked)
		}
		quick := func(context.Context) (uint64, error) { return 3, nil }
		for n := asked + 1; n <= asksMax+1; n++ {
			if _, ok := s.get(t.Context(), quick); ok != (n <= asksMax) {
				t.Errorf("question %d in a window: %t", n, ok)
			}
		}
		time.Sleep(asksWindow) // the bubble's clock
		if version, ok := s.get(t.Context(), quick); !ok || version != 3 {
			t.Errorf("in the next window: version %d, %t", version, ok)
		}
	})
}
