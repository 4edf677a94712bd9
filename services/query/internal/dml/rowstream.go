package dml

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/account"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

// inFlightMax bounds the batches of one client stream that wait for their acknowledgement; past it the
// next batch is not read, and flow control reaches the client.
const inFlightMax = 256

// RowStreams serves QueryService.WriteStream: batches of rows without SQL.
type RowStreams struct {
	Catalog *catalogview.View
	Storage *storageclient.Client
	// DefaultNamespace is used by batches that name none.
	DefaultNamespace string

	// receivers are the goroutines that read from clients. gRPC unblocks one only when its handler
	// has returned, so handlers do not wait for them: Wait does.
	receivers sync.WaitGroup
}

type clientStream = grpc.BidiStreamingServer[queryv1.WriteStreamRequest, queryv1.WriteStreamResponse]

// received is what a client's stream gave.
type received struct {
	req *queryv1.WriteStreamRequest
	err error
}

// answer is what one batch waits for: an error of ours, or the next response of each part's lane.
type answer struct {
	err   error
	parts []sentPart
	// again writes a part anew, bound to the table as it is now.
	again func(ctx context.Context, number uint32) (*storagev1.WriteResponse, error)
}

// sentPart is one part of a batch on its way.
type sentPart struct {
	lane   *lane
	number uint32
}

// Wait returns when every goroutine of ended streams is gone. Call it after the server has stopped.
func (s *RowStreams) Wait() { s.receivers.Wait() }

// Serve runs one client stream until it ends. Batches go out in the order they came, on one stream for each
// shard they belong to, and are acknowledged in that order; one that is refused does not stop the others.
func (s *RowStreams) Serve(client clientStream) error {
	whole, cancel := context.WithCancel(client.Context())
	defer cancel()
	requests := make(chan received)
	s.receivers.Add(1)
	go func() {
		defer s.receivers.Done()
		receive(whole, client, requests)
	}()
	group, ctx := errgroup.WithContext(whole)
	answers := make(chan answer, inFlightMax)
	f := &forwarder{streams: s, id: requestid.New(), lanes: map[uint32]*lane{}, answers: answers}
	group.Go(func() error { return acknowledge(ctx, client, answers) })
	group.Go(func() error {
		defer close(answers)
		return f.forward(ctx, requests)
	})
	err := group.Wait()
	f.close()
	return err
}

