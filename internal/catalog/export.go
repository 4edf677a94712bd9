package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// exportPrefix begins the ids of exports, and exportDigits hex digits follow: the time, in milliseconds.
	exportPrefix = "UE-"
	exportDigits = 12
	// exportGood is how long the address of an export is good for; exportAhead allows for clocks that differ.
	exportGood  = 24 * time.Hour
	exportAhead = time.Minute
)

// ExportID names an export that is asked for at a time. Nothing is stored of an export: its id says when it was asked for.
func ExportID(now time.Time) string {
	return fmt.Sprintf("%s%0*x", exportPrefix, exportDigits, now.UnixMilli())
}

// ParseExportID reads when an export was asked for; false for what names no export that may still be fetched.
func ParseExportID(id string, now time.Time) (asked time.Time, ok bool) {
	digits, found := strings.CutPrefix(id, exportPrefix)
	if !found || len(digits) != exportDigits || strings.ToLower(digits) != digits {
		return time.Time{}, false
	}
	ms, err := strconv.ParseUint(digits, 16, 63)
	if err != nil {
		return time.Time{}, false
	}
	asked = time.UnixMilli(int64(ms))
	age := now.Sub(asked)
	return asked, age < exportGood && age > -exportAhead
}
