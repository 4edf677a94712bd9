package sqlfront

// Export is EXPORT USER DATA and SHOW EXPORT.
type Export struct {
	Source
	Show bool
}

// Command names the statement.
func (s *Export) Command() string {
	if s.Show {
		return "SHOW EXPORT"
	}
	return "EXPORT USER DATA"
}
