// Package client is a small gRPC client for whole-system tools: it authenticates, runs SQL, writes
// batches and subscribes, and turns Arrow answers into Go values.
package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
)

// Client talks to one server as one account.
type Client struct {
	conn *grpc.ClientConn
	RPC  kalamv1.KalamServiceClient
}

// basic sends HTTP Basic credentials with every call.
type basic string

func (b basic) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(b)}, nil
}

func (basic) RequireTransportSecurity() bool { return false } // loopback only

// Dial connects as user with a password.
func Dial(addr, user, password string) (*Client, error) {
	cred := basic("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	return dial(addr, cred)
}

// DialToken connects with a bearer token.
func DialToken(addr, token string) (*Client, error) { return dial(addr, basic("Bearer "+token)) }

func dial(addr string, cred basic) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(cred), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, RPC: kalamv1.NewKalamServiceClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Result is one statement's answer.
type Result struct {
	Columns []string
	// Rows hold nil, bool, int64, float64, string or []byte; other types as text.
	Rows    [][]any
	Count   uint64
	Message string
}

// Exec runs SQL and returns the last statement's result. Errors are *dberr.Error.
func (c *Client) Exec(ctx context.Context, sql string, params ...any) (*Result, error) {
	req := &kalamv1.ExecuteRequest{Sql: sql}
	for _, p := range params {
		v, err := Value(p)
		if err != nil {
			return nil, err
		}
		req.Params = append(req.Params, v)
	}
	resp, err := c.RPC.Execute(ctx, req)
	if err != nil {
		return nil, dberr.FromStatus(err)
	}
	last := resp.GetResults()[len(resp.GetResults())-1]
	r := &Result{Count: last.GetRowCount(), Message: last.GetMessage()}
	if len(last.GetArrowIpc()) > 0 {
		r.Columns, r.Rows, err = DecodeIPC(last.GetArrowIpc())
	}
	return r, err
}

// Value makes a parameter.
func Value(p any) (*kalamv1.Value, error) {
	switch p := p.(type) {
	case nil:
		return &kalamv1.Value{Kind: &kalamv1.Value_Null{Null: true}}, nil
	case bool:
		return &kalamv1.Value{Kind: &kalamv1.Value_Boolean{Boolean: p}}, nil
	case int:
		return &kalamv1.Value{Kind: &kalamv1.Value_Integer{Integer: int64(p)}}, nil
	case int64:
		return &kalamv1.Value{Kind: &kalamv1.Value_Integer{Integer: p}}, nil
	case float64:
		return &kalamv1.Value{Kind: &kalamv1.Value_Float{Float: p}}, nil
	case string:
		return &kalamv1.Value{Kind: &kalamv1.Value_Text{Text: p}}, nil
	case []byte:
		return &kalamv1.Value{Kind: &kalamv1.Value_Binary{Binary: p}}, nil
	}
	return nil, fmt.Errorf("a parameter cannot be a %T", p)
}

// DecodeIPC reads a complete Arrow IPC stream.
func DecodeIPC(b []byte) (columns []string, rows [][]any, err error) {
	r, err := ipc.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, nil, fmt.Errorf("read the Arrow answer: %w", err)
	}
	defer r.Release()
	for _, f := range r.Schema().Fields() {
		columns = append(columns, f.Name)
	}
	for r.Next() {
		rec := r.RecordBatch()
		for i := range int(rec.NumRows()) {
			row := make([]any, rec.NumCols())
			for c, col := range rec.Columns() {
				row[c] = cell(col, i)
			}
			rows = append(rows, row)
		}
	}
	return columns, rows, r.Err()
}

// Drain reads a Query stream to its end and returns the Arrow IPC bytes.
func Drain(stream grpc.ServerStreamingClient[kalamv1.QueryResponse]) ([]byte, error) {
	var all []byte
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, dberr.FromStatus(err)
		}
		all = append(all, m.GetArrowIpc()...)
	}
}

func cell(col arrow.Array, i int) any {
	if col.IsNull(i) {
		return nil
	}
	switch a := col.(type) {
	case *array.Boolean:
		return a.Value(i)
	case *array.Int16:
		return int64(a.Value(i))
	case *array.Int32:
		return int64(a.Value(i))
	case *array.Int64:
		return a.Value(i)
	case *array.Float32:
		return float64(a.Value(i))
	case *array.Float64:
		return a.Value(i)
	case *array.String:
		return a.Value(i)
	case *array.Timestamp:
		return int64(a.Value(i))
	case *array.Binary:
		return append([]byte(nil), a.Value(i)...)
	}
	return col.ValueStr(i)
}
