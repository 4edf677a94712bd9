// Package robustness checks what a cluster promises while it is being broken: random load and random
// faults make a history, and the history is checked afterwards.
//
//   - linear.go: the operations of each partition are linearizable (porcupine).
//   - follow.go: every subscription saw exactly the partition's changes: bookmarkable, ordered,
//     unique, atomic, reliable, resumable, previous value right, creation flag right, filter right, and
//     the snapshot's handover.
//   - load.go and subscriber.go make the history, fault.go breaks the cluster, run.go is one run.
//
// A partition here is a table of ten keys, so that operations meet often. Values are never written
// twice: a value read names the write that it came from.
package robustness
