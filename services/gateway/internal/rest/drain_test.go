package rest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestARefusedBodyIsTaken: a client that looks for the answer only after it sent everything finds the refusal, not a reset connection,
// and the connection serves its next request.
func TestARefusedBodyIsTaken(t *testing.T) {
	const size = bodyBytesDefault - 1 // more than sockets hold
	b := newBench(t)
	for _, c := range []struct {
		path   string
		status int
	}{{"/v1/api/auth/login", http.StatusRequestEntityTooLarge}, {"/v1/api/sql", http.StatusUnauthorized}, {"/v1/api/auth/me", http.StatusMethodNotAllowed}} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answers := bufio.NewReader(conn)
		post := func(length int) {
			t.Helper()
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: db\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", c.path, length); err != nil {
				t.Fatalf("%s: %v", c.path, err)
			}
			if _, err := conn.Write(bytes.Repeat([]byte{' '}, length)); err != nil {
				t.Fatalf("%s: %v", c.path, err)
			}
		}
		post(size)
		if got := status(t, answers); got != c.status {
			t.Errorf("%s: %d, want %d", c.path, got, c.status)
		}
		post(1)
		_ = status(t, answers)
	}
}

// TestARefusalDoesNotWaitForTheBody: a client hears of it while most of its body is still to be sent, and the connection serves its next request
// when it has been.
func TestARefusalDoesNotWaitForTheBody(t *testing.T) {
	const size = bodyBytesDefault - 1
	b := newBench(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	if _, err := fmt.Fprintf(conn, "POST /v1/api/sql HTTP/1.1\r\nHost: db\r\nContent-Length: %d\r\n\r\n{", size); err != nil {
		t.Fatal(err)
	}
	if got := status(t, answers); got != http.StatusUnauthorized {
		t.Errorf("%d", got)
	}
	if _, err := conn.Write(bytes.Repeat([]byte{' '}, size-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST /v1/api/sql HTTP/1.1\r\nHost: db\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := status(t, answers); got != http.StatusUnauthorized {
		t.Errorf("the next request: %d", got)
	}
}

// TestABodyNobodyAskedForIsNotAwaited: a client that asks before it sends is refused, and neither is told to go on.
func TestABodyNobodyAskedForIsNotAwaited(t *testing.T) {
	b := newBench(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /v1/api/sql HTTP/1.1\r\nHost: db\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := status(t, bufio.NewReader(conn)); got != http.StatusUnauthorized {
		t.Errorf("%d", got)
	}
}

func status(t *testing.T, answers *bufio.Reader) int {
	t.Helper()
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := new(bytes.Buffer).ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}