// receive hands over what the client sends until it ends or ctx does.
func receive(ctx context.Context, client clientStream, requests chan<- received) {
	for {
		req, err := client.Recv()
		select {
		case requests <- received{req, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// forwarder sends one client stream's batches.
type forwarder struct {
	streams *RowStreams
	id      requestid.ID // of the stream; each batch's is derived from it
	batches uint64
	user    *catalog.Identity
	lanes   map[uint32]*lane
	answers chan<- answer
}

// forward writes the client's batches to storage.
func (f *forwarder) forward(ctx context.Context, requests <-chan received) error {
	for {
		var r received
		select {
		case r = <-requests:
		case <-ctx.Done():
			return dberr.FromStatus(ctx.Err())
		}
		if errors.Is(r.err, io.EOF) {
			return nil
		}
		if r.err != nil {
			return r.err
		}
		select {
		case f.answers <- f.send(ctx, r.req):
		case <-ctx.Done():
			return dberr.FromStatus(ctx.Err())
		}
	}
}

func (f *forwarder) send(ctx context.Context, req *queryv1.WriteStreamRequest) answer {
	if f.user == nil { // only the first message carries it
		first := catalog.IdentityFromProto(req.GetIdentity())
		f.user = &first
	}
	var b *batch
	err := f.streams.Catalog.CatchUp(ctx, func() (err error) {
		b, err = f.streams.decode(ctx, *f.user, req)
		return err
	})
	if err != nil {
		return answer{err: err}
	}
	f.batches++
	id, user := f.id.Part(f.batches), *f.user
	a := answer{again: func(ctx context.Context, number uint32) (*storagev1.WriteResponse, error) {
		return f.streams.writeAgain(ctx, user, req, id, number)
	}}
	for _, p := range b.parts {
		l := f.lane(p.place.Shard)
		l.send(ctx, b.request(p, id, false))
		a.parts = append(a.parts, sentPart{l, p.number})
	}
	return a
}

// writeAgain writes a part of a batch that was refused because its table was altered. Batches sent behind it may be written
// before it; the refused attempt had no effect.
func (s *RowStreams) writeAgain(ctx context.Context, id catalog.Identity, req *queryv1.WriteStreamRequest, request requestid.ID, number uint32) (resp *storagev1.WriteResponse, err error) {
	err = s.Catalog.CatchUp(ctx, func() error {
		return Retry(ctx, func() error {
			b, err := s.decode(ctx, id, req)
			if err != nil {
				return err
			}
			p := b.byNumber[number]
			if p == nil { // the table was dropped and made anew meanwhile
				return dberr.New(dberr.InvalidOperation, "%s is another table by now", b.table.QualifiedName())
			}
			resp, err = s.Storage.Write(ctx, b.request(p, request, false))
			return err
		})
	})
	return resp, err
}

func (f *forwarder) lane(shard uint32) *lane {
	l := f.lanes[shard]
	if l == nil {
		l = &lane{storage: f.streams.Storage, shard: shard}
		f.lanes[shard] = l
	}
	return l
}

func (f *forwarder) close() {
	for _, l := range f.lanes {
		l.close()
	}
}

// acknowledge answers batches in order.
func acknowledge(ctx context.Context, client clientStream, answers <-chan answer) error {
	for {
		var a answer
		var open bool
		select {
		case a, open = <-answers:
		case <-ctx.Done():
			return dberr.FromStatus(ctx.Err())
		}
		if !open {
			return nil
		}
		resp := &queryv1.WriteStreamResponse{}
		if a.err != nil {
			resp.Error = dberr.ToMessage(a.err)
		} else {
			if err := a.collect(ctx, resp); err != nil {
				return err
			}
		}
		if err := client.Send(resp); err != nil {
			return err
		}
	}
}

// collect adds up the answers of a batch's parts. A part that failed is the batch's error; of others that were
// written its message tells.
func (a *answer) collect(ctx context.Context, resp *queryv1.WriteStreamResponse) error {
	done := 0
	for _, p := range a.parts {
		written, err := p.lane.receive(ctx)
		if err != nil {
			return err
		}
		w, err := written.GetResponse(), dberr.FromMessage(written.GetError())
		if dberr.Is(err, dberr.SchemaChanged) {
			w, err = a.again(ctx, p.number)
		}
		if err != nil {
			resp.Error = dberr.ToMessage(err)
			continue
		}
		done++
		resp.Rows, resp.Durability, resp.Position = resp.GetRows()+affected(w), w.GetDurability(), w.GetPosition()
	}
	if len(a.parts) > 1 {
		resp.Position = 0 // each shard has its own
	}
	if resp.GetError() != nil && done > 0 {
		resp.Error = dberr.ToMessage(partly(dberr.FromMessage(resp.GetError()), done))
	}
	return nil
}

func affected(w *storagev1.WriteResponse) uint64 {
	var n uint64
	for _, r := range w.GetResults() {
		n += r.GetRowsAffected()
	}
	return n
}

// decode binds one batch and encodes its rows.
func (s *RowStreams) decode(ctx context.Context, id catalog.Identity, req *queryv1.WriteStreamRequest) (*batch, error) {
	if as := req.GetAsUser(); as != "" && as != id.UserID {
		role, err := account.TargetRole(ctx, s.Catalog, as)
		if err != nil {
			return nil, err
		}
		if id, err = access.As(id, as, role); err != nil {
			return nil, err
		}
	}
	state := s.Catalog.State()
	namespace, name := s.tableName(req)
	t, ok := state.Table(namespace, name)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name)
	}
	tg, err := bind(state, id, t)
	if err != nil {
		return nil, err
	}
	b := tg.newBatch(storagev1.Operation_OPERATION_INSERT)
	switch rows := req.GetRows().(type) {
	case *queryv1.WriteStreamRequest_RowSet:
		err = b.addRowSet(rows.RowSet)
	case *queryv1.WriteStreamRequest_ArrowIpc:
		err = b.addArrow(rows.ArrowIpc)
	default:
		err = dberr.New(dberr.InvalidArgument, "the batch holds no rows: neither arrow_ipc nor row_set is set")
	}
	return b, err
}

// tableName folds the names of a request; the table may be written ns.table.
func (s *RowStreams) tableName(req *queryv1.WriteStreamRequest) (namespace, name string) {
	namespace, name = strings.ToLower(req.GetNamespace()), strings.ToLower(req.GetTable())
	if before, after, qualified := strings.Cut(name, "."); qualified {
		return before, after
	}
	if namespace == "" {
		namespace = s.DefaultNamespace
	}
	return namespace, name
}

func (b *batch) addRowSet(set *queryv1.RowSet) error {
	positions, err := writableAll(b.table, folded(set.GetColumns()))
	if err != nil {
		return err
	}
	for i, r := range set.GetRows() {
		if len(r.GetValues()) != len(positions) {
			return dberr.New(dberr.InvalidArgument, "row %d has %d values for %d columns", i+1, len(r.GetValues()), len(positions))
		}
		b.row.Reset()
		for j, v := range r.GetValues() {
			if err := b.put(positions[j], paramDatum(v), i+1); err != nil {
				return err
			}
		}
		if err := b.add(); err != nil {
			return err
		}
	}
	return nil
}

// batchBytesMax bounds one Arrow batch of a client, as sent and as decoded.
const batchBytesMax = 64 << 20

// addArrow encodes the rows of an Arrow IPC stream, columns by name.
func (b *batch) addArrow(data []byte) error {
	schema, records, err := rowbatch.Decode(memory.DefaultAllocator, data, batchBytesMax)
	if err != nil {
		return err
	}
	defer func() {
		for _, r := range records {
			r.Release()
		}
	}()
	if schema.NumFields() == 0 {
		return dberr.New(dberr.InvalidArgument, "the batch has no columns")
	}
	names := make([]string, schema.NumFields())
	for i, f := range schema.Fields() {
		names[i] = f.Name
	}
	positions, err := writableAll(b.table, folded(names))
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := b.addRecord(r, positions, nil); err != nil {
			return err
		}
	}
	return nil
}

// folded writes names as SQL folds them.
func folded(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToLower(n)
	}
	return out
}

// addRecord encodes a record's rows. Field from[i], or i when from is nil, goes to column positions[i].
func (b *batch) addRecord(r arrow.RecordBatch, positions, from []int) error {
	columns := rowbatch.ColumnsOf(r.Schema())
	for row := range int(r.NumRows()) {
		b.row.Reset()
		for i, p := range positions {
			field := i
			if from != nil {
				field = from[i]
			}
			v := rowbatch.DatumAt(r.Column(field), row, columns[field].Type)
			if err := b.put(p, v, b.rows+1); err != nil {
				return err
			}
		}
		if err := b.add(); err != nil {
			return err
		}
	}
	return nil
}
