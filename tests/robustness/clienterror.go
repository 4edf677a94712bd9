package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

// retriable are the errors a client tries again on: all it may see while nodes are replaced.
var retriable = []dberr.Code{dberr.Unavailable, dberr.NotLeader}

// answers are errors that say something about the data, on a cluster that nobody touches too.
var answers = []dberr.Code{dberr.PrimaryKeyViolation, dberr.Conflict, dberr.AlreadyExists}

// Errors counts the errors clients saw, by code.
type Errors struct {
	mu    sync.Mutex
	count map[dberr.Code]int
	first map[dberr.Code]string // the first of each code
}

// see counts an error, except an end the client itself asked for.
func (e *Errors) see(ctx context.Context, call string, err error) {
	if err == nil || err == io.EOF || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	err = dberr.FromStatus(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count == nil {
		e.count, e.first = map[dberr.Code]int{}, map[dberr.Code]string{}
	}
	code := dberr.CodeOf(err)
	if e.count[code]++; e.count[code] == 1 {
		e.first[code] = fmt.Sprintf("%s: %v", call, err)
	}
}

func (e *Errors) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for code, n := range e.count {
		out = append(out, fmt.Sprintf("%s %d", code, n))
	}
	if len(out) == 0 {
		return "none"
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// Check fails when a client saw an error that it could not just have tried again on.
func (e *Errors) Check() error { return e.checkBut(slices.Concat(retriable, answers)) }

// CheckNone fails when a client saw an error that says nothing about the data.
func (e *Errors) CheckNone() error { return e.checkBut(answers) }

func (e *Errors) checkBut(allowed []dberr.Code) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for code, n := range e.count {
		if !slices.Contains(allowed, code) {
			errs = append(errs, fmt.Errorf("clients saw %s %d times, first %s", code, n, e.first[code]))
		}
	}
	return errors.Join(errs...)
}

// watched counts the errors of one client.
type watched struct {
	kalamv1.KalamServiceClient
	errors *Errors
}

func (e *Errors) watch(c kalamv1.KalamServiceClient) kalamv1.KalamServiceClient {
	return watched{KalamServiceClient: c, errors: e}
}

func (w watched) Execute(ctx context.Context, req *kalamv1.ExecuteRequest, opts ...grpc.CallOption) (*kalamv1.ExecuteResponse, error) {
	resp, err := w.KalamServiceClient.Execute(ctx, req, opts...)
	w.errors.see(ctx, req.GetSql(), err)
	return resp, err
}

func (w watched) Subscribe(ctx context.Context, req *kalamv1.SubscribeRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[kalamv1.SubscribeResponse], error) {
	stream, err := w.KalamServiceClient.Subscribe(ctx, req, opts...)
	if err != nil {
		w.errors.see(ctx, "subscribe to "+req.GetSql(), err)
		return nil, err
	}
	return watchedStream{ServerStreamingClient: stream, errors: w.errors, sql: req.GetSql()}, nil
}

type watchedStream struct {
	grpc.ServerStreamingClient[kalamv1.SubscribeResponse]
	errors *Errors
	sql    string
}

func (s watchedStream) Recv() (*kalamv1.SubscribeResponse, error) {
	m, err := s.ServerStreamingClient.Recv()
	s.errors.see(s.Context(), "subscription to "+s.sql, err)
	return m, err
}
