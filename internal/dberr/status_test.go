package dberr

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestErrorSurvivesTheWire(t *testing.T) {
	sent := fmt.Errorf("write: %w", New(NotLeader, "shard %d is led by %s", 3, "n2").With(FieldLeader, "n2"))
	got := FromStatus(ToStatus(sent))
	if CodeOf(got) != NotLeader || FieldOf(got, FieldLeader) != "n2" || got.Error() != sent.Error() {
		t.Fatalf("got %v (%s, leader %q)", got, CodeOf(got), FieldOf(got, FieldLeader))
	}
	if c := status.Code(ToStatus(sent)); c != codes.Unavailable {
		t.Fatalf("gRPC code %s", c)
	}
}

func TestEveryCodeHasAGRPCCode(t *testing.T) {
	for code, c := range grpcCodes {
		if c == codes.OK || c == codes.Unknown {
			t.Errorf("%s maps to %s", code, c)
		}
		if got := CodeOf(FromStatus(ToStatus(New(code, "x")))); got != code {
			t.Errorf("%s came back as %s", code, got)
		}
	}
}

func TestForeignErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{context.Canceled, Canceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), Timeout},
		{fmt.Errorf("x"), Internal},
		{status.Error(codes.Unavailable, "gone"), Unavailable},
	} {
		if got := CodeOf(FromStatus(ToStatus(c.err))); got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
	if FromStatus(nil) != nil || ToStatus(nil) != nil {
		t.Error("nil must stay nil")
	}
}
