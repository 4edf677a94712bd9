package celljson

import (
	"strconv"
	"time"
)

const (
	microsPerSecond = 1_000_000
	secondsPerDay   = 86_400
)

// appendTimestamp takes microseconds since the Unix epoch.
func appendTimestamp(dst []byte, us int64, d Dialect) []byte {
	if d != Seed {
		return appendInt(dst, us, false, d)
	}
	sec, micros := floorDiv(us, microsPerSecond)
	days, inDay := floorDiv(sec, secondsPerDay)
	dst = appendCalendarDay(append(dst, '"'), days)
	dst = appendClock(append(dst, 'T'), inDay, micros)
	return append(dst, 'Z', '"')
}

// appendDate takes days since the Unix epoch.
func appendDate(dst []byte, days int64, d Dialect) []byte {
	if d != Seed {
		return appendInt(dst, days, false, d)
	}
	return append(appendCalendarDay(append(dst, '"'), days), '"')
}

// appendTime takes microseconds since midnight.
func appendTime(dst []byte, us int64, d Dialect) []byte {
	if d != Seed {
		return appendInt(dst, us, false, d)
	}
	sec, micros := floorDiv(us, microsPerSecond)
	return append(appendClock(append(dst, '"'), sec, micros), '"')
}

// appendCalendarDay writes YYYY-MM-DD; years outside 0000–9999 have a sign and at least six digits, as
// ISO 8601 and JavaScript have them.
func appendCalendarDay(dst []byte, days int64) []byte {
	year, month, day := time.Unix(days*secondsPerDay, 0).UTC().Date()
	if year >= 0 && year <= 9999 {
		dst = appendPadded(dst, int64(year), 4)
	} else if year < 0 {
		dst = appendPadded(append(dst, '-'), int64(-year), 6)
	} else {
		dst = appendPadded(append(dst, '+'), int64(year), 6)
	}
	dst = appendPadded(append(dst, '-'), int64(month), 2)
	return appendPadded(append(dst, '-'), int64(day), 2)
}

// appendClock writes HH:MM:SS, with a fraction of six digits when there is one.
func appendClock(dst []byte, sec, micros int64) []byte {
	dst = appendPadded(dst, sec/3600, 2)
	dst = appendPadded(append(dst, ':'), sec/60%60, 2)
	dst = appendPadded(append(dst, ':'), sec%60, 2)
	if micros != 0 {
		dst = appendPadded(append(dst, '.'), micros, 6)
	}
	return dst
}

func appendPadded(dst []byte, v int64, width int) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], v, 10)
	for range width - len(text) {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}

func floorDiv(a, b int64) (quotient, remainder int64) {
	quotient, remainder = a/b, a%b
	if remainder < 0 {
		quotient, remainder = quotient-1, remainder+b
	}
	return quotient, remainder
}
