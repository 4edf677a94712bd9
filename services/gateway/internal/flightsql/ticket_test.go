package flightsql

import (
	"testing"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

func TestTicketLifetime(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	s := newSealer([]byte("a secret"), func() time.Time { return at })
	handle, err := s.seal(&queryv1.StatementTicket{Identity: &catalogv1.Identity{UserId: "alice"}, Sql: "SELECT 1"})
	if err != nil {
		t.Fatal(err)
	}
	open := func() bool {
		got, err := s.open(handle, "alice")
		return err == nil && got.GetSql() == "SELECT 1"
	}
	if !open() {
		t.Fatal("a new ticket does not open")
	}
	at = at.Add(ticketLifetime)
	if !open() {
		t.Error("expired early")
	}
	at = at.Add(time.Second)
	if open() {
		t.Error("an old ticket opens")
	}
	other := newSealer([]byte("another secret"), s.now)
	if _, err := other.open(handle, "alice"); err != error(errTicket) {
		t.Errorf("another cluster's ticket: %v", err)
	}
}

// FuzzTicket: nothing opens but what was sealed.
func FuzzTicket(f *testing.F) {
	s := newSealer([]byte("a secret"), func() time.Time { return time.Unix(1_800_000_000, 0) })
	handle, err := s.seal(&queryv1.StatementTicket{Identity: &catalogv1.Identity{UserId: "alice"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(handle)
	f.Add(handle[:len(handle)-1])
	f.Add([]byte{ticketVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := s.open(data, "alice"); err == nil && string(data) != string(handle) {
			t.Fatalf("%x opened", data)
		}
	})
}
