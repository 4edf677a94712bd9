package scaling

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of CPU time in /proc on every Linux (USER_HZ), whatever the kernel's own clock is.
const ticksPerSecond = 100

// usage is what a process has used since it began, and what it holds now.
type usage struct {
	at       time.Time
	cpu      time.Duration
	resident int64
	// written and calls are bytes and calls of write, to sockets and files alike; stored is what went to disks.
	written, calls, stored int64
}

// usageOf reads a process's counters.
func usageOf(pid int) (usage, error) {
	read := func(name string) ([]byte, error) { return os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name)) }
	stat, err := read("stat")
	if err != nil {
		return usage{}, err
	}
	u := usage{at: time.Now()}
	if u.cpu, err = cpuTime(stat); err != nil {
		return usage{}, err
	}
	status, err := read("status")
	if err != nil {
		return usage{}, err
	}
	kib, err := field(status, "VmRSS:")
	if err != nil {
		return usage{}, err
	}
	u.resident = kib << 10
	io, err := read("io")
	if err != nil {
		return usage{}, err
	}
	for name, into := range map[string]*int64{"wchar:": &u.written, "syscw:": &u.calls, "write_bytes:": &u.stored} {
		if *into, err = field(io, name); err != nil {
			return usage{}, err
		}
	}
	return u, nil
}

// cpuTime is user and system time in /proc/PID/stat. The second field is the program's name in parentheses, which
// may contain anything, so counting starts behind the last parenthesis.
func cpuTime(stat []byte) (time.Duration, error) {
	const user, system = 14 - 3, 15 - 3 // proc(5) counts from 1, and two fields are cut off
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc stat has %d fields", len(fields))
	}
	var ticks int64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// field is the number behind a name in the files of /proc that have one line for each.
func field(file []byte, name string) (int64, error) {
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.Fields(rest + " -")[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc %s %w", name, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("/proc has no %s", name)
}

// machine is the CPU time of all cores since they were started.
type machine struct{ busy, all float64 }

// machineNow reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
func machineNow() (machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, err
	}
	return parseMachine(string(b))
}

func parseMachine(stat string) (machine, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	const idle, iowait, steal = 4, 5, 8
	if len(fields) <= steal || fields[0] != "cpu" {
		return machine{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var m machine
	for i, text := range fields[1 : steal+1] {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return machine{}, fmt.Errorf("/proc/stat: %w", err)
		}
		if m.all += n; i+1 != idle && i+1 != iowait {
			m.busy += n
		}
	}
	return m, nil
}

// busySince is the share of all cores that anybody used.
func (m machine) busySince(before machine) float64 {
	return (m.busy - before.busy) / (m.all - before.all)
}
