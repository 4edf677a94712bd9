package datum

import (
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// yearMax is the last whole year that microseconds since 1970 can express.
	yearMax = 294246
	// zoneMinutesMax is PostgreSQL's limit of a numeric time zone: just under 16 hours.
	zoneMinutesMax = 16*60 - 1
)

// Days counts the days from 1970-01-01 to a date of the Gregorian calendar.
func Days(year, month, day int64) int64 {
	if month <= 2 { // count years from March, so that the leap day comes last
		year--
		month += 12
	}
	era, yearOfEra := floorDiv(year, 400)
	dayOfYear := (153*(month-3)+2)/5 + day - 1
	return era*146097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719468
}

// Civil is the inverse of Days.
func Civil(days int64) (year, month, day int64) {
	era, dayOfEra := floorDiv(days+719468, 146097)
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153
	year, month, day = era*400+yearOfEra, m+3, dayOfYear-(153*m+2)/5+1
	if month > 12 {
		return year + 1, month - 12, day
	}
	return year, month, day
}

// DaysInMonth is the length of a month.
func DaysInMonth(year, month int64) int64 {
	next, nextYear := month+1, year
	if next > 12 {
		next, nextYear = 1, year+1
	}
	return Days(nextYear, next, 1) - Days(year, month, 1)
}

// SplitTimestamp splits microseconds since 1970 into days and microseconds of the day.
func SplitTimestamp(us int64) (days, ofDay int64) { return floorDiv(us, usPerDay) }

// textScanner reads date and time text from the left.
type textScanner struct {
	rest string
	bad  bool
}

// digits reads min to max digits.
func (s *textScanner) digits(least, most int) int64 {
	n := 0
	for n < len(s.rest) && n < most && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	if n < least {
		s.bad = true
		return 0
	}
	v, _ := strconv.ParseInt(s.rest[:n], 10, 64) // at most 6 digits
	s.rest = s.rest[n:]
	return v
}

func (s *textScanner) accept(chars string) bool {
	if s.rest != "" && strings.IndexByte(chars, s.rest[0]) >= 0 {
		s.rest = s.rest[1:]
		return true
	}
	return false
}

func (s *textScanner) expect(chars string) {
	if !s.accept(chars) {
		s.bad = true
	}
}

// date reads YYYY-MM-DD.
func (s *textScanner) date() (days int64) {
	year := s.digits(4, 6)
	s.expect("-")
	month := s.digits(1, 2)
	s.expect("-")
	day := s.digits(1, 2)
	if s.bad || year < 1 || year > yearMax || month < 1 || month > 12 || day < 1 || day > DaysInMonth(year, month) {
		s.bad = true
		return 0
	}
	return Days(year, month, day)
}

// clock reads HH:MM[:SS[.ffffff]]; more digits are rounded.
func (s *textScanner) clock() (us int64) {
	hour := s.digits(1, 2)
	s.expect(":")
	minute := s.digits(2, 2)
	var second, micro int64
	if s.accept(":") {
		second = s.digits(2, 2)
		if s.accept(".,") {
			micro = s.fraction()
		}
	}
	if hour > 24 || minute > 59 || second > 59 || hour == 24 && (minute|second|micro) != 0 {
		s.bad = true
	}
	return ((hour*60+minute)*60+second)*1_000_000 + micro
}

func (s *textScanner) fraction() (micro int64) {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		if n < 6 {
			micro = micro*10 + int64(s.rest[n]-'0')
		}
		n++
	}
	for i := n; i < 6; i++ {
		micro *= 10
	}
	if n > 6 && s.rest[6] >= '5' {
		micro++
	}
	s.rest = s.rest[n:]
	return micro
}

// zone reads Z or ±HH[[:]MM] and returns the microseconds east of UTC.
func (s *textScanner) zone() int64 {
	s.rest = strings.TrimLeft(s.rest, " ")
	if s.rest == "" || s.accept("Zz") {
		return 0
	}
	if strings.EqualFold(s.rest, "UTC") {
		s.rest = ""
		return 0
	}
	sign := int64(1)
	if s.accept("-") {
		sign = -1
	} else {
		s.expect("+")
	}
	minutes := s.digits(2, 2) * 60
	if s.accept(":") || s.rest != "" {
		part := s.digits(2, 2)
		if part > 59 {
			s.bad = true
		}
		minutes += part
	}
	if minutes > zoneMinutesMax {
		s.bad = true
	}
	return sign * minutes * 60 * 1_000_000
}

// parseTimestamp reads ISO 8601 text; a zone moves the result to UTC, no zone means UTC.
func parseTimestamp(t catalog.Type, text string) (Datum, error) {
	s := textScanner{rest: strings.TrimSpace(text)}
	days := s.date()
	var ofDay, zone int64
	if !s.bad && s.rest != "" {
		if s.accept("Tt ") {
			s.rest = strings.TrimLeft(s.rest, " ")
			ofDay = s.clock()
		}
		zone = s.zone()
	}
	if s.bad || s.rest != "" {
		return Null, badText(t, text)
	}
	return Timestamp(days*usPerDay + ofDay - zone), nil
}

// parseDate reads a date; a time after it is checked and dropped, as PostgreSQL does.
func parseDate(t catalog.Type, text string) (Datum, error) {
	s := textScanner{rest: strings.TrimSpace(text)}
	days := s.date()
	if !s.bad && s.accept("Tt ") {
		s.clock()
		s.zone()
	}
	if s.bad || s.rest != "" {
		return Null, badText(t, text)
	}
	return Date(days), nil
}

func parseTime(t catalog.Type, text string) (Datum, error) {
	s := textScanner{rest: strings.TrimSpace(text)}
	us := s.clock()
	if s.bad || s.rest != "" {
		return Null, badText(t, text)
	}
	return Time(us), nil
}

func badText(t catalog.Type, text string) error {
	return dberr.New(dberr.InvalidArgument, "invalid %s: %s", t, quoteShort(text))
}

// quotedTextMax bounds how much of a user's value an error repeats.
const quotedTextMax = 64

func quoteShort(text string) string {
	if len(text) > quotedTextMax {
		return strconv.Quote(text[:quotedTextMax]) + "…"
	}
	return strconv.Quote(text)
}

func appendDate(dst []byte, days int64) []byte {
	year, month, day := Civil(days)
	if year < 1 { // before the common era there is no year 0
		return append(appendYMD(dst, 1-year, month, day), " BC"...)
	}
	return appendYMD(dst, year, month, day)
}

func appendYMD(dst []byte, year, month, day int64) []byte {
	dst = appendPadded(dst, year, 4)
	dst = append(dst, '-')
	dst = appendPadded(dst, month, 2)
	dst = append(dst, '-')
	return appendPadded(dst, day, 2)
}

// appendClock writes HH:MM:SS and a fraction without trailing zeros.
func appendClock(dst []byte, us int64) []byte {
	dst = appendPadded(dst, us/3_600_000_000, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, us/60_000_000%60, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, us/1_000_000%60, 2)
	micro := us % 1_000_000
	if micro == 0 {
		return dst
	}
	dst = append(dst, '.')
	dst = appendPadded(dst, micro, 6)
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

func appendPadded(dst []byte, v int64, width int) []byte {
	digits := strconv.FormatInt(v, 10)
	for range width - len(digits) {
		dst = append(dst, '0')
	}
	return append(dst, digits...)
}
