package hosts

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// reaches reports whether a datagram's echo comes back in time.
func reaches(t *testing.T, from, to *Host) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args := from.Command("bash", "-c", "exec 3<>/dev/tcp/"+to.Addr+"/7700 && head -c 2 <&3 >/dev/null")
	cmd := exec.CommandContext(ctx, "timeout", append([]string{"2"}, args...)...)
	return cmd.Run() == nil
}

func TestHosts(t *testing.T) {
	ctx := context.Background()
	n, err := New(ctx, "kdbt", 251)
	if err != nil {
		t.Skip(err)
	}
	defer n.Close(ctx)
	var hs []*Host
	for _, name := range []string{"a", "b"} {
		h, err := n.Add(ctx, name)
		if err != nil {
			t.Skip("this kernel makes no namespaces here: ", err)
		}
		args := h.Command("python3", "-c", `
import socket
s = socket.create_server(("0.0.0.0", 7700))
print("ready", flush=True)
while True:
    c, _ = s.accept()
    c.send(b"ok")
    c.close()`)
		cmd := exec.Command(args[0], args[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Skip(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		if _, err := out.Read(make([]byte, 5)); err != nil {
			t.Skip("no python3: ", err)
		}
		hs = append(hs, h)
	}
	a, b := hs[0], hs[1]
	if !reaches(t, a, b) || !reaches(t, b, a) {
		t.Fatal("hosts do not reach each other")
	}
	if err := a.Cut(ctx, b); err != nil {
		t.Fatal(err)
	}
	if reaches(t, a, b) {
		t.Error("a reaches b though the way is cut")
	}
	if err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, a, b) {
		t.Error("healed, a does not reach b")
	}
	if err := b.Down(ctx); err != nil {
		t.Fatal(err)
	}
	if reaches(t, a, b) {
		t.Error("a reaches b, which is down")
	}
	if err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	for _, percent := range []int{50, 100} {
		if err := b.Lossy(ctx, percent); err != nil {
			t.Fatal(err)
		}
	}
	if reaches(t, a, b) {
		t.Error("a reaches b, which loses everything")
	}
	if err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, a, b) {
		t.Error("healed, b loses packets")
	}
	if err := a.Slow(ctx, 64, 200); err != nil {
		t.Fatal(err)
	}
	if err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, b, a) {
		t.Error("healed, b does not reach a")
	}
}
