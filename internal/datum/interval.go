package datum

import (
	"math"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// intervalUnit is what one of a unit is worth; exactly one field is set.
type intervalUnit struct {
	months, days, us int64
}

var intervalUnits = map[string]intervalUnit{
	"microsecond": {us: 1}, "us": {us: 1}, "usec": {us: 1},
	"millisecond": {us: 1000}, "ms": {us: 1000}, "msec": {us: 1000},
	"second": {us: 1_000_000}, "sec": {us: 1_000_000}, "s": {us: 1_000_000},
	"minute": {us: 60_000_000}, "min": {us: 60_000_000}, "m": {us: 60_000_000},
	"hour": {us: 3_600_000_000}, "hr": {us: 3_600_000_000}, "h": {us: 3_600_000_000},
	"day": {days: 1}, "d": {days: 1}, "week": {days: 7}, "w": {days: 7},
	"month": {months: 1}, "mon": {months: 1}, "year": {months: 12}, "yr": {months: 12}, "y": {months: 12},
	"decade": {months: 120}, "century": {months: 1200}, "centurie": {months: 1200},
	"millennium": {months: 12000},
}

// ParseInterval reads PostgreSQL's interval text: '1 day', '2 hours 30 min ago', '1.5 days',
// '3 days 04:05:06', 'P1Y2M3DT4H5M6S'.
func ParseInterval(text string) (Datum, error) {
	var sum intervalSum
	trimmed := strings.ToLower(strings.TrimSpace(text))
	ok := trimmed != ""
	if strings.HasPrefix(trimmed, "p") {
		ok = sum.iso(trimmed[1:])
	} else if ok {
		ok = sum.words(trimmed)
	}
	if !ok {
		return Null, dberr.New(dberr.InvalidArgument, "invalid INTERVAL: %s", quoteShort(text))
	}
	d, ok := sum.datum()
	if !ok {
		return Null, dberr.New(dberr.ValueOutOfRange, "INTERVAL out of range: %s", quoteShort(text))
	}
	return d, nil
}

// intervalSum adds up the parts; float64 holds every in-range whole number of months, days and
// seconds exactly, microseconds are kept apart as integers.
type intervalSum struct {
	months, days float64
	us           int64
	over         bool
}

func (s *intervalSum) datum() (Datum, bool) {
	if s.over || math.Abs(s.months) > math.MaxInt32 || math.Abs(s.days) > math.MaxInt32 {
		return Null, false
	}
	return Interval(int32(s.months), int32(s.days), s.us), true
}

// add adds number units; a fraction of a month becomes days (30 a month), of a day microseconds.
func (s *intervalSum) add(number string, u intervalUnit) bool {
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "xpn_i") {
		return false
	}
	switch {
	case u.months != 0:
		whole, frac := math.Modf(v * float64(u.months))
		s.months += whole
		s.addDays(frac * daysPerMonth)
	case u.days != 0:
		s.addDays(v * float64(u.days))
	default:
		s.addMicros(number, v, u.us)
	}
	return true
}

func (s *intervalSum) addDays(v float64) {
	whole, frac := math.Modf(v)
	s.days += whole
	s.addUS(math.RoundToEven(frac * usPerDay))
}

func (s *intervalSum) addMicros(number string, v float64, unit int64) {
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		us, ok := mulInt64(n, unit)
		s.over = s.over || !ok
		s.addExact(us)
		return
	}
	s.addUS(math.RoundToEven(v * float64(unit)))
}

func (s *intervalSum) addUS(v float64) {
	if math.Abs(v) >= 1<<63 {
		s.over = true
		return
	}
	s.addExact(int64(v))
}

func (s *intervalSum) addExact(us int64) {
	sum := s.us + us
	s.over = s.over || (sum > s.us) != (us > 0) && us != 0
	s.us = sum
}

