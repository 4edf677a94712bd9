package robustness

import (
	"slices"
	"time"
)

// longestGap is the longest time between two acknowledgements of writes.
func longestGap(ops []Operation) time.Duration {
	var acks []int64
	for i := range ops {
		if o := &ops[i]; o.Kind != Read && o.Outcome != Unknown {
			acks = append(acks, o.Ended)
		}
	}
	slices.Sort(acks)
	longest := int64(0)
	for i := 1; i < len(acks); i++ {
		longest = max(longest, acks[i]-acks[i-1])
	}
	return time.Duration(longest)
}