func (s *intervalSum) words(text string) bool {
	fields := splitIntervalWords(text)
	ago := len(fields) > 1 && fields[len(fields)-1] == "ago"
	if ago {
		fields = fields[:len(fields)-1]
	}
	for i := 0; i < len(fields); i++ {
		number := fields[i]
		switch {
		case strings.Contains(number, ":"):
			if !s.clock(number) {
				return false
			}
		case i+1 == len(fields): // a bare number counts seconds
			if !s.add(number, intervalUnits["second"]) {
				return false
			}
		default:
			u, ok := findIntervalUnit(fields[i+1])
			if !ok || !s.add(number, u) {
				return false
			}
			i++
		}
	}
	if ago {
		s.months, s.days, s.us = -s.months, -s.days, -s.us
		s.over = s.over || s.us == math.MinInt64
	}
	return true
}

// splitIntervalWords splits at spaces and between a number and the unit glued to it: 5min.
func splitIntervalWords(text string) (words []string) {
	for _, f := range strings.Fields(text) {
		cut := strings.IndexFunc(f, func(r rune) bool { return r >= 'a' && r <= 'z' })
		if cut > 0 && !strings.Contains(f, ":") {
			words = append(words, f[:cut], f[cut:])
			continue
		}
		words = append(words, f)
	}
	return words
}

func findIntervalUnit(word string) (intervalUnit, bool) {
	if u, ok := intervalUnits[word]; ok {
		return u, true
	}
	u, ok := intervalUnits[strings.TrimSuffix(word, "s")]
	return u, ok
}

// clock adds [-]HH:MM[:SS[.ffffff]].
func (s *intervalSum) clock(text string) bool {
	neg := strings.HasPrefix(text, "-")
	parts := strings.Split(strings.TrimLeft(text, "+-"), ":")
	if len(parts) > 3 {
		return false
	}
	part := intervalSum{}
	for i, unit := range []string{"hour", "minute", "second"}[:len(parts)] {
		if parts[i] == "" || !strings.ContainsRune("0123456789", rune(parts[i][0])) || !part.add(parts[i], intervalUnits[unit]) {
			return false
		}
	}
	s.over = s.over || part.over
	if neg {
		part.us = -part.us
	}
	s.addExact(part.us)
	return true
}

// iso adds what follows the P of ISO 8601: 1Y2M3DT4H5M6S.
func (s *intervalSum) iso(text string) bool {
	if text == "" || text == "t" {
		return false
	}
	dateUnits := map[byte]string{'y': "year", 'm': "month", 'w': "week", 'd': "day"}
	timeUnits := map[byte]string{'h': "hour", 'm': "minute", 's': "second"}
	units := dateUnits
	for text != "" {
		if text[0] == 't' {
			units, text = timeUnits, text[1:]
			continue
		}
		end := strings.IndexAny(text, "ymwdhst")
		if end <= 0 {
			return false
		}
		name, ok := units[text[end]]
		if !ok || !s.add(text[:end], intervalUnits[name]) {
			return false
		}
		text = text[end+1:]
	}
	return true
}

// appendInterval writes PostgreSQL's style: 1 year 2 mons 3 days 04:05:06.
func appendInterval(dst []byte, d Datum) []byte {
	months, days, us := d.AsInterval()
	start := len(dst)
	for _, p := range []struct {
		n    int64
		unit string
	}{{int64(months) / 12, "year"}, {int64(months) % 12, "mon"}, {int64(days), "day"}} {
		if p.n == 0 {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		dst = strconv.AppendInt(dst, p.n, 10)
		dst = append(append(dst, ' '), p.unit...)
		if p.n != 1 {
			dst = append(dst, 's')
		}
	}
	if us == 0 && len(dst) > start {
		return dst
	}
	if len(dst) > start {
		dst = append(dst, ' ')
	}
	if us < 0 {
		dst = append(dst, '-')
	}
	abs := absInt64(us)
	if abs > math.MaxInt64 { // only -2^63
		abs = math.MaxInt64
	}
	return appendClock(dst, int64(abs))
}
